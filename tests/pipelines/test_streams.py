"""The dual stream is the two models' own forward, and how it is stored or batched changes no number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from binllm import inner_loop
from binllm.configuration import compose_run
from binllm.errors import BinllmError
from binllm.inner_loop import Events, open_streams, quantize_blocks
from binllm.models import Attention, Family, ModelConfig, Source, decoder_blocks, load_model
from binllm.packing import BinaryLinear, binary_layers
from binllm.pipeline import plan_of
from binllm.quadratic import Problem
from binllm.schema import build
from binllm.solvers import solve
from binllm.streams import DualStream, Storage
from binllm.streams.storage import Activations

BATCH = 2
IDS = torch.randint(3, 512, (5, 24), generator=torch.Generator().manual_seed(7))  # the last batch is a smaller one


class Outcome(NamedTuple):
    """A quantized model, both streams after every block, and the model's blocks."""

    model: PreTrainedModel
    x: list[Tensor]
    x_hat: list[Tensor]
    blocks: nn.ModuleList


def fresh(family: Family, attention: Attention = Attention.sdpa) -> PreTrainedModel:
    return load_model(ModelConfig(name="tiny", source=Source.random, family=family, attention=attention)).model


@cache
def quantized(family: Family, *overrides: str, batch: int = BATCH, attention: Attention = Attention.sdpa) -> Outcome:
    """Run the inner loop; cached because several tests look at one outcome, none changes it."""
    words = ("solver=closed_form", f"calibration.batch={batch}", *overrides)
    plan = plan_of(build(compose_run(words)))
    model = fresh(family, attention)
    _, blocks = decoder_blocks(model)
    x, x_hat = [], []

    def finished(index: int, block: nn.Module, streams, records) -> None:
        x.append(streams.x.clone())
        x_hat.append(streams.x_hat.clone())

    quantize_blocks(open_streams(model, IDS, plan), plan, Events(block=finished))
    return Outcome(model, x, x_hat, blocks)


