"""Streaming moments are those of all tokens at once, whatever the batching and the order."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from helpers import Kind, Sample, generator, sample
from torch import Tensor

from binllm.statistics import Moments, Statistics, TokenWeights

PARTITIONS = ([6], [1, 5], [2, 2, 2], [1] * 6)


def layer(seed: int = 0) -> Sample:
    """Six sequences, some tokens massive."""
    parts = [sample(Kind(3, 11, 9), 0 if seed == 0 else seed + i) for i in range(3)]
    x, x_hat = (torch.cat([getattr(p, name) * (i + 1) for i, p in enumerate(parts)]) for name in ("x", "x_hat"))
    x[:, 0] *= 50
    x_hat[:, 0] *= 49
    return Sample(parts[0].weight, x, x_hat)


def stream(x: Tensor, x_hat: Tensor, partition: list[int], weights: TokenWeights) -> Statistics:
    moments = Moments(x.shape[-1], weights)
    for part, part_hat in zip(x.split(partition), x_hat.split(partition), strict=True):
        moments.add(part, part_hat)
    return moments.statistics()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", TokenWeights)
def test_batching_changes_no_bit(weights: TokenWeights, dtype: torch.dtype) -> None:
    x, x_hat = (t.to(dtype) for t in (layer().x, layer().x_hat))
    results = [stream(x, x_hat, partition, weights) for partition in PARTITIONS]
    one_by_one = Moments(x.shape[-1], weights)
    for sequence, sequence_hat in zip(x, x_hat, strict=True):
        one_by_one.add(sequence, sequence_hat)
    for result in (*results, one_by_one.statistics()):
        for field in fields(Statistics):
            first, other = getattr(results[0], field.name), getattr(result, field.name)
            assert torch.equal(first, other) if isinstance(first, Tensor) else first == other


@pytest.mark.parametrize("weights", TokenWeights)
def test_order_changes_only_rounding(weights: TokenWeights) -> None:
    x, x_hat = layer().x, layer().x_hat
    order = torch.randperm(len(x), generator=generator(1))
    first = stream(x, x_hat, [6], weights)
    other = stream(x[order], x_hat[order], [2, 4], weights)
    for field in fields(Statistics):
        torch.testing.assert_close(getattr(first, field.name), getattr(other, field.name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uniform_moments_are_means_per_token_of_the_right_streams(dtype: torch.dtype) -> None:
    data = replace(layer(), x=layer().x.to(dtype), x_hat=layer().x_hat.to(dtype))
    x, x_hat = (t.flatten(0, 1).double() for t in (data.x, data.x_hat))
    s, n = data.statistics(), len(x)
    assert s.tokens == n
    assert {t.dtype for t in (s.gram, s.cross_gram, s.reference_gram, s.mean, s.mean_hat)} == {torch.float64}
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(s.gram, x_hat.T @ x_hat / n, **close)
    torch.testing.assert_close(s.cross_gram, x.T @ x_hat / n, **close)
    product = close if dtype is torch.float64 else {"rtol": 1e-5, "atol": 1e-5}  # F is multiplied in the stream's dtype
    torch.testing.assert_close(s.reference_gram, x.T @ x / n, **product)
    torch.testing.assert_close(s.mean, x.mean(0), **close)
    torch.testing.assert_close(s.mean_hat, x_hat.mean(0), **close)
    assert torch.equal(s.gram, s.gram.T)


def test_inverse_energy_weighs_tokens_by_the_full_precision_stream_within_their_sequence() -> None:
    data = layer()
    gram, total = torch.zeros(11, 11, dtype=torch.float64), 0.0
    for x, x_hat in zip(data.x, data.x_hat, strict=True):
        energies = [float(t @ t) for t in x]
        typical = sorted(energies)[(len(energies) - 1) // 2]
        for energy, token, token_hat in zip(energies, x, x_hat, strict=True):
            weight = 1 / (1 + energy / typical)
            gram += weight * torch.outer(token, token_hat)
            total += weight
    torch.testing.assert_close(data.statistics(TokenWeights.inverse_energy).cross_gram, gram / total)


def test_inverse_energy_keeps_a_massive_token_from_owning_the_moments() -> None:
    data = layer()
    calm = replace(data, x=data.x[:, 1:], x_hat=data.x_hat[:, 1:])
    ratio = {w: float(data.statistics(w).gram.trace() / calm.statistics(w).gram.trace()) for w in TokenWeights}
    assert ratio[TokenWeights.uniform] > 100
    assert ratio[TokenWeights.inverse_energy] < 3


def test_moments_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        Moments(3).statistics()
