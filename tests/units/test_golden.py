"""Every recorded case of the published code, and how its figures are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import generator, normal
from helpers_golden import FOLDER, Description, altered
from safetensors import safe_open
from safetensors.torch import save_file

from binllm.errors import BinllmError
from binllm.golden.files import Case, GoldenFile
from binllm.golden.groups import as_published, published_order
from binllm.golden.layers import SENSITIVITY, LayerCheck, Tolerances
from binllm.golden.outcome import Difference, Outcome, Unjudged, Verdict, relative
from binllm.golden.report import check_of
from binllm.solvers import Feedback

CASES = [
    case
    for name in ("search", "layer_synthetic", "layer_real")
    for case in GoldenFile.read(FOLDER / f"{name}.safetensors").cases.values()
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_gives_what_the_published_code_gave(case: Case) -> None:
    outcome = check_of(case).run()
    chaotic = case.name == "billm.braq.magnitude" and "real" in case.file.kind
    assert outcome.verdict is (Verdict.skipped if chaotic else Verdict.passed), str(outcome)
    assert len(outcome.differences) >= 3


@pytest.mark.parametrize(
    ("about", "what"),
    [
        ({"error": 1555.0}, "reported error, relative 0.0004 > 0.0001"),
        ({"output_relative_error": 0.2725}, "output error 0.00023 > 0.0001"),
        ({"weight_relative_error": 0.7}, "weight error"),
        ({"salient_fraction": 0.03}, "salient fraction"),
        ({"percdamp": 0.02}, "reported error"),
        ({"blocksize": 192}, "weight, relative norm"),
        ({"up_lim": 3}, "groups, fraction"),
        ({"method": "arb"}, "weight, relative norm"),
        ({"salient_metric": "magnitude"}, "groups, fraction"),
        ({"disable_gptq": 1}, "reported error"),
        ({"repository": "ARB-LLM"}, "groups, fraction"),
    ],
)
def test_a_layer_is_run_as_its_description_says(tmp_path: Path, about: Description, what: str) -> None:
    outcome = check_of(altered(tmp_path, "layer_synthetic", "billm.braq.hessian", {}, **about)).run()
    assert outcome.verdict is Verdict.failed
    assert what in str(outcome)


def test_every_stored_output_of_a_layer_counts(tmp_path: Path) -> None:
    case = "arb.arb-rc.hessian"
    with safe_open(FOLDER / "layer_synthetic.safetensors", "pt") as file:
        weight, group, error = (file.get_tensor(f"out.{case}.{what}") for what in ("weight", "group", "error"))
    group[:, :2] = group[:, 2:4]
    changes = {
        "weight": (1.02 * weight, "weight, relative norm"),
        "group": (group, "groups, fraction"),
        "error": (1.001 * error, "reported error, relative"),
    }
    for what, (tensor, figure) in changes.items():
        outcome = check_of(altered(tmp_path, "layer_synthetic", case, {f"out.{case}.{what}": tensor})).run()
        assert [each.what for each in outcome.differences if not each.tolerated] == [figure]


def test_an_unstable_layer_is_shown_and_not_judged(tmp_path: Path) -> None:
    noise = {"relative_change_of_error": 0.05}
    about = {"error": 1.0, SENSITIVITY: noise}
    outcome = check_of(altered(tmp_path, "layer_synthetic", "billm.braq.hessian", {}, **about)).run()
    assert str(outcome).startswith("skipped: noise of 1e-6 in H changes the published error by 5.0%; reported error, ")


@pytest.mark.parametrize(("moved", "allowed"), [(0.01, 5 * 0.0001), (1e-6, 1e-4)])
def test_the_output_error_may_move_as_under_noise_and_no_more_than_the_weight(
    tmp_path: Path, moved: float, allowed: float
) -> None:
    noise = {"output_relative_error": 0.2726, "relative_frobenius_change_of_weight": moved}
    about = {"output_relative_error": 0.2725, SENSITIVITY: noise}
    case = altered(tmp_path, "layer_synthetic", "billm.braq.hessian", {}, **about)
    assert Tolerances.of(case).output_error == pytest.approx(allowed)


def test_another_number_of_thresholds_is_not_judged(tmp_path: Path) -> None:
    for source, case in (("layer_synthetic", "arb.arb.hessian"), ("search", "arb.heavy.hessian.up50")):
        with pytest.raises(Unjudged, match="num_p = 2: this project has one threshold"):
            check_of(altered(tmp_path, source, case, {}, num_p=2))


def scalars_only(folder: Path, source: str, name: str, **about: Any) -> Case:
    """A recorded case without its outputs, in a file that says by its name alone what it is."""
    with safe_open(FOLDER / f"{source}.safetensors", "pt") as file:
        inputs = {key: file.get_tensor(key) for key in file.keys() if key.startswith("in.")}  # noqa: SIM118
        described = json.dumps(json.loads(file.metadata()[name]) | about)
    save_file(inputs, folder / f"{source}.safetensors", {name: described})
    return GoldenFile.read(folder / f"{source}.safetensors").cases[name]


@pytest.mark.parametrize("noise", [None, {"relative_change_of_error": None}])
def test_a_layer_without_a_recorded_error_is_judged_by_the_rest(tmp_path: Path, noise: Any) -> None:
    """A sensitivity that is null, or has one in it, was not recorded."""
    about = {"error": None, "weight_relative_error": None, "salient_fraction": None, SENSITIVITY: noise}
    for error, line in ((0.2725, "failed: output error 0.00023 > 0.0001"), (None, "failed: nothing to compare with")):
        case = scalars_only(tmp_path, "layer_synthetic", "arb.braq.hessian", output_relative_error=error, **about)
        assert str(check_of(case).run()) == line
    case = scalars_only(tmp_path, "layer_synthetic", "arb.braq.hessian", **about)
    assert str(check_of(case).run()).startswith("passed: output error ")


@pytest.mark.parametrize(
    ("about", "beyond"),
    [
        ({}, []),
        ({"n_salient": 4}, ["number of columns"]),
        ({"fractions": [0.0235, 0.1, 0.8765]}, ["fractions of groups"]),
    ],
)
def test_a_search_may_be_judged_by_its_scalars(tmp_path: Path, about: Description, beyond: list[str]) -> None:
    (tmp_path / "binarizers.safetensors").symlink_to(FOLDER / "binarizers.safetensors")
    case = scalars_only(tmp_path, "search", "arb.heavy.hessian.up50", **about)
    outcome = check_of(case).run()
    assert [each.what for each in outcome.differences] == ["number of columns", "fractions of groups"]
    assert [each.what for each in outcome.differences if not each.tolerated] == beyond


def test_rounding_that_moves_a_layer_is_settled_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in both precisions is told with the figures of the first."""
    case = next(case for case in CASES if case.name == "arb.arb.hessian")
    off, fine = Difference("error", 2.0, 1.0), Difference("error", 0.5, 1.0)
    outcomes = {torch.float64: Outcome([off]), torch.float32: Outcome([fine])}
    monkeypatch.setattr(LayerCheck, "_run", lambda self, dtype: outcomes[dtype])
    check = LayerCheck.of(case)
    assert str(check.run()) == "passed: in float32 as published, not in float64 (error 2 > 1); error 0.5 <= 1"
    outcomes[torch.float32] = Outcome([replace(off, value=3.0)])
    assert str(check.run()) == "failed: error 2 > 1"
    del outcomes[torch.float32]  # a run that ends in an error, as a factor may in that precision
    assert str(check.run()) == "failed: error 2 > 1"


