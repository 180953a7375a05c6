"""The diagnosis of a run is what a plain comparison of the two models says, and it reaches every file and W&B."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from helpers_command import Preloaded
from helpers_wandb import read_offline
from torch import Tensor, nn
from transformers import PreTrainedModel

from binllm.configuration import compose_run
from binllm.diagnostics import read_diagnostics
from binllm.diagnostics.block_loss import block_losses
from binllm.diagnostics.diagnosis import Diagnosis
from binllm.diagnostics.series import block_series, summarise
from binllm.diagnostics.table import to_table
from binllm.inner_loop import Events, fit_layers, open_streams, quantize_blocks
from binllm.measuring import Measured
from binllm.models import Attention, Family, ModelConfig, Source, decoder_blocks, linear_layers, load_model
from binllm.objectives import OutputAlign, WeightAlign
from binllm.pipeline import plan_of
from binllm.schema import build
from binllm.statistics import Moments
from binllm.tracking.config import TrackerConfig
from binllm.tracking.folder import RunFolder, RunPaths
from binllm.tracking.wandb_exporter import export_run
from pipelines.runs import TINY, only_run, record

IDS = torch.randint(3, 512, (5, 24), generator=torch.Generator().manual_seed(7))  # the last batch is a smaller one
WORDS = ("solver=closed_form", "calibration.batch=2", "diagnostics.sequences=null")


class Diagnosed(NamedTuple):
    """A model, the same quantized, and the diagnosis."""

    full: PreTrainedModel
    quantized: PreTrainedModel
    table: pd.DataFrame

    def blocks(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Those of both models."""
        path, blocks = decoder_blocks(self.full)
        return blocks, self.quantized.get_submodule(path)  # type: ignore[return-value]

    def hidden_states(self) -> list[list[Tensor]]:
        """Of both models: before the first and after every block."""
        pair = zip((self.full, self.quantized), self.blocks(), strict=True)
        return [hidden_states(model, blocks) for model, blocks in pair]

    def values(self, metric: str, layer: str = "") -> list[list[float]]:
        """The series of every block."""
        rows = self.table[(self.table["metric"] == metric) & (self.table["layer"] == layer)]
        return [group["value"].tolist() for _, group in rows.groupby("block")]


def fresh(family: Family, attention: Attention) -> PreTrainedModel:
    return load_model(ModelConfig(name="tiny", source=Source.random, family=family, attention=attention)).model


def diagnosed(family: Family, attention: Attention = Attention.sdpa, *words: str) -> Diagnosed:
    config = build(compose_run((*WORDS, *words)))
    model, plan = fresh(family, attention), plan_of(config)
    full, diagnosis, rows = copy.deepcopy(model), Diagnosis(config.diagnostics, plan), []
    events = Events(begin=diagnosis.begin, block=lambda *block: rows.extend(diagnosis.finish(*block)))
    layers = quantize_blocks(open_streams(model, IDS, plan), plan, events)
    table = to_table(rows)
    for layer in layers:  # the records of the layers say the same
        of_layer = table[(table["block"] == layer.block) & (table["layer"] == layer.layer)]
        assert layer.diagnostics == dict(zip(of_layer["metric"], of_layer["value"], strict=True))
    return Diagnosed(full, model, table)


@torch.no_grad()
def hidden_states(model: PreTrainedModel, blocks: nn.ModuleList) -> list[Tensor]:
    """Before the first and after every block."""
    caught: list[Tensor] = []
    hooks = [
        blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: caught.append(_hidden(args, kwargs)), with_kwargs=True
        )
    ]
    hooks += [
        b.register_forward_hook(lambda _, args, out: caught.append(out[0] if isinstance(out, tuple) else out))
        for b in blocks
    ]
    model(input_ids=IDS, use_cache=False)
    for hook in hooks:
        hook.remove()
    return caught


