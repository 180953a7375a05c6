"""What came out of a golden case: differences, each with what it may be at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from torch import Tensor


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
        """Passed if every difference is tolerated."""
        if self.unjudged:
            return Verdict.skipped
        passed = not self.broken and all(each.tolerated for each in self.differences)
        return Verdict.passed if passed else Verdict.failed

    def __str__(self) -> str:
        """The verdict, and the figures behind it: all of them, or those that are not tolerated."""
        if self.unjudged:
            figures = [each.figure for each in self.differences]
        else:
            failed = self.verdict is Verdict.failed
            figures = [str(each) for each in self.differences if not (failed and each.tolerated)]
        return f"{self.verdict.value}: {'; '.join(filter(None, [self.note, self.unjudged, self.broken, *figures]))}"


class Check(Protocol):
    """A case with all its inputs at hand."""

    def run(self) -> Outcome:
        """Run this project's code on it and compare."""
        ...


def relative(value: float, reference: float, floor: float = 0.0) -> float:
    """``|value - reference|`` as a fraction of ``|reference|``, or of ``floor`` if that is more; 0 for two zeros."""
    difference, scale = abs(value - reference), max(abs(reference), floor)
    return difference / scale if difference and scale else difference


def relative_norm(error: Tensor, reference: Tensor) -> float:
    """``||error||_F / ||reference||_F``; 0 for a zero error."""
    return relative(float(error.double().norm()), 0.0, float(reference.double().norm()))
