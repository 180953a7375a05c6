"""``binllm-tools golden`` on folders made by hand: the lines, the counts, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import hand_made, report, write

from binllm import tools
from binllm.golden.binarizers import BinarizerCheck, Tolerances
from binllm.golden.files import GoldenFile

FIRST, X_SECOND = "high_order_residual_alternating_order1", "high_order_residual_alternating_mean_x"


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
    line = "some.safetensors case skipped: inputs.safetensors is not in the folder"
    assert report(capsys, tmp_path) == (0, [line, "1 skipped", "0 passed, 0 failed"])
    (tmp_path / "inputs.safetensors").write_bytes(b"not one")
    code, lines = report(capsys, tmp_path)
    assert (code, lines[-1]) == (1, "0 passed, 2 failed")
    assert all("failed: inputs.safetensors: not a safetensors file" in line for line in lines[:-1])


@pytest.mark.parametrize(
    ("about", "verdict", "message"),
    [
        (hand_made(function="high_order_residua"), "failed", "did you mean 'high_order_residual'?"),
        (hand_made(x="in.b.x"), "failed", "tensor in.b.x is missing"),
        (hand_made(mask=None), "failed", "mask is missing"),
        (hand_made(mask="in.b.mask"), "failed", "RuntimeError"),
        (hand_made(args={"order": 3}), "skipped", "order = 3: this project has one or two sign planes"),
        (hand_made(args={"order": 0}), "failed", "order = 0: allowed is 1 or 2"),
        (hand_made(args={"order": "one"}), "failed", "order = one is not of type int"),
        (hand_made(function=X_SECOND, args={}), "failed", "tensor None is missing"),
        (hand_made(function=FIRST, args={"order": 2}), "failed", "order = 2: allowed is 1"),
        ("[]", "failed", "function is missing"),
        ("{", "failed", "function is missing"),
    ],
)
def test_a_mistake_in_a_case_is_on_its_line_and_keeps_no_other_from_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], about: Any, verdict: str, message: str
) -> None:
    tensors = {"in__b__mask": torch.ones(1, 3), "out__mistaken": torch.ones(1, 4)}
    code, lines = report(capsys, write(tmp_path, {"case": hand_made(), "mistaken": about}, **tensors))
    assert lines[1].startswith(f"some.safetensors mistaken {verdict}: ")
    assert message in lines[1]
    assert (code, lines[-1]) == ((1, "1 passed, 1 failed") if verdict == "failed" else (0, "1 passed, 0 failed"))


def test_a_function_has_the_order_of_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two planes where it says none: the errors -.5, .5, 0, 2.5 of the first have mean .625 and scale .9375."""
    cases = {"case": hand_made(function=FIRST, args={"iter": 0}), "second": hand_made(args=None)}
    second = torch.tensor([[1.1875, 1.1875, 3.6875, 8.0625]])
    assert report(capsys, write(tmp_path, cases, out__second=second))[1][-1] == "2 passed, 0 failed"


