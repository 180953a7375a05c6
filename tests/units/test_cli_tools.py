"""``binllm-tools``: a sub-command is a function, a mistake is one line."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import pytest

from binllm import tools
from binllm.tracking.folder import RunFolder
from binllm.tracking.records import RunRecord


class Form(Enum):
    text = "text"
    html = "html"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
    calls: list = []

    def collect(
        runs: list[Path],
        limit: int | None = None,
        form: Form = Form.text,
        all_of_them: bool = False,
        only: list[str] = [],  # noqa: B006
    ) -> None:
        """Do something with runs.

        More about it.
        """
        calls.append((runs, limit, form, all_of_them, only))

    monkeypatch.setitem(tools.COMMANDS, "collect", collect)
    return calls


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        tools.main(words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_functions_parameters_are_the_arguments(calls: list):
    tools.main(["collect", "a", "b"])
    tools.main(["collect", "a", "--limit", "3", "--form", "html", "--all-of-them", "--only", "one", "two"])
    assert calls == [
        ([Path("a"), Path("b")], None, Form.text, False, []),
        ([Path("a")], 3, Form.html, True, ["one", "two"]),
    ]


def test_help_names_commands_and_arguments(calls: list, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        tools.main(["--help"])
    text = capsys.readouterr().out
    assert "inspect" in text
    assert "Do something with runs." in text
    with pytest.raises(SystemExit, match="0"):
        tools.main(["collect", "--help"])
    assert "--all-of-them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["inspct"],
            "sub-command = inspct: allowed are collect, compare, diagnose, evaluate, export, figures, generate, golden, "
            "inspect, plan, report, tables; did you mean 'inspect'?",
        ),
        ([], "the following arguments are required: COMMAND; see binllm-tools --help"),
        (["inspect"], "the following arguments are required: RUN; see binllm-tools inspect --help"),
        (["collect", "a", "--limit", "x"], "argument --limit: invalid int value: 'x'; see binllm-tools collect --help"),
        (
            ["collect", "a", "--form", "pdf"],
            "argument --form: pdf is none of text, html; see binllm-tools collect --help",
        ),
        (["inspect", "/no/such/run"], "RUN = /no/such/run: allowed is an existing run folder"),
    ],
)
def test_a_mistake_is_one_line(calls: list, capsys: pytest.CaptureFixture[str], words: list[str], message: str):
    assert failure(capsys, *words) == f"binllm-tools: error: {message}\n"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "a run folder; this one has neither run.json nor layers.jsonl" in failure(capsys, "inspect", str(tmp_path))


def test_inspect_prints_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with RunFolder.open(tmp_path, "a-run") as folder:
        folder.write_record(RunRecord(run_id="a-run", config_hash="0"))
    tools.main(["inspect", str(folder.path)])
    assert "a-run" in capsys.readouterr().out
