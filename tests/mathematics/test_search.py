"""The searches find what the published ones find: against literal oracles, and against recorded runs of the published code.

Where float32 makes the oracle prefer another of two candidates with nearly equal errors, the same oracle in float64 decides:
the searches are in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import oracles
import pytest
import torch
from helpers import generator
from search_cases import CASES, MOST, ROUNDED_CASES, SHAPES, metric, problem
from torch import Tensor

from binllm.binarization import elimination, search
from binllm.golden.files import Case, GoldenFile

FOLDER = Path(__file__).parent.parent / "golden"
GOLDEN, BINARIZERS = (GoldenFile.read(FOLDER / f"{name}.safetensors") for name in ("search", "binarizers"))
Split = tuple[float, Tensor]


def agree(found: Split, oracle: Callable[[torch.dtype], Split]) -> None:
    """Threshold to 1e-6 and the same mask as the oracle in float32, or failing that in float64."""
    threshold, large = oracle(torch.float32)
    if not torch.equal(found[1], large):
        threshold, large = oracle(torch.float64)
    assert found[0] == pytest.approx(threshold, rel=1e-6)
    assert torch.equal(found[1], large)


@pytest.mark.parametrize("count", [1, 2, 11, 72 * 41])
def test_the_candidates_are_numpys_quantiles_to_the_bit(count: int) -> None:
    values = torch.randn(count, generator=generator(count)).abs().sort().values
    assert torch.equal(search._quantiles(values), oracles.quantiles(values))


def test_columns_do_not_depend_on_the_scale_where_denormal_numbers_are_0() -> None:
    torch.set_flush_denormal(True)  # as every solver does
    matrix, salient = problem("magnitude", *SHAPES[1], 1)
    for exponent in (-75, -70, -64, -60, 60):
        assert torch.equal(search.salient_columns(matrix * 2.0**exponent, MOST), salient.nonzero()[:, 0])


@pytest.mark.parametrize("exponent", [-80, -65, -63, -30, 55])
def test_even_rows_are_searched_alike_at_any_scale_where_denormal_numbers_are_0(exponent: int) -> None:
    """No row weighs much more than others, so float32 is asked first, which loses the squares of such entries."""
    torch.set_flush_denormal(True)
    matrix, salient = torch.randn(64, 128, generator=generator(0)).square(), torch.arange(128) < 5
    threshold, large = search.split_plain(matrix, salient)
    scaled, same = search.split_plain(matrix * 2.0**exponent, salient)
    assert scaled == threshold * 2.0**exponent
    assert torch.equal(same, large)
    assert torch.equal(search.salient_columns(matrix * 2.0**exponent, MOST), search.salient_columns(matrix, MOST))


@pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)
def test_columns(case: tuple[str, int, int, int]) -> None:
    matrix, salient = problem(*case)
    found, expected = search.salient_columns(matrix, MOST), salient.nonzero()[:, 0]
    if not torch.equal(found, expected):
        expected = oracles.salient_columns(matrix.double(), MOST)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plain_split(case: tuple[str, int, int, int]) -> None:
    matrix, salient = problem(*case)
    mask = salient.expand(matrix.shape)

    def oracle(dtype: torch.dtype) -> Split:
        return oracles.split_plain(matrix.to(dtype), salient, oracles.billm(matrix.to(dtype), mask, 2))

    agree(search.split_plain(matrix, salient), oracle)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plain_split_by_inputs(case: tuple[str, int, int, int]) -> None:
    matrix, salient = problem(*case)
    s, rest = metric(case[2], case[3]), oracles.arb(matrix, salient.expand(matrix.shape), 2)

    def oracle(dtype: torch.dtype) -> Split:
        return oracles.split_plain(matrix.to(dtype), salient, rest.to(dtype), s.to(dtype))

    agree(search.split_plain_by_inputs(matrix, salient, rest, s), oracle)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_salient_split(case: tuple[str, int, int, int]) -> None:
    matrix, salient = problem(*case)
    agree(search.split_salient(matrix, salient), lambda dtype: oracles.split_salient(matrix.to(dtype), salient))


@pytest.mark.parametrize("case", [("magnitude", 24, 128, 0), ("hessian_holes", 40, 64, 1)], ids=str)
def test_float64_decides_by_the_oracle_in_float64(case: tuple[str, int, int, int]) -> None:
    matrix = problem(*case)[0].double()
    salient = torch.zeros(case[2], dtype=torch.bool)
    salient[oracles.salient_columns(matrix, MOST)] = True
    assert torch.equal(search.salient_columns(matrix, MOST), salient.nonzero()[:, 0])
    rest, s = oracles.billm(matrix, salient.expand(matrix.shape), 2), metric(case[2], 1).double()
    for found, expected in (
        (search.split_plain(matrix, salient), oracles.split_plain(matrix, salient, rest)),
        (search.split_plain_by_inputs(matrix, salient, rest, s), oracles.split_plain(matrix, salient, rest, s)),
        (search.split_salient(matrix, salient), oracles.split_salient(matrix, salient)),
    ):
        assert found[0] == pytest.approx(expected[0], rel=1e-12)
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("case", GOLDEN.cases.values(), ids=str)
def test_recorded_runs(case: Case) -> None:
    weight, diagonal = case.tensor(case.about["tmp"]), case.tensor(case.about["H"]).diagonal()
    matrix = weight if case.about["metric"] == "magnitude" else weight.square() / diagonal.square()
    columns = search.salient_columns(matrix, case.about["up_lim"])
    assert torch.equal(columns, case.output("salient_columns").long())
    salient = torch.zeros(matrix.shape[1], dtype=torch.bool)
    salient[columns] = True
    if case.about.get("method") == "arb-x":
        fit = oracles.arb(matrix, salient.expand(matrix.shape), 2)
        threshold, large = search.split_plain_by_inputs(matrix, salient, fit, case.tensor(case.about["inp"]))
    else:
        threshold, large = search.split_plain(matrix, salient)
    assert threshold == pytest.approx(float(case.output("split")), rel=1e-6)
    assert torch.equal(group(case, matrix, salient, large), case.output("group").long())


def group(case: Case, matrix: Tensor, salient: Tensor, large: Tensor) -> Tensor:
    """Every entry's group as the case numbers them: small, large, salient in BiLLM, the other way round in ARB-LLM."""
    if "method" not in case.about:
        return torch.where(salient, 2, large.long())
    if not case.about["order2_group"]:
        return torch.where(salient, 0, 2 - large.long())
    salient_large = search.split_salient(matrix, salient)[1]
    return torch.where(salient, 1 - salient_large.long(), 3 - large.long())


