"""HBLLM: salient columns, fill, split and transforms, against the published procedure written out as loops."""

from __future__ import annotations

import pytest
import torch
from helpers import Kind, generator, normal, sample, target_of
from torch import Tensor

from binllm.binarization import Planes, Target
from binllm.binarization.haar import Axis, Haar, Norm
from binllm.binarization.haar_split import Split, fill_salient, split_magnitudes
from binllm.errors import BinllmError
from binllm.objectives import OutputAlign
from binllm.packing.haar import haar
from binllm.solvers import Feedback, Rounding, solve

ROOT = 0.5**0.5
BOTH = pytest.mark.parametrize("axis", list(Axis), ids=lambda axis: axis.value)


def small(axis: Axis, norm: Norm = Norm.l2) -> Haar:
    """Narrow blocks, few salient columns."""
    return Haar(axis=axis, norm=norm, block_size=16, most=7)


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def heavy(*size: int, seed: int) -> Tensor:
    """Student's t with 2 degrees of freedom, a ratio of normal numbers, float64."""
    source = generator(seed)
    return normal(*size, source=source) / (normal(2, *size, source=source).square().mean(0)).sqrt()


def target(n_out: int, width: int, seed: int = 0) -> Target:
    """A heavy-tailed block with correlated inputs of unequal size."""
    source = generator(100 + seed)
    root = normal(2 * width, width, source=source) * torch.rand(width, generator=source, dtype=torch.float64)
    return target_of(heavy(n_out, width, seed=seed), root.T @ root / width)


def literal_split(row: Tensor, shared_mean: bool) -> Tensor:
    """The first threshold of least error, one after the other; what the row (n,) becomes."""
    best, chosen = float("inf"), row
    for t in torch.quantile(row.abs(), torch.linspace(0.1, 0.9, 41, dtype=row.dtype)):
        binary = torch.zeros_like(row)
        for group in (row.abs() < t, row.abs() >= t):
            if group.any():
                mean = row.mean() if shared_mean else row[group].mean()
                deviation = row[group] - mean
                sign = 1 - 2 * (deviation < 0).to(row.dtype)
                binary[group] = mean + sign * deviation.square().mean().sqrt()
        error = float((row - binary).square().sum())
        if error < best:
            best, chosen = error, binary
    return chosen


def literal_rows(matrix: Tensor, shared_mean: bool) -> Tensor:
    """Every row split on its own."""
    return torch.stack([literal_split(row, shared_mean) for row in matrix])


def literal_column_bands(matrix: Tensor, shared_mean: bool) -> Tensor:
    """Along columns: binarize the low band, then the high band of what is left."""
    low = literal_rows((matrix[0::2] + matrix[1::2]) * ROOT, shared_mean)
    rest = matrix - low.repeat_interleave(2, 0) * ROOT
    high = literal_rows((rest[0::2] - rest[1::2]) * ROOT, shared_mean)
    return torch.stack([low + high, low - high], 1).flatten(0, 1) * ROOT


def literal_row_bands(matrix: Tensor) -> Tensor:
    """Along rows, in the same order, with a shared mean."""
    low = literal_rows((matrix[:, 0::2] + matrix[:, 1::2]) * ROOT, True)
    rest = matrix - low.repeat_interleave(2, 1) * ROOT
    high = literal_rows((rest[:, 0::2] - rest[:, 1::2]) * ROOT, True)
    return torch.stack([low + high, low - high], 2).flatten(1) * ROOT


def literal_fill(weight: Tensor, salient: list[int]) -> Tensor:
    """Each salient column from the plain ones at a distance of 3 at most, or else the nearest, the left one first."""
    filled, plain = weight.clone(), [j for j in range(weight.shape[1]) if j not in salient]
    for j in salient:
        near = [k for k in plain if abs(k - j) <= 3] or [k for k in plain if k < j][-1:] or plain[:1]
        filled[:, j] = weight[:, near].mean(1)
    return filled


def literal(weight: Tensor, salient: list[int], axis: Axis) -> Tensor:
    """Both parts of a block."""
    binary = torch.zeros_like(weight)
    if axis is Axis.row:
        binary = literal_row_bands(literal_fill(weight, salient))
    else:
        plain = [j for j in range(weight.shape[1]) if j not in salient]
        binary[:, plain] = literal_column_bands(weight[:, plain], True)
    binary[:, salient] += literal_column_bands(weight[:, salient] - binary[:, salient], False)
    return binary


