"""Attention matrix preservation: under `agree` L_AMP never falls; the other rules do what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from helpers import (
    BINARIZATIONS,
    SEEDS,
    SHAPES,
    SOLVERS,
    copy_block,
    dense,
    generator,
    normal,
    pairs,
    random_block,
    run,
    sample,
    target_of,
)
from torch import Tensor

from binllm.binarization import Block, Planes
from binllm.objectives import OutputAlign, Proposed
from binllm.quadratic import Amp, AmpRule
from binllm.solvers import Solver, Status
from binllm.solvers.amp import AmpCounts, Guard
from binllm.solvers.levels import sweep_levels
from binllm.solvers.updates import BlockQuadratic, update_column_scales, update_row_scales

UPDATES: dict[str, Callable[[Block, BlockQuadratic], None]] = {
    "row_scales": update_row_scales,
    "column_scales": update_column_scales,
    "signs": partial(sweep_levels, regroup=False),
    "levels": partial(sweep_levels, regroup=True),
}
RULES = (AmpRule.agree, AmpRule.positive, AmpRule.signed)


def guarded(binarization: str, shape: str, seed: int, rule: AmpRule) -> tuple[Block, BlockQuadratic, Guard]:
    """A random block under AMP with a random H of low rank and random other blocks."""
    block, quadratic = random_block(binarization, shape, seed)
    source = generator(100 + seed)
    width, n_out = block.level.shape
    root = normal(3, width, source=source)
    guard = Guard(rule, root.T @ root, normal(width, n_out, source=source), AmpCounts())
    return block, replace(quadratic, guard=guard), guard


def preserved(block: Block, guard: Guard) -> Tensor:
    """L_AMP up to the part of the other blocks, per row."""
    weight = block.dense()
    return ((guard.metric @ weight + 2 * guard.offset) * weight).sum(0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_under_agree_no_update_lowers_the_preserved_quantity(binarization: str, update: str, shape: str) -> None:
    rejected = 0
    for seed in SEEDS:
        block, quadratic, guard = guarded(binarization, shape, seed, AmpRule.agree)
        before = preserved(block, guard)
        UPDATES[update](block, quadratic)
        change = preserved(block, guard) - before
        slack = 1e-10 * before.abs().sum()
        assert bool(((change.sum() if update == "column_scales" else change) >= -slack).all())
        rejected += guard.counts.rejected
    assert rejected > 0 or (update == "column_scales" and not BINARIZATIONS[binarization].column_scale)


@dataclass
class Watch:
    """A solver that checks what every fit does to L_AMP of the whole layer, from the blocks alone."""

    inner: Solver
    amp: Amp
    blocks: list[Block]
    checked: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def fit(self, block: Block, quadratic: BlockQuadratic) -> None:
        self.blocks.append(block)
        assert quadratic.guard is not None
        before = preserved(block, quadratic.guard)
        self.inner.fit(block, quadratic)
        assert float((preserved(block, quadratic.guard) - before).sum()) >= -1e-9 * float(before.abs().sum())

    def refine(self, block: Block, quadratic: BlockQuadratic) -> None:
        assert quadratic.guard is not None
        weight = torch.cat([b.dense() for b in self.blocks]).T.requires_grad_()
        before = ((weight @ self.amp.metric) * weight).sum()
        with torch.enable_grad():
            ((weight @ self.amp.metric) * weight).sum().backward()
        at = next(i for i, b in enumerate(self.blocks) if b is block)
        start = sum(len(b.level) for b in self.blocks[:at])
        assert weight.grad is not None
        gradient = weight.grad[:, start : start + len(block.level)].T / 2
        torch.testing.assert_close(quadratic.guard.gradient(block.dense()), gradient, rtol=1e-8, atol=1e-8)
        self.inner.refine(block, quadratic)
        after = torch.cat([b.dense() for b in self.blocks]).T
        assert float(((after @ self.amp.metric) * after).sum()) >= float(before) * (1 - 1e-9)
        self.checked += 1


@pytest.mark.parametrize(("binarization", "solver"), pairs(BINARIZATIONS, SOLVERS))
def test_a_pass_over_a_layer_never_lowers_it_and_the_guard_knows_its_gradient(binarization: str, solver: str) -> None:
    problem = sample("ragged").problem(Proposed())
    assert problem.amp is not None
    watch = Watch(replace(SOLVERS[solver], passes=1), problem.amp, [])  # type: ignore[type-var]
    run(problem, binarization, watch)  # type: ignore[arg-type]
    assert watch.checked == 3


def test_h_is_that_of_the_inner_product_of_the_two_output_similarities() -> None:
    """L_AMP = <ŶŶᵀ, YYᵀ>, from X, X̂, W, Ŵ; equal to tr(Ŵ H Ŵᵀ) up to one positive factor."""
    layer = sample("ragged")
    x, x_hat = layer.tokens()
    amp = layer.problem(Proposed()).amp
    assert amp is not None
    ratios = []
    for seed in range(4):
        weight_hat = normal(*layer.weight.shape, source=generator(seed))
        y, y_hat = x @ layer.weight.T, x_hat @ weight_hat.T
        inner = float(((y_hat @ y_hat.T) * (y @ y.T)).sum())
        ratios.append(float(((weight_hat @ amp.metric) * weight_hat).sum()) / inner)
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert ratios[0] > 0
    assert float(amp.metric.diagonal().mean()) == pytest.approx(1.0)


def proposal(block: Block, quadratic: BlockQuadratic, names: tuple[str, ...], update: str) -> list[tuple[Tensor, ...]]:
    """(old, proposed, gradient of L_AMP by autograd) of every parameter of an update."""
    assert quadratic.guard is not None
    free, result = copy_block(block), []
    UPDATES[update](free, replace(quadratic, guard=None))
    for name in names:
        old = getattr(block, name).clone().requires_grad_()
        preserved(replace(block, **{name: old}), quadratic.guard).sum().backward()
        assert old.grad is not None
        result.append((old.detach(), getattr(free, name), old.grad))
    return result


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("update", ["row_scales", "column_scales"])
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_scales_are_filtered_as_the_rule_says(binarization: str, update: str, rule: AmpRule) -> None:
    block, quadratic, guard = guarded(binarization, "panels", 0, rule)
    if update == "column_scales":
        names = ("column_scale",) if block.scales_columns else ()
    else:
        residual = ("residual_scale",) if bool(block.salient.any()) else ()
        names = ("row_scale", *residual, *(() if block.row_mean is None else ("row_mean",)))
    expected = proposal(block, quadratic, names, update)
    UPDATES[update](block, quadratic)
    accepted = total = 0
    for name, (old, new, gradient) in zip(names, expected, strict=True):
        mask = gradient * (new - old) >= 0 if rule is AmpRule.agree else gradient > 0
        wanted = torch.where(mask, new, old)
        if rule is AmpRule.signed:
            m = torch.sign(gradient)
            wanted = old * (1 - m) + new * m
        torch.testing.assert_close(getattr(block, name), wanted)
        accepted, total = accepted + int(mask.sum()), total + mask.numel()
    assert (guard.counts.accepted, guard.counts.rejected) == (accepted, total - accepted)


@pytest.mark.parametrize(("regroup", "shape"), [(False, "narrow"), (True, "panels")])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_levels_are_filtered_as_the_rule_says_with_the_gradient_of_the_moment(
    binarization: str, shape: str, rule: AmpRule, regroup: bool
) -> None:
    """Column by column, every level tried in the loss itself, and both gradients computed anew each time."""
    block, quadratic, guard = guarded(binarization, shape, 0, rule)
    guard.metric *= 5  # what the sweep itself changes outweighs the other blocks
    block.make_scales_positive()
    oracle, weight = copy_block(block), block.dense()
    changes = rejected = 0
    for k in range(len(weight)):
        if float(quadratic.metric[k, k]) == 0:
            continue
        index, values = oracle.candidates(bool(oracle.salient[k]))
        values = values * oracle.column_scale[k] + (0 if oracle.row_mean is None else oracle.row_mean)
        others = quadratic.linear[k] - quadratic.metric[k] @ weight + quadratic.metric[k, k] * weight[k]
        loss = quadratic.metric[k, k] * values.square() - 2 * others * values
        foreign = (index >> 2)[:, None] != (oracle.level[k] >> 2)[None]
        loss = loss if regroup else loss.masked_fill(foreign, torch.inf)
        proposed = values.gather(0, loss.argmin(0)[None])[0]
        gradient = (guard.offset + guard.metric @ weight)[k]
        agrees = gradient * (proposed - weight[k]) >= 0
        mask = agrees if rule is AmpRule.agree else gradient * oracle.column_scale[k] > 0
        differs = (proposed - weight[k]).abs() > 1e-9
        changes, rejected = changes + int(differs.sum()), rejected + int((differs & ~mask).sum())
        weight[k] = torch.where(mask, proposed, weight[k])
    sweep_levels(block, quadratic, regroup)
    torch.testing.assert_close(block.dense(), weight)
    assert (guard.counts.accepted, guard.counts.rejected) == (changes - rejected, rejected)


def toy(sign: int, scale: float, linear: float, pull: float, rule: AmpRule) -> tuple[Block, BlockQuadratic]:
    """One entry ``scale · sign``, objective ``Ŵ² - 2 linear Ŵ``, and a constant gradient ``2 pull`` of L_AMP."""
    planes = Planes(block_size=1, column_scale=False)
    block = planes.initialise(target_of(torch.tensor([[float(sign)]]).double(), torch.eye(1).double()))
    block.row_scale = torch.tensor([[scale]]).double()
    guard = Guard(rule, torch.zeros(1, 1).double(), torch.tensor([[pull]]).double(), AmpCounts())
    return block, BlockQuadratic(torch.eye(1).double(), torch.tensor([[linear]]).double(), guard)


# (pull, linear): the scale goes from 1 towards `linear`; the gradient in it is `2 pull`.
@pytest.mark.parametrize(
    ("rule", "pull", "linear", "result"),
    [
        (AmpRule.agree, 1.0, 3.0, 3.0),
        (AmpRule.agree, 1.0, 0.5, 1.0),
        (AmpRule.agree, -1.0, 3.0, 1.0),
        (AmpRule.agree, -1.0, 0.5, 0.5),
        (AmpRule.positive, 1.0, 3.0, 3.0),
        (AmpRule.positive, 1.0, 0.5, 0.5),
        (AmpRule.positive, -1.0, 3.0, 1.0),
        (AmpRule.positive, -1.0, 0.5, 1.0),
        (AmpRule.signed, 1.0, 3.0, 3.0),
        (AmpRule.signed, 1.0, 0.5, 0.5),
        (AmpRule.signed, -1.0, 3.0, -1.0),  # 2 · 1 - 3
        (AmpRule.signed, -1.0, 0.5, 1.5),  # 2 · 1 - 0.5
    ],
)
def test_a_scale_by_hand(rule: AmpRule, pull: float, linear: float, result: float) -> None:
    block, quadratic = toy(1, 1.0, linear, pull, rule)
    update_row_scales(block, quadratic)
    assert float(block.dense()) == pytest.approx(result)


# The objective asks for a change from +1 to -1, or from -1 to +1; the gradient in the sign is `2 pull`.
@pytest.mark.parametrize("scale", [1.0, -1.0])
@pytest.mark.parametrize(
    ("rule", "pull", "old", "new"),
    [
        (AmpRule.agree, 1.0, 1, 1),
        (AmpRule.agree, 1.0, -1, 1),
        (AmpRule.agree, -1.0, 1, -1),
        (AmpRule.agree, -1.0, -1, -1),
        (AmpRule.positive, 1.0, 1, -1),
        (AmpRule.positive, -1.0, 1, 1),
        (AmpRule.positive, 1.0, -1, 1),
        (AmpRule.signed, 1.0, 1, -1),
        (AmpRule.signed, -1.0, 1, 1),
        (AmpRule.signed, -1.0, -1, -1),
    ],
)
def test_a_sign_by_hand(rule: AmpRule, pull: float, old: int, new: int, scale: float) -> None:
    """A negative scale times the opposite sign is the same weight, and is treated the same."""
    block, quadratic = toy(old * int(scale), scale, -2.0 * old, pull, rule)
    assert float(block.dense()) == old
    sweep_levels(block, quadratic, regroup=True)
    assert float(block.dense()) == new


@pytest.mark.parametrize("solver", SOLVERS)
def test_off_is_no_amp(solver: str) -> None:
    layer = sample("ragged")
    plain = layer.problem(OutputAlign(alpha=1.0))
    watched = layer.problem(Proposed()).amp
    assert plain.amp is None
    assert watched is not None
    off = replace(plain, amp=Amp(watched.metric, AmpRule.off))
    first, second = (run(problem, "row_column", solver) for problem in (plain, off))
    assert torch.equal(dense(first), dense(second))
    assert second.amp == AmpCounts()


@pytest.mark.parametrize("rule", RULES)
def test_what_amp_did_is_recorded(rule: AmpRule) -> None:
    layer = sample("ragged")
    objectives = (OutputAlign(alpha=1.0), Proposed(amp_rule=rule))
    plain, masked = (run(layer.problem(o), "row_column", "alternating") for o in objectives)
    assert plain.amp == AmpCounts()
    assert min(masked.amp.accepted, masked.amp.rejected) > 0
    assert (masked.status is Status.amp_raised) == (masked.amp.raised > 0)
    assert not torch.equal(dense(plain), dense(masked))