def test_what_is_recorded_is_what_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No output is stored: squared errors 0.25, 0.25, 0 and 6.25 are compared, or nothing is."""
    cases = {
        "none": hand_made(sse_inside_mask=None),
        "right": hand_made(sse_inside_mask=6.75),
        "wrong": hand_made(sse_inside_mask=6.751),
    }
    code, lines = report(capsys, write(tmp_path, cases))
    assert (code, lines[-1]) == (1, "1 passed, 2 failed")
    assert lines[0] == "some.safetensors none failed: nothing to compare with"
    assert lines[1].startswith("some.safetensors right passed: sse_inside_mask ")
    assert lines[2].startswith("some.safetensors wrong failed: sse_inside_mask 0.00015 > 1e-05")


def test_notes_are_no_cases_and_a_file_may_be_known_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {"format": "pt", "about": "{}", "_note": hand_made(), "case": hand_made()}
    write(tmp_path, cases, kind=None).joinpath("some.safetensors").rename(tmp_path / "some_binarizers.safetensors")
    code, lines = report(capsys, tmp_path)
    assert (code, lines[1:]) == (0, ["1 passed, 0 failed"])


def test_a_file_that_cannot_be_read_is_a_failure_among_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"case": hand_made()}).joinpath("stray.safetensors").write_bytes(b"not one")
    code, lines = report(capsys, tmp_path)
    assert (code, lines[-1]) == (1, "1 passed, 1 failed")
    assert lines[1].startswith("stray.safetensors failed: stray.safetensors: not a safetensors file (")


@pytest.mark.parametrize("kind", ["eigenvalues", None, 3])
def test_a_file_of_an_unknown_kind_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Any) -> None:
    code, lines = report(capsys, write(tmp_path, {"case": hand_made()}, kind=kind))
    shown = kind if isinstance(kind, str) else "some"
    message = f"kind = {shown}: allowed is words with one of binarizers, search, layer in them"
    assert lines == [f"some.safetensors case failed: {message}", "0 passed, 1 failed"]
    assert code == 1


def test_a_folder_without_cases_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = {
        tmp_path / "no": "allowed is an existing folder",
        tmp_path: "this one has no .safetensors file",
        write(tmp_path / "notes", {}): "has no cases",
    }
    for folder, message in folders.items():
        with pytest.raises(SystemExit) as ended:
            tools.main(["golden", str(folder)])
        assert ended.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("binllm-tools: error: ")
        assert message in err
        assert err.count("\n") == 1


def test_rounding_at_a_tie_is_settled_in_float64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean 2^-28 of the row is lost in float32, where the entry 0 then has no sign."""
    tensors = {
        "in__a__x": torch.tensor([[1.0, 2**-26, 0, -1]]),
        "out__case": torch.tensor([[0.5, 0.5, 0, -0.5]]),
        "out__exact": torch.tensor([[0.5, 0.5, -0.5, -0.5]]),
        "out__neither": torch.tensor([[0.5, 0.5, 0.5, -0.5]]),
    }
    cases = {name: hand_made() for name in ("case", "exact", "neither")}
    code, lines = report(capsys, write(tmp_path, cases, **tensors))
    assert (code, lines[-1]) == (1, "2 passed, 1 failed")
    assert "float64" not in lines[0]
    beyond = "fraction of entries off by 1e-05 max|x| 0.25 > 0.001"
    assert f"exact passed: in float64, not in float32 as published ({beyond}); fraction" in lines[1]
    assert lines[2] == f"some.safetensors neither failed: {beyond}"


@pytest.mark.parametrize(
    ("seen", "entry", "far", "scalar"),
    [
        (None, 1e-5, 1e-3, 1e-5),
        ({"frac_off": 0.0, "max_abs": 9 * 4e-6, "rel_obj": 3e-5}, 1.4e-5, 1e-3, 4e-5),
        ({"frac_off": 2e-3, "max_abs": 5.0, "rel_obj": None}, 1e-5, 3e-3, 1e-5),
        ({"frac_off": 1.0, "max_abs": 5.0, "rel_obj": 1.0}, 1e-5, 1e-2, 1e-4),
        ({"frac_off": float("nan"), "max_abs": float("nan"), "rel_obj": float("nan")}, 1e-5, 1e-3, 1e-5),
    ],
)
def test_a_recorded_difference_to_float64_widens_tolerances_up_to_a_limit(
    tmp_path: Path, seen: Any, entry: float, far: float, scalar: float
) -> None:
    write(tmp_path, {"case": hand_made(float64_difference=seen)})
    case = GoldenFile.read(tmp_path / "some.safetensors").cases["case"]
    tolerances = Tolerances.of(BinarizerCheck.of(case))
    assert (tolerances.entry, tolerances.far, tolerances.scalar) == pytest.approx((entry, far, scalar))
