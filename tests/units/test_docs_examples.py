"""What the documents tell a user to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from helpers_command import Preloaded

from binllm.configuration import compose_run
from binllm.schema import build
from binllm.tracking.folder import RunPaths

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("*.md")])
COMMAND = re.compile(r"^ {4}(?:\.venv/bin/)?(binllm .*?)(?: {2,}.*)?$|`(binllm [^`]+)`", flags=re.MULTILINE)
NOT_HERE = ("/a/", "plugins", "--", "...", "RUN")  # names files of the reader's, or is no run


def commands() -> list[str]:
    found = {m[1] or m[2] for d in DOCUMENTS for m in COMMAND.finditer(d.read_text(encoding="utf-8"))}
    return sorted(command for command in found if not any(part in command for part in NOT_HERE))


@pytest.mark.parametrize("command", commands())
def test_the_commands_compose(command: str) -> None:
    arguments = [argument for argument in shlex.split(command)[1:] if argument != "-m"]
    one_job = [argument if "[" in argument else argument.split(",")[0] for argument in arguments]
    build(compose_run(one_job))


def test_there_are_commands() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


def test_the_objective_of_the_how_to_page_runs(tmp_path: Path, command: Preloaded) -> None:
    page = (ROOT / "docs" / "add_an_objective.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert code is not None
    (tmp_path / "diagonal.py").write_text(code[1], encoding="utf-8")
    done = command(
        tmp_path, "debug=tiny", "plugins=[diagonal.py]", "objective=diagonal", "objective.exponent=0.5", "threads=1"
    )
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "results").glob("tiny_llama-diagonal-*")
    assert {layer.objective for layer in RunPaths(folder).read_layers()} == {"diagonal"}
