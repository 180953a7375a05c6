"""The first of many candidates of least score, where scores are sums over rows: most candidates need only a few of them.

But for rounding, no row scores a candidate below a floor that is known beforehand, an error not below 0. So what some of the
rows say, with the floors of the others, bounds the score of a candidate from below. All candidates are scored on the rows
that can say most; the best of them on all rows; then, on more rows and on all, those only that can still be as good as it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from binllm.parallel import by_parts

HEAVY = (16, 5)  # one row of so many is asked about all candidates; then one of so many about those that are left
PANEL = 4096  # scores, one for every row and candidate, that are worth another thread
ROWS = 256  # that a thread takes at once, if they are worth it: what is known of them stays in the second-level cache
LANES = 32  # rows are taken by multiples of so many, since loops over them are vector instructions
ROUNDING = 1e-12  # of what is compared; a candidate that is worse by no more is kept
ROUGH = 1e-4  # of the energy, the same for what is found in float32: more than 1,024 rounded terms can add up to
MANY = 4  # candidates that are worth a rough look

Rows = slice | np.ndarray
Scores = Callable[[Rows, np.ndarray], np.ndarray]


def first_least(
    scores: Scores,
    candidates: int,
    energy: np.ndarray,
    floor: np.ndarray | float = 0.0,
    rough: Scores | None = None,
) -> int:
    """The first candidate of least score; the first of all where no score is a number below infinity.

    Args:
        scores: Of rows and ascending indices (k,) of candidates, gives the sums (k,) over these rows. Idle threads take
            panels of rows, so it should not hold Python's lock.
        candidates: How many there are.
        energy: (rows,), how much a row can say.
        floor: (rows,), or one for all, what no score of a row is below.
        rough: The same scores in float32.

    Returns:
        Its index.
    """

    def total(some: np.ndarray, scores: Scores = scores) -> np.ndarray:
        size = max(_lanes(PANEL // len(some)), min(_lanes(len(energy) // 4), ROWS))
        panels = [slice(start, start + size) for start in range(0, len(energy), size)]
        return _comparable(np.sum(by_parts(lambda panel: scores(panel, some), panels, compiled=True), axis=0))

    floor = np.broadcast_to(floor, energy.shape)
    left, bound, slack = np.arange(candidates), None, ROUNDING * energy.sum()
    for share in HEAVY if rough is None or _lopsided(energy) else ():
        lightest = len(energy) - min(_lanes(len(energy) // share), len(energy))
        light, heavy = np.split(energy.argpartition(lightest), [lightest])
        partial = _comparable(scores(heavy, left)) + floor[light].sum()
        if bound is None:
            bound = total(left[partial.argmin()][None])[0]
        before, left = len(left), left[partial <= bound + ROUNDING * abs(bound) + slack]
        if not 1 < len(left) <= before / 2:
            break
    if rough is not None and len(left) > MANY:
        partial = total(left, rough)
        left = left[partial <= partial.min() + ROUGH * energy.sum()] if np.isfinite(partial).all() else left
    return int(left[total(left).argmin()]) if len(left) else 0


def _lopsided(energy: np.ndarray) -> bool:
    """Whether few rows are likely to decide: the heaviest eighth has half of the energy."""
    eighth = len(energy) - len(energy) // 8 - 1
    return bool(2 * np.partition(energy, eighth)[eighth:].sum() > energy.sum())


def _lanes(rows: int) -> int:
    return max(rows // LANES, 1) * LANES


def _comparable(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), np.inf, scores)
