"""Which runs a table takes, and which of them may share one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from binllm.errors import BinllmError, bad_value
from binllm.tracking.runs import Run


def select(runs: Iterable[Run], only: Sequence[str]) -> list[Run]:
    """Keep runs whose configuration has the asked values.

    Args:
        runs: Any runs.
        only: Conditions ``KEY=VALUE[,VALUE]`` with dotted keys.

    Raises:
        BinllmError: A condition has no ``=``, or no run has its key.
    """
    chosen = list(runs)
    for condition in only:
        key, equals, values = condition.partition("=")
        known = {name for run in chosen for name in run.settings}
        if not equals:
            raise bad_value("--only", condition, "KEY=VALUE or KEY=VALUE,VALUE")
        if chosen and key not in known:
            raise bad_value("--only", key, known)
        chosen = [run for run in chosen if str(run.settings.get(key)) in values.split(",")]
    return chosen


def check_same(first: Run, second: Run) -> None:
    """Check that two runs of one configuration and seed are one run under two names, such as a preset's.

    Raises:
        BinllmError: They have different perplexities: made by different versions of the code.
    """
    if first.quantized.perplexity != second.quantized.perplexity:
        raise BinllmError(
            f"{first.folder} and {second.folder} are one configuration with one seed and differ in perplexity: "
            "made by different versions of the code they cannot share a table; remove one"
        )
