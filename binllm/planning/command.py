"""``binllm-tools plan``: the runs of a command line with what is there of them and what is left to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from rich import box
from rich.console import Console
from rich.table import Table

from binllm.errors import BinllmError, bad_value
from binllm.explain import COMPOSITION_ERRORS, explain
from binllm.identity import Identity, identify
from binllm.launching import CommandLine, parsed
from binllm.models.geometry import geometry_of
from binllm.planning.costs import UNKNOWN, Cost, Costs
from binllm.planning.runs import Found, State, check_results, look_up
from binllm.tracking.memory import format_bytes
from binllm.tracking.progress import format_seconds
from binllm.tracking.tables import wide

SWEEP = ("-m", "--multirun")
STUCK = (State.refused, State.unreadable)
LEFT = (State.partial, State.failed, State.missing)  # what the command would do


@dataclass(frozen=True)
class Planned:
    """One job.

    Attributes:
        overrides: What tells it from the other jobs.
        name: Of its run folder; empty for a configuration that is refused.
        found: What is there of it.
        blocks: Of its model; None if unknown.
        cost: Of the whole run.
    """

    overrides: str
    name: str
    found: Found
    blocks: int | None = None
    cost: Cost = UNKNOWN

    @property
    def seconds(self) -> float | None:
        """Of what is left to do; None if unknown."""
        if self.found.state not in LEFT:
            return 0.0
        return self.cost.left(self.found.blocks / self.blocks if self.blocks else 0.0)


def plan(arguments: Sequence[str], console: Console | None = None) -> list[Planned]:
    """Print the runs that ``binllm`` would do with these arguments; run nothing.

    Args:
        arguments: As ``binllm`` takes them, with ``-m`` for a sweep. The launcher plays no part.
        console: Where to print; stdout by default.

    Returns:
        The jobs in order.

    Raises:
        BinllmError: The command line cannot be composed, or ``paths.results`` is no folder of run folders.
    """
    for argument in arguments:
        if argument.startswith("-") and argument not in SWEEP:
            raise bad_value("OVERRIDES", argument, "-m and overrides, as binllm takes them")
    kept = [one for one in arguments if not one.startswith(("hydra/launcher=", "hydra.launcher."))]
    try:
        with parsed([*kept, "hydra/launcher=basic"]) as said:
            jobs = list(_jobs(said))
    except COMPOSITION_ERRORS as error:
        raise BinllmError(explain(error, arguments)) from error
    _show(jobs, wide(console or Console()))
    return jobs


def _jobs(said: CommandLine) -> Iterator[Planned]:
    jobs = said.jobs()
    shared = {word for word in jobs[0] if all(word in job for job in jobs)} if len(jobs) > 1 else set()
    costs: dict[Path, Costs] = {}
    seen: set[tuple[Path, str]] = set()
    for job in jobs:
        label = " ".join(word for word in job if word not in shared)
        composed = said.compose(job)
        try:
            one = identify(composed)
        except (BinllmError, OmegaConfBaseException) as error:
            yield Planned(label, "", Found(State.refused, note=explain(error)))
            continue
        results = Path(one.config.paths.results).expanduser().absolute()
        if results not in costs:
            check_results(results)
            costs[results] = Costs(results)
        found = Found(State.repeated) if (results, one.name) in seen else look_up(results, one.name)
        seen.add((results, one.name))
        yield Planned(label, one.name, found, _blocks(one), costs[results].of(one))


def _blocks(one: Identity) -> int | None:
    try:
        return geometry_of(one.config.model).blocks
    except BinllmError:
        return None  # the cost says why


def _show(jobs: Sequence[Planned], console: Console) -> None:
    states = Counter(job.found.state for job in jobs)
    counts = ", ".join(f"{states[state]} {state.value}" for state in State if states[state])
    table = Table(title=f"{len(jobs)} {'run' if len(jobs) == 1 else 'runs'}: {counts}", box=box.SIMPLE_HEAVY)
    for heading in ("overrides", "run", "state", "blocks", "time left", "memory", "time and memory from"):
        table.add_column(
            heading, justify="right" if heading in ("blocks", "time left", "memory") else "left", overflow="fold"
        )
    for job in jobs:
        table.add_row(*_cells(job))
    console.print(table, highlight=False, markup=False)
    for job in jobs:
        if job.found.note:
            console.print(
                f"{job.found.state.value}: {job.name or job.overrides}: {job.found.note}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    console.print(_total(jobs), highlight=False, markup=False, soft_wrap=True)


def _cells(job: Planned) -> tuple[str, ...]:
    state, done = job.found.state, job.found.blocks
    blocks = f"{done}/{job.blocks or '?'}" if state in (*LEFT, State.running) else ""
    left = "?" if job.seconds is None else format_seconds(job.seconds) if state in LEFT else ""
    peak = format_bytes(job.cost.bytes) if job.cost.bytes else "?" if job.name else ""
    return job.overrides, job.name, state.value, blocks, left, peak, job.cost.source


def _total(jobs: Sequence[Planned]) -> str:
    left = [job for job in jobs if job.found.state in LEFT]
    stuck = sum(job.found.state in STUCK for job in jobs)
    cannot = f"; {stuck} cannot be done, as said above" if stuck else ""
    if not left:
        return f"nothing is left to do{cannot}"
    known = [job.seconds for job in left if job.seconds is not None]
    peaks = [job.cost.bytes for job in left if job.cost.bytes]
    unknown = f" without {len(left) - len(known)} of unknown time" if len(known) < len(left) else ""
    memory = f"; the largest needs {format_bytes(max(peaks))}" if peaks else ""
    runs = f"{len(left)} {'run' if len(left) == 1 else 'runs'}"
    return f"left: {runs}, {format_seconds(sum(known))}{unknown} one after the other{memory}{cannot}"
