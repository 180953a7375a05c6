"""How far a perplexity depends on which windows were looked at: the percentile bootstrap over windows.

Windows are drawn with replacement, as many as there are. This says nothing about other texts, and windows that follow
each other in one article are not independent, so the intervals are rather too narrow than too wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from binllm.tracking.measurements import Interval

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
_AT_ONCE = 500  # resamples whose indices live at a time


@dataclass(frozen=True)
class PairedDifference:
    """The second model against the first one on the same windows.

    Attributes:
        nll: Difference of the mean nll, nats a token: second minus first; its exp is the ratio of the perplexities.
        nll_interval: Its interval.
        perplexity: Difference of the perplexities.
        perplexity_interval: Its interval.
        windows: Number of windows.
        better: Number of windows on which the second model has the lower nll.
    """

    nll: float
    nll_interval: Interval
    perplexity: float
    perplexity_interval: Interval
    windows: int
    better: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the nll leaves out 0."""
        return self.nll_interval.low > 0 or self.nll_interval.high < 0


def perplexity_interval(window_nll: Sequence[float], window_tokens: Sequence[int]) -> Interval | None:
    """Bootstrap interval of exp(mean nll of a token).

    Args:
        window_nll: Mean of each window, nats.
        window_tokens: Scored tokens of each window.

    Returns:
        The interval; None for a single window, or where a value is not finite.
    """
    means = _resampled([window_nll], window_tokens)
    return None if means is None else _interval(means[0].exp())


def paired_difference(
    first: Sequence[float], second: Sequence[float], window_tokens: Sequence[int]
) -> PairedDifference | None:
    """Compare two models on the same windows; both means come from the same draws.

    Args:
        first: Mean nll of each window of the first model, nats.
        second: The same of the second one.
        window_tokens: Scored tokens of each window.

    Returns:
        The difference; None for a single window, or where a value is not finite.
    """
    means = _resampled([first, second], window_tokens)
    if means is None:
        return None
    weight = torch.tensor(window_tokens, dtype=torch.float64)
    one, two = (_mean(torch.tensor(nll, dtype=torch.float64), weight).item() for nll in (first, second))
    return PairedDifference(
        nll=two - one,
        nll_interval=_interval(means[1] - means[0]),
        perplexity=math.exp(two) - math.exp(one),
        perplexity_interval=_interval(means[1].exp() - means[0].exp()),
        windows=len(window_tokens),
        better=sum(b < a for a, b in zip(first, second, strict=True)),
    )


def _resampled(models: Sequence[Sequence[float]], window_tokens: Sequence[int]) -> Tensor | None:
    """Mean nll of a token in every resample: (models, resamples) float64."""
    nll = torch.tensor(models, dtype=torch.float64)
    count = nll.shape[1]
    if count < 2 or not bool(torch.isfinite(nll).all()):
        return None
    weight = torch.tensor(window_tokens, dtype=torch.float64)
    generator = torch.Generator().manual_seed(SEED)
    parts = []
    for begin in range(0, RESAMPLES, _AT_ONCE):
        drawn = torch.randint(count, (min(_AT_ONCE, RESAMPLES - begin), count), generator=generator)
        parts.append(_mean(nll[:, drawn], weight[drawn]))
    return torch.cat(parts, dim=1)


def _mean(nll: Tensor, weight: Tensor) -> Tensor:
    return (nll * weight).sum(-1) / weight.sum(-1)


def _interval(values: Tensor) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return Interval(low, high)
