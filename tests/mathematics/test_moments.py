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
    assert {t.dtype for t in (s.gram, s.cross_gram, s.output_energy, s.mean, s.mean_hat)} == {torch.float64}
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(s.gram, x_hat.T @ x_hat / n, **close)
    torch.testing.assert_close(s.cross_gram, x.T @ x_hat / n, **close)
    product = (
        close if dtype is torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    )  # outputs are made in the stream's dtype
    torch.testing.assert_close(s.output_energy, (x @ data.weight.T).square().mean(0), **product)
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
    s = data.statistics(TokenWeights.inverse_energy)
    torch.testing.assert_close(s.cross_gram, gram / total)
    x, _ = data.tokens(TokenWeights.inverse_energy)
    torch.testing.assert_close(s.output_energy, (x @ data.weight.T).square().sum(0))


def test_inverse_energy_keeps_a_massive_token_from_owning_the_moments() -> None:
    data = layer()
    calm = replace(data, x=data.x[:, 1:], x_hat=data.x_hat[:, 1:])
    ratio = {w: float(data.statistics(w).gram.trace() / calm.statistics(w).gram.trace()) for w in TokenWeights}
    assert ratio[TokenWeights.uniform] > 100
    assert ratio[TokenWeights.inverse_energy] < 3


def test_layers_that_read_one_input_have_its_moments_and_each_its_own_outputs() -> None:
    data = layer()
    other = torch.flip(data.weight, (0, 1))[:2]
    moments = Moments(11, outputs=[data.weight, other])
    moments.add(data.x, data.x_hat)
    parts = moments.statistics().split([3, 2])
    for weight, part in zip((data.weight, other), parts, strict=True):
        torch.testing.assert_close(part.output_energy, replace(data, weight=weight).statistics().output_energy)
        assert part.gram is parts[0].gram and part.cross_gram is parts[0].cross_gram


def test_what_is_not_asked_for_is_not_measured() -> None:
    data = layer()
    moments = Moments(11, cross=False)
    moments.add(data.x, data.x_hat)
    found = moments.statistics()
    assert torch.equal(found.gram, data.statistics().gram)
    assert found.cross_gram.numel() == found.output_energy.numel() == 0
    assert found.finite() and found.split([3, 2]) == [found, found]


def test_moments_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        Moments(3).statistics()