@contextmanager
def outputs_of(modules: list[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Collect what modules return in the forward passes of the ``with`` block, one list a module."""
    caught: list[list[Tensor]] = [[] for _ in modules]

    def hook(index: int):
        return lambda module, args, out: caught[index].append(out[0] if isinstance(out, tuple) else out)

    handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(modules)]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def forward(model: PreTrainedModel, modules: list[nn.Module], batch: int = BATCH) -> list[Tensor]:
    """The outputs of modules in the model's own forward over all sequences, in batches of the streams' shape."""
    with outputs_of(modules) as caught:
        for ids in IDS.split(batch):
            model(input_ids=ids, use_cache=False)
    return [torch.cat(batches) for batches in caught]


@pytest.mark.parametrize("attention", Attention)  # eager needs the mask that the model itself passes
@pytest.mark.parametrize("granularity", ["block", "group"])
@pytest.mark.parametrize("family", Family)
def test_the_quantized_stream_is_the_quantized_models_own_forward(
    family: Family, granularity: str, attention: Attention
):
    outcome = quantized(family, f"calibration.granularity={granularity}", attention=attention)
    own = forward(outcome.model, list(outcome.blocks))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(outcome.x_hat, own, strict=True))


@pytest.mark.parametrize("family", Family)
def test_the_reference_stream_is_the_full_precision_models_own_forward(family: Family):
    outcome = quantized(family, "calibration.granularity=group")
    model = fresh(family)
    own = forward(model, list(decoder_blocks(model)[1]))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(outcome.x, own, strict=True))
    assert not torch.equal(outcome.x[-1], outcome.x_hat[-1])


@pytest.mark.parametrize("granularity", ["block", "group"])
def test_activations_on_disk_give_the_same_model(granularity: str):
    words = (f"calibration.granularity={granularity}",)
    memory = quantized(Family.llama, *words)
    disk = quantized(Family.llama, *words, "calibration.storage=disk")
    assert_equal_state(memory.model, disk.model)
    assert torch.equal(memory.x_hat[-1], disk.x_hat[-1])


def assert_equal_state(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_first_layers_codes_do_not_depend_on_the_batch():
    """Their input is the embedding, equal in every batch shape; later ones see rounding of the forward pass itself."""
    codes = [binary_layers(quantized(Family.llama, batch=batch).blocks[0]) for batch in (1, 2, 5)]
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        weights = [layers[name].dense_weight(torch.float64) for layers in codes]
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(weights[0], weights[2])


def test_later_layers_of_a_block_see_the_quantized_ones_only_with_granularity_group():
    block, group = (
        binary_layers(quantized(Family.llama, f"calibration.granularity={name}").blocks[0])
        for name in ("block", "group")
    )
    same = {name: torch.equal(block[name].dense_weight(), group[name].dense_weight()) for name in block}
    assert {name for name, equal in same.items() if equal} == {f"self_attn.{letter}_proj" for letter in "qkv"}


@pytest.mark.parametrize("feedback", ["float32", "float64"])
@pytest.mark.parametrize("fit", ["float32", "float64"])
def test_the_solver_works_in_the_precisions_of_the_configuration(
    feedback: str, fit: str, monkeypatch: pytest.MonkeyPatch
):
    seen = set()

    def watched(problem: Problem, binarization: Any, solver: Any, dtype: torch.dtype) -> Any:
        seen.add((problem.weight.dtype, problem.feedback.dtype, dtype))
        return solve(problem, binarization, solver, dtype)

    monkeypatch.setattr(inner_loop, "solve", watched)
    plan = plan_of(build(compose_run([f"calibration.feedback_dtype={feedback}", f"calibration.fit_dtype={fit}"])))
    quantize_blocks(open_streams(fresh(Family.llama), IDS, plan), plan, Events())
    between, inside = getattr(torch, feedback), getattr(torch, fit)
    assert seen == {(between, between, inside)}


@pytest.mark.parametrize("family", Family)
def test_every_linear_layer_of_every_block_is_packed_and_nothing_else_changes(family: Family):
    model, before = quantized(family, "calibration.granularity=group").model, fresh(family)
    packed = binary_layers(model)
    linear = {
        name for name, module in before.named_modules() if isinstance(module, nn.Linear) and "lm_head" not in name
    }
    assert set(packed) == linear
    after = model.state_dict()
    kept = {
        n: t for n, t in before.state_dict().items() if n.removesuffix(".weight").removesuffix(".bias") not in linear
    }
    assert kept
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.items())


def biases(model: nn.Module) -> dict[str, Tensor]:
    kinds = (nn.Linear, BinaryLinear)
    return {n: m.bias for n, m in model.named_modules() if isinstance(m, kinds) and m.bias is not None}


def test_linear_biases_are_kept():
    before, after = biases(fresh(Family.opt)), biases(quantized(Family.opt, "calibration.granularity=group").model)
    assert len(before) == 3 * 6
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_corrected_biases_remove_the_mean_output_error():
    """Of the first block's layers, whose statistics are those of the finished model where they are measured in groups."""
    reference = fresh(Family.opt)
    names = ["self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"]
    wanted = forward(reference, [decoder_blocks(reference)[1][0].get_submodule(name) for name in names])
    errors = []
    for corrected in ("false", "true"):
        words = ("calibration.granularity=group", f"calibration.correct_bias={corrected}")
        model, _, _, blocks = quantized(Family.opt, *words)
        found = forward(model, [blocks[0].get_submodule(name) for name in names])
        pairs = zip(found, wanted, strict=True)
        errors.append([float((mine - theirs).double().mean((0, 1)).norm()) for mine, theirs in pairs])
    plain, corrected = errors
    assert all(after < 1e-3 * before for before, after in zip(plain, corrected, strict=True)), (plain, corrected)


def test_token_weights_reach_the_moments():
    words = ("objective=output_align", "calibration.granularity=group")
    uniform = quantized(Family.llama, *words)
    weighted = quantized(Family.llama, *words, "objective.token_weights=inverse_energy")
    first = [binary_layers(outcome.blocks[0])["self_attn.q_proj"].dense_weight() for outcome in (uniform, weighted)]
    assert not torch.equal(*first)


def test_a_model_with_blocks_of_several_kinds_is_refused():
    model = load_model(ModelConfig(name="tiny", source=Source.random, family=Family.llama)).model
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(BinllmError, match="layer_types full_attention, sliding_attention"):
        DualStream(model, decoder_blocks(model)[1], IDS, BATCH, Activations(Storage.memory))