def test_a_dead_input_has_weight_zero_and_diagonal_one(tmp_path: Path) -> None:
    """One token (2, 3, 0): H is twice its outer product, with an entry 1 for the third input."""
    tensors = {"in.weight": torch.tensor([[1.0, -2, 5]]), "in.tokens": torch.tensor([[[2.0, 3, 0]]])}
    check = LayerCheck.of(altered(tmp_path, "layer_synthetic", "billm.braq.hessian", tensors))
    problem = check.problem(check.hessian(torch.float64))
    assert problem.weight.tolist() == [[1, -2, 0]]
    torch.testing.assert_close(problem.feedback, torch.tensor([[8.0, 12, 0], [12, 18, 0], [0, 0, 1]]).double())
    assert torch.equal(problem.objective.metric, torch.eye(3).double())


def test_in_float32_the_diagonal_is_that_of_the_published_way_to_it(tmp_path: Path) -> None:
    """Nearly dependent inputs: the inverse of the damped H, in float32, is off by far more than its factors would be."""
    tokens = 1 + 0.01 * normal(2, 8, 6, source=generator(0)).float()
    tensors = {"in.weight": normal(4, 6, source=generator(1)).float(), "in.tokens": tokens}
    about = {"salient_metric": "magnitude", "up_lim": 3}
    check = LayerCheck.of(altered(tmp_path, "layer_synthetic", "billm.braq.hessian", tensors, **about))
    found = {}
    for dtype in (torch.float32, torch.float64):
        hessian = check.hessian(dtype)
        solution, blocks = check.method.solve(check.problem(hessian), 128, Feedback.diagonal, ridge=1e-5)
        damped = hessian + 1e-5 * hessian.diagonal().mean() * torch.eye(6, dtype=dtype)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        diagonal = torch.linalg.cholesky(inverse, upper=True).diagonal().double()
        error = check.weight - blocks[0].dense().T.double()
        assert solution.fed_back == pytest.approx(float((error / diagonal).square().sum()), rel=1e-5)
        found[dtype] = solution.fed_back
    assert found[torch.float32] != pytest.approx(found[torch.float64], rel=1e-3)


