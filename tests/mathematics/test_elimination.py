"""The search that gives up candidates finds what scoring all of them on all rows finds."""

from __future__ import annotations

import numpy as np
import pytest

from binllm.binarization import elimination
from binllm.binarization.elimination import Rows, Scores, first_least


def table(seed: int, rows: int = 200, candidates: int = 40, tail: float = 0.0) -> np.ndarray:
    """Scores of every row and candidate, not negative; rows of very different weight with a tail."""
    source = np.random.default_rng(seed)
    weight = np.exp(tail * source.standard_normal(rows))[:, None]
    return weight * (0.5 + np.arange(candidates) % 7 / 10 + 0.1 * source.random((rows, candidates)))


def scored(scores: np.ndarray, seen: list[int] | None = None) -> Scores:
    def total(rows: Rows, some: np.ndarray) -> np.ndarray:
        chosen = scores[rows][:, some]
        if seen is not None:
            seen.append(chosen.size)
        return chosen.sum(0)

    return total


@pytest.mark.parametrize("tail", [0.0, 3.0])
@pytest.mark.parametrize("rows", [1, 2, 31, 200])
@pytest.mark.parametrize("seed", range(4))
def test_the_least_is_found(seed: int, rows: int, tail: float) -> None:
    scores = table(seed, rows, tail=tail)
    energy = scores.max(1)
    expected = int(scores.sum(0).argmin())
    assert first_least(scored(scores), scores.shape[1], energy) == expected
    assert first_least(scored(scores - energy[:, None]), scores.shape[1], energy, floor=-energy) == expected
    rough = scored(scores.astype(np.float32).astype(np.float64))
    assert first_least(scored(scores), scores.shape[1], energy, rough=rough) == expected


@pytest.mark.parametrize("tail", [0.0, 3.0])
def test_of_equals_the_first_is_taken(tail: float) -> None:
    scores = table(0, tail=tail)
    best = int(scores.sum(0).argmin())
    twice = np.concatenate([scores, scores[:, [best]]], axis=1)
    energy = scores.max(1)
    assert first_least(scored(twice), 41, energy) == best
    assert first_least(scored(twice[:, ::-1]), 41, energy) == 0


def test_few_scores_are_asked_for_where_few_rows_decide() -> None:
    scores = table(1, rows=2000, tail=3.0)
    seen: list[int] = []
    first_least(scored(scores, seen), scores.shape[1], scores.max(1))
    assert sum(seen) < scores.size / 4


def test_a_rough_look_spares_exact_scores() -> None:
    scores = table(2, rows=2000)
    seen: list[int] = []
    first_least(scored(scores, seen), scores.shape[1], scores.max(1), rough=scored(scores))
    assert sum(seen) < scores.size / 4


def test_a_rough_look_that_is_off_by_less_than_it_may_be_changes_nothing() -> None:
    scores = np.full((100, 20), 1.0)
    scores[:, 13] -= 1e-6
    misleading = scores + 0.4 * elimination.ROUGH * np.cos(np.arange(20.0))
    energy = np.ones(100)
    assert first_least(scored(scores), 20, energy, rough=scored(misleading)) == 13


def test_scores_that_are_no_numbers_lose_and_the_first_wins_if_there_are_no_others() -> None:
    scores = table(3)
    scores[5, :] = np.nan
    scores[5, [7, 9]] = 0
    expected = 7 if scores[:, 7].sum() < scores[:, 9].sum() else 9
    assert first_least(scored(scores), 40, np.ones(len(scores))) == expected
    for nothing in (np.nan, np.inf):
        assert first_least(scored(np.full((50, 6), nothing)), 6, np.ones(50), rough=scored(np.zeros((50, 6)))) == 0


@pytest.mark.parametrize("seed", range(5))
def test_errors_that_are_0_but_for_rounding_lose_to_none(seed: int) -> None:
    """They may be below the floor by as much, on the heavy rows less than on all."""
    scores = table(seed) + 1.0
    scores[:, 23] = -1e-15 * np.random.default_rng(seed).random(len(scores))
    assert first_least(scored(scores), 40, np.ones(len(scores))) == 23


def test_light_rows_may_still_decide() -> None:
    """The heavy rows prefer the first candidate by little, the many light ones the second by more."""
    energy = np.concatenate([np.full(32, 10.0), np.ones(968)])
    scores = np.zeros((1000, 2))
    scores[:32, 0], scores[32:, 1] = -1.0, -0.9
    assert first_least(scored(scores), 2, energy, floor=-energy) == 1
