"""``binllm-tools golden FOLDER``: what the published code of BiLLM and ARB-LLM gave, against what this project gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from binllm.errors import bad_value
from binllm.golden.binarizers import BinarizerCheck
from binllm.golden.files import Case, read_folder
from binllm.golden.layers import LayerCheck
from binllm.golden.outcome import Check, Outcome, Verdict
from binllm.golden.searches import SearchCheck

KINDS: dict[str, Callable[[Case], Check]] = {
    "binarizers": BinarizerCheck.of,
    "search": SearchCheck.of,
    "layer": LayerCheck.of,
}


def print_report(folder: Path) -> bool:
    """Run all cases of a folder of golden vectors: a line each, and the counts at the end.

    Every case is read before the first one runs, so that a folder with a mistake in it costs no time.

    Returns:
        Whether no case failed.

    Raises:
        BinllmError: A folder that is missing, empty or of another format; an unknown function; a missing tensor.
    """
    checks = [(case, check_of(case)) for file in read_folder(folder) for case in file.cases.values()]
    counts = dict.fromkeys(Verdict, 0)
    for case, check in checks:
        outcome = _run(check)
        counts[outcome.verdict] += 1
        print(f"{case} {outcome}", flush=True)
    if counts[Verdict.skipped]:
        print(f"{counts[Verdict.skipped]} skipped")
    print(f"{counts[Verdict.passed]} passed, {counts[Verdict.failed]} failed")
    return counts[Verdict.failed] == 0


def check_of(case: Case) -> Check:
    """Read a case by what the kind of its file, a few words, says it is.

    Raises:
        BinllmError: An unknown kind or function, a missing tensor, or an argument that is missing or cannot be.
    """
    fitting = [read for word, read in KINDS.items() if word in case.file.kind.lower()]
    if not fitting:
        raise bad_value(f"{case.file.path.name}: kind", case.file.kind, f"words with one of {', '.join(KINDS)} in them")
    return fitting[0](case)


def _run(check: Check) -> Outcome:
    try:
        return check.run()
    except (ValueError, RuntimeError, IndexError) as error:  # shapes that do not fit, or numbers out of range
        return Outcome(broken=f"{type(error).__name__}: {error}".replace("\n", " "))
