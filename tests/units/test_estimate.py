"""What a run will cost, from shapes alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from binllm.configuration import compose_run
from binllm.errors import BinllmError
from binllm.estimate import estimate
from binllm.models import Family, ModelConfig, Source, load_model
from binllm.models.geometry import Geometry, Shape, geometry_of
from binllm.schema import RunConfig, build


def llama(hidden: int, inner: int, narrow: int, blocks: int, vocabulary: int) -> Geometry:
    """A LLaMA; ``narrow`` outputs of k and v."""
    stages = (
        (Shape(hidden, hidden, "q"), Shape(narrow, hidden, "k"), Shape(narrow, hidden, "v")),
        (Shape(hidden, hidden, "o"),),
        (Shape(inner, hidden, "gate"), Shape(inner, hidden, "up")),
        (Shape(hidden, inner, "down"),),
    )
    entries = sum(layer.entries for stage in stages for layer in stage)
    return Geometry(blocks, stages, (vocabulary, hidden), blocks * entries + vocabulary * hidden)


SMOLLM2 = llama(576, 1536, 192, blocks=30, vocabulary=49152)
LLAMA2_7B = llama(4096, 11008, 4096, blocks=32, vocabulary=32000)
# Seconds of quantize, five times those of six of its 30 blocks, and highest resident bytes up to there: SmolLM2, a quiet
# machine, one thread.
MEASURED = {"rtn": (82.6, 1.69e9), "xnor": (68.6, 1.68e9), "one_plane": (122.7, 1.69e9), "q1_0": (180.7, 1.68e9)}


@cache
def configured(*overrides: str) -> RunConfig:
    return build(compose_run(["threads=1", *overrides]))


@pytest.mark.parametrize("method", MEASURED)
def test_measured_runs_are_met(method: str):
    found = estimate(configured(f"method={method}"), SMOLLM2, windows=20)
    seconds, peak = MEASURED[method]
    assert found.seconds_by_phase["quantize"] == pytest.approx(seconds, rel=0.15)
    assert found.bytes == pytest.approx(peak, rel=0.15)


def test_time_is_linear_in_blocks_and_in_tokens():
    def quantize(overrides: list[str], geometry: Geometry) -> float:
        return estimate(configured(*overrides), geometry, 20).seconds_by_phase["quantize"]

    assert quantize([], replace(SMOLLM2, blocks=60)) == pytest.approx(2 * quantize([], SMOLLM2))
    times = [quantize([f"dataset.sequences={count}"], SMOLLM2) for count in (16, 32, 48)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0])
    assert times[1] - times[0] < times[0], "fits do not depend on the tokens"


def test_activations_take_their_bytes_unless_they_are_on_disk():
    memory = estimate(configured(), SMOLLM2, 20).bytes_by_phase["quantize"]
    disk = estimate(configured("calibration.storage=disk"), SMOLLM2, 20).bytes_by_phase["quantize"]
    assert memory - disk == 16 * 512 * (2 * 576 + 3 * 576 + 1536) * 4


def test_half_the_bytes_of_a_weight_save_half_the_weights():
    wide, narrow = (
        estimate(configured("calibration.storage=disk", f"model.dtype={dtype}"), SMOLLM2, 20).bytes_by_phase["quantize"]
        for dtype in ("float32", "bfloat16")
    )
    assert wide - narrow == pytest.approx(2 * SMOLLM2.parameters, rel=0.03)  # some of a block may be packed by then


def test_measuring_stage_by_stage_takes_more_time_and_less_memory():
    group, block = (
        estimate(configured("calibration.storage=disk", f"calibration.granularity={one}"), LLAMA2_7B, 20)
        for one in ("group", "block")
    )
    assert group.seconds_by_phase["quantize"] > block.seconds_by_phase["quantize"]
    assert group.bytes_by_phase["quantize"] <= block.bytes_by_phase["quantize"]


def test_a_solver_that_was_never_measured_has_no_time():
    config = configured()
    unknown = replace(config, solver=replace(config.solver, name="my_solver"))  # type: ignore[type-var]
    found = estimate(unknown, SMOLLM2, 20)
    assert found.seconds is None
    assert found.bytes == estimate(config, SMOLLM2, 20).bytes


def test_the_shapes_of_a_model_are_those_of_its_weights(tmp_path: Path):
    loaded = load_model(ModelConfig(name="tiny", source=Source.random, family=Family.llama))
    loaded.model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    found = geometry_of(ModelConfig(name="saved", source=Source.folder, path=str(tmp_path)))
    weight = {name: tuple(one.shape) for name, one in loaded.model.named_parameters()}
    assert found.stages[3] == (Shape(*weight["model.layers.0.mlp.down_proj.weight"], "down"),)
    assert [layer.role for layer in found.layers] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert found.parameters == sum(one.numel() for one in loaded.model.parameters())
    assert found.blocks == 3


def test_a_model_that_is_not_at_hand_is_named():
    with pytest.raises(BinllmError, match=r"model\.id = nobody/nothing: the model's shapes are not known here"):
        geometry_of(ModelConfig(name="none", id="nobody/nothing", local_files_only=True))
