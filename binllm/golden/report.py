"""``binllm-tools golden FOLDER``: what the published code of BiLLM and ARB-LLM gave, against what this project gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from binllm.errors import BinllmError, bad_value
from binllm.golden.binarizers import BinarizerCheck
from binllm.golden.files import Case, GoldenFile, files_of
from binllm.golden.layers import LayerCheck
from binllm.golden.outcome import Check, Outcome, Verdict, attempt
from binllm.golden.searches import SearchCheck

KINDS: dict[str, Callable[[Case], Check]] = {
    "binarizers": BinarizerCheck.of,
    "search": SearchCheck.of,
    "layer": LayerCheck.of,
}


def print_report(folder: Path) -> bool:
    """Run all cases of a folder of golden vectors: a line each, and the counts at the end.

    A case or a file that cannot be read counts as failed, and keeps no other case from being run.

    Returns:
        Whether no case failed.

    Raises:
        BinllmError: A folder that is missing or has no cases.
    """
    counts = dict.fromkeys(Verdict, 0)
    for name, outcome in _outcomes(folder):
        counts[outcome.verdict] += 1
        print(f"{name} {outcome}", flush=True)
    if not any(counts.values()):
        what = "a folder of golden vectors; this one has no cases in its .safetensors files"
        raise bad_value("FOLDER", folder, what)
    if counts[Verdict.skipped]:
        print(f"{counts[Verdict.skipped]} skipped")
    print(f"{counts[Verdict.passed]} passed, {counts[Verdict.failed]} failed")
    return counts[Verdict.failed] == 0


def check_of(case: Case) -> Check:
    """Read a case by what the kind of its file, a few words, says it is.

    Raises:
        BinllmError: An unknown kind or function, a missing tensor, or an argument that is missing or cannot be.
        Unjudged: A missing file, or an argument that this project does not have.
    """
    fitting = [read for word, read in KINDS.items() if word in case.file.kind.lower()]
    if not fitting:
        raise bad_value("kind", case.file.kind, f"words with one of {', '.join(KINDS)} in them")
    return fitting[0](case)


def _outcomes(folder: Path) -> Iterator[tuple[str, Outcome]]:
    """What came out of every case by its name, and of every file that cannot be read."""
    for path in files_of(folder):
        try:
            file = GoldenFile.read(path)
        except BinllmError as error:
            yield path.name, Outcome(broken=str(error))
            continue
        for case in file.cases.values():
            yield str(case), attempt(partial(_run, case))


def _run(case: Case) -> Outcome:
    return check_of(case).run()
