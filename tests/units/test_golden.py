"""``binllm-tools golden``: every recorded case of the published code, and what is said of folders with mistakes in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import generator, normal
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from binllm import tools
from binllm.errors import BinllmError
from binllm.golden.files import Case, GoldenFile
from binllm.golden.groups import as_published, published_order
from binllm.golden.layers import LayerCheck, Tolerances
from binllm.golden.outcome import Difference, Outcome, Verdict, relative
from binllm.golden.report import check_of
from binllm.solvers import Feedback

FOLDER = Path(__file__).parent.parent / "golden"
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


Description = dict[str, Any]


def hand_made(**changes: Any) -> Description:
    """Row (1, 2, 4, 9): mean 4 and scale 2.5; the entry at the mean has no sign."""
    return {"function": "high_order_residual", "x": "in.a.x", "mask": "in.a.mask", "args": {"order": 1}} | changes


def write(folder: Path, cases: dict[str, Any], kind: Any = "pure binarizers", **tensors: Tensor) -> Path:
    """A file with the tensors of `hand_made` and these; names have ``__`` for a dot."""
    own = {
        "in.a.x": torch.tensor([[1.0, 2, 4, 9]]),
        "in.a.mask": torch.ones(1, 4, dtype=torch.uint8),
        "out.case": torch.tensor([[1.5, 1.5, 4, 6.5]]),
    }
    own |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    metadata = {name: about if isinstance(about, str) else json.dumps(about) for name, about in cases.items()}
    folder.mkdir(exist_ok=True)
    save_file(own, folder / "some.safetensors", metadata | ({"_about": json.dumps({"kind": kind})} if kind else {}))
    return folder


def report(capsys: pytest.CaptureFixture[str], folder: Path) -> tuple[int, list[str]]:
    """Exit code and lines of the command."""
    code = 0
    try:
        tools.main(["golden", str(folder)])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert err == ""
    return code, out.splitlines()


def test_a_line_for_each_case_and_the_counts_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, flipped = torch.tensor([[1.5, 1.5, 4, 6.6]]), torch.tensor([[1.5, 1.5, 1.5, 6.5]])
    cases = {name: hand_made() for name in ("case", "flipped", "wrong")}
    code, lines = report(capsys, write(tmp_path, cases, out__wrong=wrong, out__flipped=flipped))
    assert code == 1
    assert [line.split(":")[0] for line in lines[:-1]] == [
        "some.safetensors case passed",
        "some.safetensors flipped failed",
        "some.safetensors wrong failed",
    ]
    assert "fraction of entries off by 1e-05 max|x| 0.25 > 0.001" in lines[2]
    assert lines[-1] == "1 passed, 2 failed"


def test_a_scalar_alone_fails_a_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Squared errors 0.25, 0.25, 0 and 6.25."""
    cases = {"case": hand_made(sse_inside_mask=6.75)}
    assert report(capsys, write(tmp_path, cases)) == (0, [*report(capsys, tmp_path)[1][:-1], "1 passed, 0 failed"])
    code, lines = report(capsys, write(tmp_path, {"case": hand_made(sse_inside_mask=6.751)}))
    assert (code, lines[-1]) == (1, "0 passed, 1 failed")
    assert "sse_inside_mask 0.00015 > 1e-05" in lines[0]


def test_inputs_may_lie_in_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {}).joinpath("some.safetensors").rename(tmp_path / "inputs.safetensors")
    cases = {"case": hand_made(x="inputs.safetensors:in.a.x", mask="some.safetensors:in.a.mask")}
    assert report(capsys, write(tmp_path, cases))[1][-1] == "1 passed, 0 failed"
    (tmp_path / "inputs.safetensors").unlink()
    assert "case: tensor inputs.safetensors:in.a.x is missing" in refused(capsys, tmp_path)


def refused(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    with pytest.raises(SystemExit) as ended:
        tools.main(["golden", str(folder)])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("binllm-tools: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (hand_made(function="high_order_residua"), "did you mean 'high_order_residual'?"),
        (hand_made(x="in.b.x"), "some.safetensors case: tensor in.b.x is missing"),
        (hand_made(mask=None), "some.safetensors case: mask is missing"),
        (hand_made(args={"order": 3}), "order = 3: allowed is 1 or 2"),
        (hand_made(args={"order": "one"}), "order = one is not of type int"),
        (hand_made(function="high_order_residual_alternating_mean_x", args={}), "tensor None is missing"),
        (hand_made(function="high_order_residual_alternating_order1", args={}), "order = 2: allowed is 1"),
        ("[]", "the metadata of case is not a JSON object"),
        ("{", "the metadata of case is not a JSON object"),
    ],
)
def test_a_mistake_in_a_case_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], about: Any, message: str
) -> None:
    assert message in refused(capsys, write(tmp_path, {"case": about}))


