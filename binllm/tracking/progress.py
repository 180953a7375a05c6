"""One live line that says what a run is doing: phase, block, layer, time left, memory.

On a terminal it is a single bar on stderr; elsewhere (a log file, CI) it is one plain line a block and one a
phase. The phases' times and peaks that the run record wants are measured here, because here is where phases
begin and end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from binllm.tracking.memory import Peak, current_rss, format_bytes, measure_peak, process_peak


def format_seconds(seconds: float) -> str:
    """Return a duration as mm:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


class Eta:
    """Time left from the mean pace of the units done in this process; resumed ones do not count."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.first, self.done = total, done, done
        self.start = self.last = time.monotonic()

    def update(self, done: int) -> float:
        """Note that `done` units are finished; returns the seconds since the last note."""
        now = time.monotonic()
        elapsed, self.last, self.done = now - self.last, now, done
        return elapsed

    def text(self) -> str:
        """Return the time left, ``--:--`` before the first unit."""
        if self.done <= self.first:
            return "--:--"
        pace = (self.last - self.start) / (self.done - self.first)
        # Counts down between two notes: blocks can take minutes.
        return format_seconds(max(0.0, pace * (self.total - self.done) - (time.monotonic() - self.last)))


class _EtaColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        eta: Eta | None = task.fields["eta"]
        return Text(f"ETA {eta.text()}" if eta else f"{format_seconds(task.elapsed or 0)}", style="cyan")


class _MemoryColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(memory_text(), style="magenta")


def memory_text() -> str:
    """Return current and peak resident memory of the process for people."""
    return f"memory {format_bytes(current_rss())} (peak {format_bytes(process_peak())})"


class RunProgress:
    """The progress of one run, a context manager.

    Attributes:
        seconds: Wall-clock time by finished phase; a phase entered twice is summed.
        peaks: Highest resident memory in bytes by finished phase, its own where the system allows (see
            `memory`).
    """

    def __init__(self, blocks: int = 0, *, console: Console | None = None, quiet: bool = False) -> None:
        """Make it; nothing is shown before the ``with`` block.

        Args:
            blocks: Decoder blocks of the model; may be set later (`blocks` is an attribute).
            console: Where to write; stderr by default.
            quiet: Show nothing, only measure.
        """
        self.blocks = blocks
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.console = console or Console(stderr=True, quiet=quiet)
        self._live = self.console.is_terminal and not self.console.quiet
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}"),
            _EtaColumn(),
            _MemoryColumn(),
        )
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self._live)
        self._task = self._bar.add_task("start", total=None, count="", eta=None)
        self._phase = "start"
        self._eta: Eta | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextmanager
    def phase(self, name: str, total: int | None = None, done: int = 0) -> Iterator[None]:
        """Show and measure one phase: load, full_precision, quantize, save, evaluate.

        Args:
            name: Key in `seconds` and `peaks`.
            total: Units of work, if they can be counted.
            done: Units that an earlier process finished.
        """
        self._phase = name
        self._eta = Eta(total, done) if total else None
        self._bar.reset(self._task, total=total, completed=done, description=name, count="", eta=self._eta)
        start = time.perf_counter()
        peak = Peak()
        try:
            with measure_peak() as peak:
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.peaks[name] = max(self.peaks.get(name, 0), peak.bytes)
        self._plain(f"{name} {self.seconds[name]:.1f} s, {memory_text()}")

    def set_apart(self, name: str, seconds: float) -> None:
        """Book some of the last phase's time under a name of its own."""
        self.seconds[self._phase] -= seconds
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._plain(f"{name} {seconds:.1f} s of these, leaves {self._phase} {self.seconds[self._phase]:.1f} s")

    def layer(self, block: int, name: str) -> None:
        """Say which layer is being fitted.

        Args:
            block: Index of its block, from 0.
            name: Its name or role.
        """
        self._bar.update(self._task, description=f"{self._phase} {name}", count=f"block {block + 1}/{self.blocks}")

    def block_done(self, index: int) -> None:
        """Note that a block, counted from 0, is finished and durable."""
        count = f"block {index + 1}/{self.blocks}"
        if self._eta is not None:
            elapsed = self._eta.update(index + 1)
            self._plain(f"{self._phase} {count}, {elapsed:.1f} s, ETA {self._eta.text()}, {memory_text()}")
        self._bar.update(self._task, completed=index + 1, count=count)

    def step(self, done: int, total: int) -> None:
        """Note `done` of `total` units of the phase, for example evaluated windows. Fits as a callback."""
        if self._eta is None:
            self._eta = Eta(total, 0)
        self._eta.update(done)
        self._bar.update(self._task, completed=done, total=total, count=f"{done}/{total}", eta=self._eta)

    def note(self, line: str) -> None:
        """Say something once, in a line of its own."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _plain(self, line: str) -> None:
        if not self._live:
            self.note(line)
