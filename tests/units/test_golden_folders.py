"""``binllm-tools golden`` on folders made by hand: the lines, the counts, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import hand_made, report, write

from binllm import tools


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