@pytest.mark.parametrize("case", BINARIZERS.cases.values(), ids=str)
def test_the_oracles_binarizers_are_those_of_recorded_runs(case: Case) -> None:
    kind, x, mask = case.name.split(".")[0], case.tensor(case.about["x"]), case.tensor(case.about["mask"]).bool()
    s = {"metric": case.tensor(case.about["args"]["S"])} if kind.startswith("arbx") else {}
    expected = case.output()
    assert expected is not None
    distance = (oracles.BINARIZERS[kind](x, mask, **s) - expected).norm() / expected.norm()
    assert distance < 5e-6  # float32 and float64 runs of that code differ by up to 1e-6


@pytest.mark.parametrize("kind", ["magnitude", "holes"])
def test_panels_of_rows_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, salient = problem(kind, *SHAPES[0], 0)
    s, rest = metric(SHAPES[0][1], 0), torch.zeros_like(matrix)

    def everything() -> list[float]:
        splits = search.split_plain(matrix, salient), search.split_plain_by_inputs(matrix, salient, rest, s)
        return [*search.salient_columns(matrix, MOST).tolist(), splits[0][0], splits[1][0]]

    whole = everything()
    monkeypatch.setattr(elimination, "PANEL", 5)
    monkeypatch.setattr(elimination, "LANES", 1)
    assert everything() == whole


def test_a_matrix_of_zeros_has_one_salient_column_and_no_threshold() -> None:
    zeros = torch.zeros(3, 60)
    columns = search.salient_columns(zeros, MOST)
    salient = torch.zeros(60, dtype=torch.bool)
    salient[columns] = True
    assert len(columns) == 1
    for threshold, large in (search.split_plain(zeros, salient), search.split_salient(zeros, salient)):
        assert threshold == 0
        assert large.any()  # an entry equal to the threshold is large


@pytest.mark.parametrize("exponent", [6, 8, 12])
def test_a_column_that_outweighs_all_others_hides_no_error(exponent: int) -> None:
    matrix = torch.randn(32, 128, generator=generator(exponent)).square()
    matrix[:, 0] *= 10.0**exponent
    assert torch.equal(search.salient_columns(matrix, MOST), oracles.salient_columns(matrix.double(), MOST))


def test_of_thresholds_that_leave_no_error_the_first_is_taken() -> None:
    """Two planes give two entries exactly, in whatever groups they are."""
    salient = torch.tensor([True, True, False, False])
    for seed in range(60):
        matrix = torch.randn(50, 4, generator=generator(seed))
        first = oracles.quantiles(matrix[:, :2].abs())[0]
        assert search.split_salient(matrix, salient)[0] == pytest.approx(float(first), rel=1e-6)


def test_a_given_ranking_says_which_columns_come_first() -> None:
    matrix = problem("magnitude", *SHAPES[0], 0)[0]
    ranking = torch.randperm(matrix.shape[1], generator=generator(0)).float()
    found = search.salient_columns(matrix, 9, ranking)
    assert torch.equal(found, ranking.topk(len(found)).indices.sort().values)
    in_order = matrix[:, ranking.argsort(descending=True)]
    descending = torch.arange(matrix.shape[1], 0, -1).float()
    assert torch.equal(search.salient_columns(in_order, 9, descending), torch.arange(len(found)))


@pytest.mark.parametrize("most", [0, 1, 61])
def test_numbers_of_columns_that_cannot_be_tried_are_errors(most: int) -> None:
    with pytest.raises(ValueError, match="2 to 60"):
        search.salient_columns(torch.ones(3, 60), most)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_matrix_that_is_not_finite_is_an_error(value: float) -> None:
    matrix = torch.ones(3, 60)
    matrix[1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        search.salient_columns(matrix, MOST)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_cuda_finds_the_same(case: tuple[str, int, int, int]) -> None:
    matrix, salient = problem(*case)
    s, rest = metric(case[2], case[3]), oracles.arb(matrix, salient.expand(matrix.shape), 2)
    there = [tensor.cuda() for tensor in (matrix, salient, rest, s)]
    assert torch.equal(search.salient_columns(there[0], MOST).cpu(), search.salient_columns(matrix, MOST))
    for found, expected in (
        (search.split_plain(*there[:2]), search.split_plain(matrix, salient)),
        (search.split_salient(*there[:2]), search.split_salient(matrix, salient)),
        (search.split_plain_by_inputs(*there), search.split_plain_by_inputs(matrix, salient, rest, s)),
    ):
        assert found[0] == pytest.approx(expected[0], rel=1e-6)
        assert torch.equal(found[1].cpu(), expected[1])