def test_the_hessian_is_that_of_all_sequences(tmp_path: Path) -> None:
    tokens = normal(3, 5, 4, source=generator(0)).float()
    tensors = {"in.weight": torch.ones(2, 4), "in.tokens": tokens}
    check = LayerCheck.of(altered(tmp_path, "layer_synthetic", "arb.arb-x.hessian", tensors))
    x = tokens.double().flatten(0, 1)
    hessian = check.hessian(torch.float64)
    torch.testing.assert_close(hessian, 2 / 3 * x.T @ x)
    problem = check.problem(hessian)
    assert problem.feedback_is_objective, "ARB-X fits to the outputs"
    assert problem.objective.value(problem.weight) == pytest.approx(0)


@pytest.mark.parametrize(
    ("groups", "grouped", "order"),
    [
        ("0 = mask1 (small, order 1), 1 = mask2 (large, order 1), 2 = mask3 (salient columns, order 2)", 0, (0, 1, 2)),
        ("0 = salient columns (order 2), 1 = large (order 1), 2 = small (order 1)", 0, (2, 1, 0)),
        ("0 = salient large, 1 = salient small (order 2), 2 = other large, 3 = other small", 1, (3, 2, 1, 0)),
        ("0 = other small, 1 = salient large, 2 = salient small, 3 = other large", 1, (0, 3, 2, 1)),
    ],
)
def test_groups_are_numbered_as_described(groups: str, grouped: bool, order: tuple[int, ...]) -> None:
    case = replace(CASES[0], about={"groups": groups})
    assert published_order(case, billm=not grouped, grouped=bool(grouped)) == order
    cells = torch.tensor([list(order)], dtype=torch.uint8)
    assert as_published(cells, order).tolist() == [list(range(len(order)))]


def test_four_groups_described_for_billm_in_arbs_code_are_its_three() -> None:
    """That code ignores ``order2_group`` there."""
    text = "0 = salient large, 1 = salient small (order 2), 2 = other large, 3 = other small"
    case = replace(CASES[0], about={"groups": text})
    assert published_order(case, billm=False, grouped=False) == (2, 1, 0)


def test_groups_that_are_not_understood_are_refused() -> None:
    for text in ("0 = small, 1 = large", "0 = small, 1 = small, 2 = salient", "0 = a, 1 = b, 2 = c"):
        with pytest.raises(BinllmError, match="groups"):
            published_order(replace(CASES[0], about={"groups": text}), billm=True, grouped=False)


def test_differences_of_zeros_and_nans() -> None:
    assert relative(0.0, 0.0) == 0
    assert relative(1e-3, 0.0) == 1e-3
    assert relative(1.1, 1.0, floor=10.0) == pytest.approx(0.01)
    assert not Difference("x", relative(float("nan"), 1.0), 1e9).tolerated
