"""The compiled errors of all candidates against literal oracles, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
from helpers import generator
from search_cases import CASES, ROUNDED_CASES, metric, problem
from torch import Tensor

from binllm.binarization import first_order_gains, output_gains, second_order_errors

Errors = Callable[[np.ndarray, list[int]], np.ndarray]


def literal_gains(matrix: Tensor, masks: list[Tensor], order: int = 2) -> Tensor:
    """By how much binarizing what is inside and outside of each mask lowers Σx²."""
    left = [matrix - oracles.billm(matrix, mask, order) - oracles.billm(matrix, ~mask, order) for mask in masks]
    return matrix.square().sum() - torch.stack([one.square().sum() for one in left])


def close(found: np.ndarray, expected: Tensor, scale: Tensor) -> None:
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-9, atol=1e-12 * float(scale))


def nested(x: np.ndarray, counts: list[int]) -> np.ndarray:
    return second_order_errors.nested_errors(x, np.tile(counts, (len(x), 1)))


def leading(x: np.ndarray, counts: list[int]) -> np.ndarray:
    return second_order_errors.leading_errors(np.ascontiguousarray(x.T), np.array(counts))


@pytest.mark.parametrize("errors", [nested, leading])
@pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)
def test_errors_of_all_numbers_of_columns(case: tuple[str, int, int, int], errors: Errors) -> None:
    matrix, counts = problem(*case)[0].double(), [1, 2, 7, case[2] - 1]
    masks = [torch.arange(case[2]).expand(matrix.shape) < count for count in counts]
    energy = matrix.square().sum()
    close(errors(matrix.numpy(), counts), energy - literal_gains(matrix, masks), energy)


@pytest.mark.parametrize("errors", [nested, leading])
def test_an_entry_that_equals_its_mean_has_no_sign(errors: Errors) -> None:
    """Of -1, -1, 0, 2 the third does: one plane leaves 0, 0, 0, 1, and a second one 1/8, 1/8, 1/8, 3/8."""
    assert errors(np.array([[-1.0, -1, 0, 2, 5]]), [4])[0] == pytest.approx(3 / 16)


@pytest.mark.parametrize("errors", [nested, leading])
def test_an_entry_that_the_first_order_hits_has_no_second_sign(errors: Errors) -> None:
    """Of -3, -2, -1, 1, 2, 3 one plane, of scale 2, leaves -1, 0, 1, -1, 0, 1, and a second one ±1/3 and 0."""
    assert errors(np.array([[-3.0, -2, -1, 1, 2, 3, 5]]), [6])[0] == pytest.approx(4 / 9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_errors_of_all_thresholds(case: tuple[str, int, int, int]) -> None:
    matrix = problem(*case)[0].double()
    thresholds = torch.cat([torch.zeros(1, dtype=torch.float64), oracles.quantiles(matrix.abs())[::10]])
    left = [matrix.abs() >= threshold for threshold in thresholds]
    expected, energy = literal_gains(matrix, left, 1), matrix.square().sum()
    close(first_order_gains.threshold_gains(matrix.T.contiguous().numpy(), thresholds.numpy()), expected, energy)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_errors_of_all_thresholds(case: tuple[str, int, int, int]) -> None:
    matrix, s = problem(*case)[0].double(), metric(case[2], case[3]).double()
    cross = torch.randn(matrix.shape, dtype=torch.float64, generator=generator(9)) * matrix.std() * s.diagonal().max()
    thresholds = torch.cat([torch.zeros(1, dtype=torch.float64), oracles.quantiles(matrix.abs())[::10]])

    def error(left: Tensor) -> Tensor:
        return ((left @ s + 2 * cross) * left).sum()

    masks = [matrix.abs() >= threshold for threshold in thresholds]
    left = [matrix - oracles.billm(matrix, mask, 1) - oracles.billm(matrix, ~mask, 1) for mask in masks]
    arguments = matrix, matrix.argsort(1), matrix @ s + cross, s, thresholds
    found = output_gains.output_gains(*(tensor.numpy() for tensor in arguments))
    x, pull = (tensor.T.contiguous().numpy() for tensor in (matrix, matrix @ s + cross))
    alone = [output_gains.output_gain(first_order_gains.split_fit(x, float(t)), pull, s.numpy()) for t in thresholds]
    expected = error(matrix) - torch.stack([error(one) for one in left])
    scale = ((matrix.abs() @ s.abs() + 2 * cross.abs()) * matrix.abs()).sum()
    close(found, expected, scale)
    close(np.array(alone), expected, scale)
