"""Diagnostics: streamed sums are the plain formulas, and a model compared with itself shows nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from binllm.diagnostics.anisotropy import anisotropy, spread
from binllm.diagnostics.attention import Attended, AttentionDrift, attention_drift
from binllm.diagnostics.stream import Accumulation, StreamDrift, compare
from binllm.diagnostics.tokens import token_drift

SEQUENCES, LENGTH, WIDTH, HEADS, KEY_HEADS, SIZE = 5, 7, 6, 4, 2, 3


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Y, Y_CONDITIONED, Y_HAT = (random(SEQUENCES, LENGTH, WIDTH, seed=seed) for seed in range(3))


def attended(seed: int, mask: Tensor | None = None) -> Attended:
    query = random(SEQUENCES, HEADS, LENGTH, SIZE, seed=seed)
    return Attended(query, random(SEQUENCES, KEY_HEADS, LENGTH, SIZE, seed=seed + 50), mask, 0.7)


def batch_of(one: Attended, span: slice) -> Attended:
    return one._replace(query=one.query[span], key=one.key[span])


SUMS: dict[str, Callable[[slice], object]] = {
    "stream": lambda s: StreamDrift(
        compare(Y_CONDITIONED[s], Y_HAT[s]), compare(Y[s], Y_HAT[s]), compare(Y[s], Y_HAT[s])
    ),
    "tokens": lambda s: token_drift(Y[s], Y_CONDITIONED[s], Y_HAT[s]),
    "attention": lambda s: attention_drift(batch_of(attended(3), s), batch_of(attended(4), s)),
    "anisotropy": lambda s: anisotropy(Y[s], Y_HAT[s]),
    "accumulation": lambda s: Accumulation(
        compare(Y[s], Y_HAT[s]), compare(Y[s], Y_CONDITIONED[s]), compare(Y_CONDITIONED[s], Y_HAT[s])
    ),
}


@pytest.mark.parametrize("group", SUMS)
def test_batches_add_up_to_the_whole(group: str):
    one_by_one = [SUMS[group](slice(start, start + 1)) for start in range(SEQUENCES)]
    streamed = sum(one_by_one[1:], one_by_one[0]).numbers()  # type: ignore[call-overload]
    whole = SUMS[group](slice(None)).numbers()  # type: ignore[attr-defined]
    assert streamed.keys() == whole.keys()
    for name, values in whole.items():
        assert streamed[name] == pytest.approx(values, rel=1e-9), name


def test_a_comparison_is_the_plain_formula():
    found = compare(Y, Y_HAT)
    assert found.relative_error == pytest.approx(float((Y - Y_HAT).square().sum() / Y.square().sum()))
    assert found.similarity == pytest.approx(float(torch.nn.functional.cosine_similarity(Y, Y_HAT, dim=-1).mean()))
    assert found.found / found.energy == pytest.approx(float(Y_HAT.square().sum() / Y.square().sum()))


def test_a_token_without_energy_has_no_direction():
    zero = torch.zeros(1, 2, WIDTH)
    assert compare(zero, zero).relative_error == compare(zero, zero).similarity == 0
    assert compare(zero, Y[:1, :2]).relative_error == math.inf


def test_token_similarity_is_the_plain_formula():
    def matrix(y: Tensor) -> Tensor:
        rows = [[float(a @ b) for b in y] for a in y]
        return torch.tensor([[value / math.hypot(*row) for value in row] for row in rows])

    error = sum(float((matrix(y) - matrix(y_hat)).square().sum()) for y, y_hat in zip(Y, Y_HAT, strict=True))
    found = token_drift(Y, Y_CONDITIONED, Y_HAT).numbers()
    assert found["output_error"] == pytest.approx([error / (SEQUENCES * LENGTH)])


@pytest.mark.parametrize("change", [lambda y: 3 * y, lambda y: y @ torch.linalg.qr(random(WIDTH, WIDTH, seed=9))[0]])
def test_token_similarity_does_not_see_scale_and_rotation(change: Callable[[Tensor], Tensor]):
    assert token_drift(Y, Y, change(Y)).numbers()["output_error"] == pytest.approx([0.0], abs=1e-12)
    assert compare(Y, change(Y)).relative_error > 0.1


def causal(kind: str) -> Tensor | None:
    seen = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    additive = torch.zeros(1, 1, LENGTH, LENGTH, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    return {"none": None, "boolean": seen, "additive": additive}[kind]


@pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
def test_attention_is_the_plain_formula(kind: str):
    full, quantized = attended(3, causal(kind)), attended(4, causal(kind))

    def plain(one: Attended, sequence: int, head: int, position: int) -> tuple[Tensor, Tensor]:
        keys = one.key[sequence, head // (HEADS // KEY_HEADS), : position + 1]
        logits = 0.7 * keys @ one.query[sequence, head, position]
        return logits.softmax(0), logits - logits.mean()

    wanted = torch.zeros(4, HEADS, dtype=torch.float64)
    rows = [(s, p) for s in range(SEQUENCES) for p in range(1, LENGTH)]  # the first token sees only itself
    for head in range(HEADS):
        for sequence, position in rows:
            (p, a), (q, b) = plain(full, sequence, head, position), plain(quantized, sequence, head, position)
            values = (
                (p * (p / q).log()).sum(),
                (p - q).abs().sum() / 2,
                p @ q / p.norm() / q.norm(),
                a @ b / a.norm() / b.norm(),
            )
            wanted[:, head] += torch.stack(values) / len(rows)
    found = attention_drift(full, quantized).numbers()
    for name, heads in zip(
        ("kl", "total_variation", "probability_cosine", "logit_cosine"), wanted.tolist(), strict=True
    ):
        assert found[name] == pytest.approx(heads), name


def test_a_constant_in_a_row_of_logits_changes_nothing():
    direction = random(SIZE, seed=11)
    full = attended(3)
    moved = full._replace(key=full.key + direction)  # adds (query . direction) to every logit of a row
    assert attention_drift(full, moved).numbers()["kl"] == pytest.approx([0.0] * HEADS, abs=1e-9)
    assert attention_drift(full, moved).numbers()["logit_cosine"] == pytest.approx([1.0] * HEADS)


def test_the_spectrum_is_that_of_the_generalised_eigenvalue_problem():
    outputs, errors = (y.flatten(0, 1) for y in (Y, Y_HAT - Y))
    values = torch.linalg.eigvals(torch.linalg.solve(outputs.T @ outputs, errors.T @ errors)).real
    found = anisotropy(Y, Y_HAT).numbers()
    assert found["error_spectrum"] == pytest.approx(sorted(values.tolist(), reverse=True))
    assert found["error_condition"] == pytest.approx([float(values.max() / values.min())])
    assert found["error_log_variance"] == pytest.approx([float(values.log().var(correction=0))])


def test_an_error_proportional_to_the_output_is_isotropic_and_an_empty_direction_is_left_out():
    flat = Y * torch.tensor([1.0] * (WIDTH - 1) + [0.0])
    found = anisotropy(flat, 1.5 * flat).numbers()
    assert found["error_spectrum"] == pytest.approx([0.25] * (WIDTH - 1))
    assert found["error_log_variance"] == pytest.approx([0.0], abs=1e-12)


def test_a_stream_in_all_directions_and_one_in_a_single_direction():
    even, single = torch.eye(WIDTH), torch.ones(4, 1) @ Y[0, :1].float()
    numbers = {
        name: spread(x).numbers(torch.linalg.eigvalsh(spread(x).moment))
        for name, x in (("even", even), ("single", single))
    }
    assert numbers["even"]["effective_rank"] == pytest.approx(WIDTH)
    assert numbers["even"]["mean_cosine"] == pytest.approx(0.0, abs=1e-12)
    assert numbers["even"]["top_energy"] == pytest.approx(1 / WIDTH)
    assert numbers["even"]["massive"] == pytest.approx(WIDTH)  # one entry in WIDTH is not zero
    assert numbers["single"]["effective_rank"] == pytest.approx(1.0)
    assert numbers["single"]["mean_cosine"] == pytest.approx(1.0)
    assert numbers["single"]["top_energy"] == pytest.approx(1.0)


def test_inherited_and_new_error_are_the_sides_of_a_triangle():
    found = {name: value for name, (value,) in SUMS["accumulation"](slice(None)).numbers().items()}  # type: ignore[attr-defined]
    cross = 2 * float(((Y_CONDITIONED - Y) * (Y_HAT - Y_CONDITIONED)).sum() / Y.square().sum())
    assert found["total"] == pytest.approx(found["inherited"] + found["new"] + cross)


def test_a_model_compared_with_itself_shows_nothing():
    stream = StreamDrift(compare(Y, Y), compare(Y, Y), compare(Y, Y)).numbers()
    assert (stream["output_error"], stream["conditioned_error"], stream["drift"]) == ([0.0], [0.0], [0.0])
    assert stream["output_similarity"] == pytest.approx([1.0])
    assert token_drift(Y, Y, Y).numbers() == {"conditioned_error": [0.0], "output_error": [0.0]}
    drift: AttentionDrift = attention_drift(attended(3), attended(3))
    assert drift.numbers()["kl"] == drift.numbers()["total_variation"] == [0.0] * HEADS
    assert anisotropy(Y, Y).numbers()["error_spectrum"] == [0.0] * WIDTH