def _hidden(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


@pytest.mark.parametrize("family", [Family.llama, Family.opt, Family.phi3])
def test_it_is_what_the_two_models_show(family: Family):
    """The reference: both whole models with eager attention, which returns its probabilities."""
    found = diagnosed(family, Attention.eager)
    states, states_hat = found.hidden_states()
    with torch.no_grad():
        maps, maps_hat = (
            model(input_ids=IDS, use_cache=False, output_attentions=True).attentions
            for model in (found.full, found.quantized)
        )
    for block in range(len(states) - 1):
        y, y_hat = states[block + 1].double(), states_hat[block + 1].double()
        total = float((y - y_hat).square().sum() / y.square().sum())
        assert found.values("accumulation/total")[block] == pytest.approx([total], rel=1e-4)
        assert found.values("stream/drift")[block] == pytest.approx([total**0.5], rel=1e-4)
        variation = (maps[block] - maps_hat[block]).abs().sum(-1)[:, :, 1:].mean((0, 2)) / 2
        assert found.values("attention/total_variation")[block] == pytest.approx(variation.tolist(), rel=1e-4)
    assert found.values("accumulation/inherited")[0] == [0.0]  # nothing drifts before the first block
    assert found.values("accumulation/new")[0] == pytest.approx(found.values("accumulation/total")[0])


def test_the_observer_changes_no_attention():
    observed, plain = diagnosed(Family.llama), diagnosed(Family.llama, Attention.sdpa, "diagnostics=none")
    assert all(map(torch.equal, observed.hidden_states()[1], plain.hidden_states()[1]))
    assert plain.table.empty


def test_layers_of_the_quantized_model_meet_its_own_inputs():
    found = diagnosed(Family.llama)
    name = "mlp.down_proj"
    caught: list[Tensor] = []
    pair = [blocks[1].get_submodule(name) for blocks in found.blocks()]
    hooks = [layer.register_forward_pre_hook(lambda _, args: caught.append(args[0])) for layer in pair]
    found.hidden_states()
    for hook in hooks:
        hook.remove()
    (x, x_hat), weight = (one.double() for one in caught), pair[0].weight.double()
    weight_hat = pair[1].dense_weight(torch.float64)  # type: ignore[operator]
    target, conditioned, output = x @ weight.T, x_hat @ weight.T, x_hat @ weight_hat.T
    wanted = {
        "stream/weight_error": (weight - weight_hat).square().sum() / weight.square().sum(),
        "stream/conditioned_error": (conditioned - output).square().sum() / conditioned.square().sum(),
        "stream/output_error": (target - output).square().sum() / target.square().sum(),
        "stream/output_energy": output.square().sum() / target.square().sum(),
        "stream/drift": (x - x_hat).norm() / x.norm(),
    }
    for metric, value in wanted.items():
        assert found.values(metric, name)[1] == pytest.approx([float(value)], rel=1e-4), metric


@torch.no_grad()
def test_the_block_loss_is_that_of_one_layer_quantized_by_hand():
    plan = plan_of(build(compose_run(WORDS)))
    model = fresh(Family.llama, Attention.sdpa)
    streams = open_streams(model, IDS, plan)
    block, objectives = streams.blocks[0], [WeightAlign(), OutputAlign()]
    untouched = copy.deepcopy(block)
    found = {(layer, name): loss for layer, name, loss in block_losses(streams, block, plan, objectives, streams.spans)}
    assert len(found) == 2 * len(linear_layers(block))
    assert all(map(torch.equal, block.state_dict().values(), untouched.state_dict().values()))

    caught: list[Tensor] = []
    linear = block.get_submodule("self_attn.o_proj")
    hook = linear.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    y = torch.cat([streams.call(block, streams.x[span]) for span in streams.spans])
    hook.remove()
    moments = Moments(linear.in_features)  # type: ignore[arg-type]
    for x in caught:
        moments.add(x, x)
    _, _, [packed] = fit_layers([linear], objectives[1], plan.binarization, Measured(moments.statistics()), plan)  # type: ignore[list-item]
    block.set_submodule("self_attn.o_proj", packed)
    y_hat = torch.cat([streams.call(block, streams.x[span]) for span in streams.spans])
    loss = (y - y_hat).square().sum((1, 2)) / y.square().sum((1, 2))
    assert found["self_attn.o_proj", "output_align"] == pytest.approx(loss.tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def run(command: Preloaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything; not to be changed."""
    folder = tmp_path_factory.mktemp("diagnosed")
    done = command(folder, *TINY, "diagnostics=full")
    assert done.code == 0, done.err
    return only_run(folder / "results").path


def test_parquet_and_csv_and_layer_records_say_the_same(run: Path):
    table = read_diagnostics(run)
    assert list(table.columns) == ["block", "layer", "role", "metric", "index", "value"]
    assert not table.duplicated(["block", "layer", "metric", "index"]).any()
    csv = pd.read_csv(run / "diagnostics.csv", keep_default_na=False).astype(dict(table.dtypes))
    pd.testing.assert_frame_equal(csv, table, check_exact=True)
    assert table["value"].notna().all()
    assert set(table["metric"].str.partition("/")[0]) == {
        "block_loss", "stream", "tokens", "attention", "anisotropy", "accumulation"
    }  # fmt: skip


def test_every_series_summary_and_image_is_in_the_offline_run(run: Path, tmp_path: Path):
    with RunFolder.open(tmp_path, "copy") as folder:
        for file in ("run.json", "config.yaml", "layers.jsonl", "diagnostics.parquet"):
            (folder.path / file).write_bytes((run / file).read_bytes())
        export_run(folder, TrackerConfig(name="wandb", wandb=True), {})
        assert folder.read_record().tracker_error is None  # type: ignore[union-attr]
        offline = read_offline(folder.wandb)
    table = read_diagnostics(run)
    assert offline.axes["diagnostics/*"] == "block/index"
    logged = [row for row in offline.history if "diagnostics/attention/kl" in row]
    assert [row["block/index"] for row in logged] == [0, 1, 2]
    for (block, role, metric), rows in table.groupby(["block", "role", "metric"]):
        name = f"diagnostics/{metric}" + (f"/{role}" if role else "")
        assert logged[int(block)][name] == pytest.approx(rows["value"].mean()), name  # type: ignore[call-overload]
    for name, value in summarise(table).items():
        assert offline.summary[f"diagnostics/{name}"] == value
    marker, end = "figures/", "._type"  # W&B stores an image as nested keys
    images = {
        key.removeprefix(marker).removesuffix(end): value
        for row in offline.history
        for key, value in row.items()
        if key.startswith(marker) and key.endswith(end)
    }
    assert images == dict.fromkeys((path.stem for path in folder.figures.glob("*.png")), "image-file")
    assert {"block_loss", "similarity", "attention", "drift", "shape", "spectra"} <= images.keys()


def test_time_for_diagnostics_is_booked_apart(run: Path):
    seconds = record(RunPaths(run))["seconds"]
    assert seconds["diagnostics"] > 0
    assert seconds["quantize"] > 0


def test_a_proxy_that_orders_the_blocks_as_attention_does_has_rank_correlation_one():
    rows = [(block, "", "", "attention/kl", head, 10.0**block + head) for block in range(4) for head in range(2)]
    rows += [(block, "", "", "attention/proxy_output_error", 0, block / 10) for block in range(4)]
    rows += [(block, "mlp.down_proj", "down", "tokens/output_error", 0, -float(block)) for block in range(4)]
    summary = summarise(to_table(rows))  # type: ignore[arg-type]
    assert summary["attention/proxy_rank_correlation"] == pytest.approx(1.0)
    assert summary["attention/last_layer_rank_correlation"] == pytest.approx(-1.0)
    assert summary["attention/kl"] == pytest.approx(sum(10.0**block for block in range(4)) / 4 + 0.5)
    assert block_series(to_table(rows))[2]["diagnostics/tokens/output_error/down"] == -2.0  # type: ignore[arg-type]


def test_diagnose_prints_runs_side_by_side(command: Preloaded, run: Path):
    done = command(run, "diagnose", str(run), str(run), "--metric", "stream/drift", program="binllm-tools")
    value = f"{summarise(read_diagnostics(run))['stream/drift']:.4g}"
    assert done.code == 0
    assert done.out.count(value) == 2
    assert "attention" not in done.out


def test_bad_input_is_one_line(command: Preloaded, run: Path, tmp_path: Path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "diagnostics.parquet").write_bytes((run / "diagnostics.parquet").read_bytes()[:100])
    (tmp_path / "other").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other" / "diagnostics.parquet")
    (tmp_path / "none").mkdir()
    mistakes = {
        (str(run), "--metric", "atention/kl"): "did you mean 'attention/kl'?",
        (str(tmp_path / "cut"),): "diagnostics.parquet cannot be read as parquet",
        (
            str(tmp_path / "other"),
        ): "diagnostics.parquet: the columns are a instead of block, layer, role, metric, index, value",
        (str(tmp_path / "none"),): "diagnostics.parquet is missing: a run writes it with diagnostics=standard or full",
        (str(tmp_path / "absent"),): "allowed is an existing run folder",
    }
    for words, message in mistakes.items():
        done = command(tmp_path, "diagnose", *words, program="binllm-tools")
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
        assert message in done.err