def test_a_missing_output_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tensor out.other is missing" in refused(capsys, write(tmp_path, {"other": hand_made()}))


def test_a_folder_of_another_format_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "allowed is an existing folder" in refused(capsys, tmp_path / "no")
    assert "this one has no .safetensors file" in refused(capsys, tmp_path)
    assert "has no cases" in refused(capsys, write(tmp_path, {}))
    assert "has no _about with a kind" in refused(capsys, write(tmp_path, {}, kind=None))
    assert "has no _about with a kind" in refused(capsys, write(tmp_path, {}, kind=3))
    message = "some.safetensors: kind = eigenvalues: allowed is words with one of binarizers, search, layer in them"
    assert message in refused(capsys, write(tmp_path, {"case": hand_made()}, kind="eigenvalues"))
    (tmp_path / "some.safetensors").write_bytes(b"not one")
    assert "some.safetensors: not a safetensors file" in refused(capsys, tmp_path)


def test_shapes_that_do_not_fit_fail_the_case_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {"case": hand_made(), "other": hand_made(mask="in.b.mask")}
    tensors = {"in__b__mask": torch.ones(1, 3), "out__other": torch.ones(1, 4)}
    code, lines = report(capsys, write(tmp_path, cases, **tensors))
    assert (code, lines[-1]) == (1, "1 passed, 1 failed")
    assert "other failed: RuntimeError" in lines[1]


def altered(folder: Path, source: str, case: str, tensors: dict[str, Tensor], **about: Any) -> Case:
    """A recorded case with other tensors or another description."""
    with safe_open(FOLDER / f"{source}.safetensors", "pt") as file:
        own = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        metadata = file.metadata()
    described = json.dumps(json.loads(metadata[case]) | about)
    save_file(own | tensors, folder / "altered.safetensors", {"_about": metadata["_about"], case: described})
    return GoldenFile.read(folder / "altered.safetensors").cases[case]


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
    about = {"error": 1.0, "sensitivity_to_1e_6_noise_in_H": noise}
    outcome = check_of(altered(tmp_path, "layer_synthetic", "billm.braq.hessian", {}, **about)).run()
    assert str(outcome).startswith("skipped: noise of 1e-6 in H changes the published error by 5.0%; reported error, ")


@pytest.mark.parametrize(("moved", "allowed"), [(0.01, 5 * 0.0001), (1e-6, 1e-4)])
def test_the_output_error_may_move_as_under_noise_and_no_more_than_the_weight(
    tmp_path: Path, moved: float, allowed: float
) -> None:
    noise = {"output_relative_error": 0.2726, "relative_frobenius_change_of_weight": moved}
    about = {"output_relative_error": 0.2725, "sensitivity_to_1e_6_noise_in_H": noise}
    case = altered(tmp_path, "layer_synthetic", "billm.braq.hessian", {}, **about)
    assert Tolerances.of(case).output_error == pytest.approx(allowed)


def test_another_number_of_thresholds_is_skipped(tmp_path: Path) -> None:
    about = {"num_p": 2, "tmp": "in.heavy.H", "inp": "in.heavy.H"}
    for source, case in (("layer_synthetic", "arb.arb.hessian"), ("search", "arb.heavy.hessian.up50")):
        assert check_of(altered(tmp_path, source, case, {}, **about)).run().verdict is Verdict.skipped


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


def test_groups_that_are_not_understood_are_refused() -> None:
    for text in ("0 = small, 1 = large", "0 = small, 1 = small, 2 = salient", "0 = a, 1 = b, 2 = c"):
        with pytest.raises(BinllmError, match="groups"):
            published_order(replace(CASES[0], about={"groups": text}), billm=True, grouped=False)


def test_differences_of_zeros_and_nans() -> None:
    assert relative(0.0, 0.0) == 0
    assert relative(1e-3, 0.0) == 1e-3
    assert relative(1.1, 1.0, floor=10.0) == pytest.approx(0.01)
    assert not Difference("x", relative(float("nan"), 1.0), 1e9).tolerated
