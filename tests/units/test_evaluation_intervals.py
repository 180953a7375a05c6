"""Bootstrap intervals over windows."""

from __future__ import annotations

import math

import pytest
import torch

from binllm.evaluation.intervals import paired_difference, perplexity_interval


def windows(count: int, seed: int = 0) -> list[float]:
    return (3.0 + 0.5 * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).tolist()


def test_the_interval_of_many_windows_is_that_of_the_central_limit_theorem():
    nll = windows(400)
    found = perplexity_interval(nll, [511] * 400)
    assert found is not None
    values = torch.tensor(nll, dtype=torch.float64)
    half = 1.96 * (values.std() / 400**0.5).item()
    assert math.log(found.low) == pytest.approx(values.mean().item() - half, abs=0.1 * half)
    assert math.log(found.high) == pytest.approx(values.mean().item() + half, abs=0.1 * half)


def test_equal_windows_leave_no_doubt():
    found = perplexity_interval([2.0] * 5, [15] * 5)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((math.exp(2), math.exp(2)))


def test_pairing_sees_a_difference_that_the_spread_of_windows_hides():
    first = windows(50)
    second = [nll + 0.01 + 0.001 * (number % 2) for number, nll in enumerate(first)]
    alone = perplexity_interval(first, [511] * 50), perplexity_interval(second, [511] * 50)
    assert alone[0] is not None and alone[1] is not None and alone[0].high > alone[1].low
    found = paired_difference(first, second, [511] * 50)
    assert found is not None and found.is_clear
    assert 0.01 < found.nll_interval.low < found.nll < found.nll_interval.high < 0.011
    assert found.better == 0


def test_a_model_does_not_differ_from_itself_and_signs_turn_with_the_order():
    first, second = windows(30), windows(30, seed=1)
    same = paired_difference(first, first, [511] * 30)
    assert same is not None and not same.is_clear and same.nll == 0
    there, back = paired_difference(first, second, [511] * 30), paired_difference(second, first, [511] * 30)
    assert there is not None and back is not None
    assert there.nll == pytest.approx(-back.nll)
    assert there.perplexity_interval.low == pytest.approx(-back.perplexity_interval.high)


def test_a_window_counts_by_its_tokens():
    found = paired_difference([1.0, 1.0], [2.0, 1.0], [30, 10])
    assert found is not None
    assert found.nll == pytest.approx(0.75)


@pytest.mark.parametrize("nll", [[2.0], [2.0, math.nan], [2.0, math.inf]])
def test_there_is_no_interval_of_one_window_or_of_what_is_not_finite(nll: list[float]):
    assert perplexity_interval(nll, [15] * len(nll)) is None
    assert paired_difference(nll, nll, [15] * len(nll)) is None