def rebuilt(split: Split) -> Tensor:
    """The coefficients that a split stands for."""
    group = split.group.long()
    return split.mean.gather(-1, group) + split.signs * split.scale.gather(-1, group)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_a_block_is_the_published_procedure(axis: Axis, seed: int) -> None:
    block = target(6, 14, seed)
    fitted = small(axis).initialise(block)
    assert fitted.code.salient is not None
    wanted = literal(block.weight, fitted.code.salient.tolist(), axis)
    close(fitted.dense().T, wanted)


@pytest.mark.parametrize("shared_mean", [True, False])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 11, 64])
def test_a_split_is_the_best_of_a_loop_over_quantiles(width: int, shared_mean: bool) -> None:
    rows = torch.cat([heavy(6, width, seed=1), normal(6, width, source=generator(2)) + 3])
    few = torch.tensor([0.0, 0.0, 0.0, 2.0, -1.0], dtype=torch.float64)
    ties = torch.stack([torch.zeros(width), torch.full((width,), -2.0), torch.linspace(-1, 1, width).sign()]).double()
    rows = torch.cat([rows, ties, few.repeat(13)[None, :width]])
    found = rebuilt(split_magnitudes(rows, shared_mean))
    close(found, literal_rows(rows, shared_mean))


def test_zeros_have_the_sign_plus_and_a_threshold_of_zero_makes_no_small_group() -> None:
    rows = torch.zeros(2, 11, dtype=torch.float64)
    rows[0, 6:] = torch.tensor([-4.0, -3.0, -3.0, 3.0, -3.0])  # the candidates up to the median are zero
    close(rebuilt(split_magnitudes(rows, False)), literal_rows(rows, False))
    even = torch.tensor([[3.0, -3.0, 0.0, 1.0, -1.0]])
    for shared_mean in (True, False):
        split = split_magnitudes(even, shared_mean)
        assert split.group.tolist() == [[1, 1, 0, 0, 0]]
        assert split.signs.tolist() == [[1, -1, 1, 1, -1]]
        torch.testing.assert_close(split.scale, torch.tensor([[(2 / 3) ** 0.5, 3.0]]))


def test_leading_dimensions_are_rows() -> None:
    rows = heavy(3, 2, 20, seed=5)
    whole = rebuilt(split_magnitudes(rows, True))
    close(whole[1, 1], literal_split(rows[1, 1], True))


def test_an_empty_group_has_no_scale_and_no_mean_of_its_own() -> None:
    rows = torch.tensor([[2.0, -2.0, 2.0, 2.0]])
    for shared_mean, mean in ((True, 1.0), (False, 0.0)):
        split = split_magnitudes(rows, shared_mean)
        assert split.group.tolist() == [[1, 1, 1, 1]]
        assert split.scale[0, 0] == 0
        assert split.mean[0].tolist() == [mean, 1.0]
        assert split.scale.dtype == split.mean.dtype == torch.float32


def test_salient_columns_are_filled_from_the_window_then_from_the_left_then_from_the_right() -> None:
    weight = torch.arange(10, dtype=torch.float64).repeat(2, 1) ** 2
    for salient in ([0], [4, 5], list(range(1, 9)), list(range(8)), list(range(2, 10)), [0, 3, 9]):
        mask = torch.zeros(10, dtype=torch.bool)
        mask[salient] = True
        close(fill_salient(weight, mask), literal_fill(weight, salient))
    between = torch.tensor([False] + 8 * [True] + [False])
    assert fill_salient(weight, between)[0].tolist() == [0, 0, 0, 0, 0, 0, 81, 81, 81, 81]


@BOTH
def test_blocks_are_what_they_are_in_the_assembled_code(axis: Axis) -> None:
    haar_of = small(axis)
    blocks = [haar_of.initialise(target(6, width, seed)) for seed, width in enumerate((16, 16, 10))]
    code = haar_of.assemble(blocks).validate()
    assert code.shape == (6, 42)
    assert code.block_size == 16
    widths = torch.cat([block.dense() for block in blocks]).T
    torch.testing.assert_close(code.dense(torch.float64), widths, rtol=1e-14, atol=0)
    within = [block.code.salient.tolist() for block in blocks if block.code.salient is not None]
    assert code.salient is not None
    assert code.salient.tolist() == [16 * g + j for g, columns in enumerate(within) for j in columns]


