"""What came out of a golden case: differences, each with what it may be at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from torch import Tensor

from binllm.errors import BinllmError


class Unjudged(BinllmError):
    """A case that cannot be judged here: an input file is absent, or this project does not have what is asked for."""


class Verdict(Enum):
    """``skipped`` cases cannot be judged, or ask for what this project does not have."""

    passed = "passed"
    failed = "failed"
    skipped = "skipped"


@dataclass(frozen=True)
class Difference:
    """One figure of a case.

    Attributes:
        what: What differs, and in which unit.
        value: By how much, at least 0.
        allowed: The tolerance.
    """

    what: str
    value: float
    allowed: float

    @property
    def tolerated(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.value <= self.allowed

    @property
    def figure(self) -> str:
        """What, and by how much."""
        return f"{self.what} {self.value:.2g}"

    def __str__(self) -> str:
        return f"{self.figure} {'<=' if self.tolerated else '>'} {self.allowed:.2g}"


@dataclass(frozen=True)
class Outcome:
    """All figures of a case.

    Attributes:
        differences: What was compared.
        unjudged: Why the case is not judged, or nothing.
        broken: What kept it from running to its end, or nothing.
        note: How it was run, where that is not as usual, or nothing.
    """

    differences: Sequence[Difference] = ()
    unjudged: str = ""
    broken: str = ""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Passed if something was compared and every difference is tolerated."""
        if self.unjudged:
            return Verdict.skipped
        passed = not self.broken and self.differences and not self.beyond
        return Verdict.passed if passed else Verdict.failed

    @property
    def beyond(self) -> list[str]:
        """The differences that are not tolerated."""
        return [str(each) for each in self.differences if not each.tolerated]

    def __str__(self) -> str:
        """The verdict, and the figures behind it: all of them, or those that are not tolerated."""
        if self.unjudged:
            figures = [each.figure for each in self.differences]
        else:
            figures = self.beyond or [str(each) for each in self.differences]
        nothing = "" if figures or self.unjudged or self.broken else "nothing to compare with"
        words = [self.note, self.unjudged, self.broken, nothing, *figures]
        return f"{self.verdict.value}: {'; '.join(filter(None, words))}"


class Check(Protocol):
    """A case with all its inputs at hand."""

    def run(self) -> Outcome:
        """Run this project's code on it and compare."""
        ...


def attempt(run: Callable[[], Outcome]) -> Outcome:
    """What comes out of a case, also where it cannot be read or run: a folder's other cases are run all the same."""
    try:
        return run()
    except Unjudged as reason:
        return Outcome(unjudged=str(reason))
    except BinllmError as mistake:
        return Outcome(broken=str(mistake))
    except Exception as error:  # whatever a description or shapes that do not fit may cause
        return Outcome(broken=f"{type(error).__name__}: {error}".replace("\n", " "))


def settled(usual: Outcome, again: Callable[[], Outcome], how: str) -> Outcome:
    """The usual outcome, or where it failed that of another precision if it passed: the difference was rounding at a tie.

    Args:
        usual: In the usual precision.
        again: Runs the case in the other one.
        how: Both precisions, for the note.
    """
    if usual.verdict is not Verdict.failed:
        return usual
    other = attempt(again)
    return replace(other, note=f"{how} ({', '.join(usual.beyond)})") if other.verdict is Verdict.passed else usual


def relative(value: float, reference: float, floor: float = 0.0) -> float:
    """``|value - reference|`` as a fraction of ``|reference|``, or of ``floor`` if that is more; 0 for two zeros."""
    difference, scale = abs(value - reference), max(abs(reference), floor)
    return difference / scale if difference and scale else difference


def relative_norm(error: Tensor, reference: Tensor) -> float:
    """``||error||_F / ||reference||_F``; 0 for a zero error."""
    return relative(float(error.double().norm()), 0.0, float(reference.double().norm()))
