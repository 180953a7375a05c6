"""What the documents tell a user to type works."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
from helpers_command import Preloaded

from binllm import tools
from binllm.configuration import compose_run
from binllm.schema import build
from binllm.tracking.folder import RunPaths

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("*.md")])
COMMAND = re.compile(r"^ {4}(?:\.venv/bin/)?(binllm .*?)(?: {2,}.*)?$|`(binllm [^`]+)`", flags=re.MULTILINE)
TOOL = re.compile(r"^ {4}(binllm-tools [^\[\n]*?)(?: {2,}.*)?$", flags=re.MULTILINE)
NOT_HERE = ("/a/", "plugins", "--", "...", "RUN")  # names files of the reader's, or is no run


def commands() -> list[str]:
    found = {m[1] or m[2] for d in DOCUMENTS for m in COMMAND.finditer(d.read_text(encoding="utf-8"))}
    return sorted(command for command in found if not any(part in command for part in NOT_HERE))


@pytest.mark.parametrize("command", commands())
def test_the_commands_compose(command: str) -> None:
    compose(shlex.split(command)[1:])


def compose(arguments: list[str]) -> None:
    """Build as many jobs as it takes to see every value of a sweep."""
    swept = []
    for key, _, value in (word.partition("=") for word in arguments if word != "-m"):
        swept.append([f"{key}={one}" for one in ([value] if "[" in value else value.split(","))])
    for job in range(max(map(len, swept), default=1)):
        build(compose_run([own[min(job, len(own) - 1)] for own in swept]))


def tool_commands() -> list[str]:
    return sorted({m[1] for d in DOCUMENTS for m in TOOL.finditer(d.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("command", tool_commands())
def test_the_tools_take_these_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *words = shlex.split(command)[1:]
    said = {}
    own = tools.COMMANDS[name]
    monkeypatch.setitem(tools.COMMANDS, name, functools.wraps(own)(lambda *_, **given: said.update(given)))
    tools.main([name, *words])
    compose(words if name == "plan" else said.get("settings", []))


def test_the_readme_holds_the_table_of_the_ablations_as_committed() -> None:
    table = (ROOT / "results" / "ablations" / "ratios.md").read_text(encoding="utf-8")
    assert f"<!-- ablations -->\n{table}<!-- /ablations -->" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_commands() -> None:
    assert len(commands()) > 10 and len(tool_commands()) > 10


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