def test_coefficients_along_columns_take_four_values_in_each_row_of_either_part() -> None:
    block = target(8, 16)
    loud = block.weight.sign() * torch.where(torch.arange(16) % 2 == 0, 10.0, 1.0)
    block = target_of(loud * (1 + torch.rand(8, 16, generator=generator(4))), torch.eye(16, dtype=torch.float64))
    fitted = Haar(axis=Axis.column, block_size=16, most=16).initialise(block)
    salient, dense = fitted.code.salient, fitted.dense().T
    assert salient is not None
    assert salient.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    for columns in (salient, salient + 1):
        coefficients = haar(dense[:, columns], 0)
        torch.testing.assert_close(coefficients.norm(), dense[:, columns].norm())
        assert all(2 <= len(row.mul(1e9).round().unique()) <= 4 for row in coefficients)


@pytest.mark.parametrize("norm", list(Norm), ids=lambda norm: norm.value)
def test_salient_columns_are_the_first_by_the_chosen_norm(norm: Norm) -> None:
    block = target(6, 16, 3)
    salience = block.weight.square() / block.upper.diagonal().square()
    lengths = {Norm.l1: salience.sum(0), Norm.l2: salience.square().sum(0)}
    fitted = small(Axis.row, norm).initialise(block)
    assert fitted.code.salient is not None
    count = len(fitted.code.salient)
    first = {one: set(length.topk(count).indices.tolist()) for one, length in lengths.items()}
    assert set(fitted.code.salient.tolist()) == first[norm]
    assert first[Norm.l1] != first[Norm.l2], "the norms must differ on this block"


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_heavy_tails_leave_less_error_than_with_one_scale_for_each_row(axis: Axis, seed: int) -> None:
    block = target(32, 64, seed)
    one_scale = Planes(block_size=64, column_scale=False).initialise(block)
    fitted = Haar(axis=axis).initialise(block)
    errors = [float((one.dense().T - block.weight).square().sum()) for one in (fitted, one_scale)]
    assert errors[0] < 0.7 * errors[1]


@BOTH
def test_the_scale_of_the_weights_is_that_of_the_code(axis: Axis) -> None:
    block = target(6, 16, 2)
    louder = Target(**vars(block) | {"columns": 8 * block.columns})
    once, again = (small(axis).initialise(one).dense() for one in (block, louder))
    assert torch.equal(again, 8 * once)


@BOTH
@pytest.mark.parametrize("width", [2, 8])
def test_a_block_as_wide_as_the_search_keeps_a_plain_column_and_a_narrower_one_is_refused(
    axis: Axis, width: int
) -> None:
    code = Haar(axis=axis, most=width).initialise(target(4, width)).code.validate()
    assert 1 <= code.salient_count < width
    wanted = rf"binarization\.most = {width + 1}: a block has {width} columns only, allowed is 2 to {width} "
    with pytest.raises(ValueError, match=wanted):
        Haar(axis=axis, most=width + 1).initialise(target(4, width))


@BOTH
def test_a_walk_with_feedback_gives_a_code_in_the_dtype_of_the_fits(axis: Axis) -> None:
    problem = sample(Kind(10, 20, 40, dead=3)).problem(OutputAlign(alpha=0.0))
    for dtype in (torch.float32, torch.float64):
        code = solve(problem, Haar(axis=axis, block_size=8, most=4), Rounding(feedback=Feedback.diagonal), dtype).code
        assert {scale.dtype for scale in code.validate().scales.values()} == {dtype}
        assert code.shape == (10, 20)


def test_sizes_without_pairs_are_refused() -> None:
    for axis in Axis:
        with pytest.raises(ValueError, match="n_out: is 5, .* must be even"):
            Haar(axis=axis).initialise(target(5, 8))
    with pytest.raises(ValueError, match="width: a block has 7 columns, .* must be even"):
        Haar().initialise(target(4, 7))
    assert Haar(axis=Axis.column, most=7).initialise(target(4, 7)).dense().shape == (7, 4)
    with pytest.raises(BinllmError, match=r"binarization\.block_size = 128: .* at least 2 columns"):
        Haar(axis=Axis.column).initialise(target(4, 1))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(BinllmError, match=r"binarization\.block_size = 7: allowed is an even number"):
        Haar(block_size=7)
    assert Haar(axis=Axis.column, block_size=7, most=7).block_size == 7
    with pytest.raises(BinllmError, match=r"binarization\.most = 1: "):
        Haar(most=1)
    with pytest.raises(BinllmError, match=r"binarization\.most = 129: allowed is 2 to 128 \(block_size\)"):
        Haar(most=129)
