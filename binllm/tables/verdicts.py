"""Whether what was measured bears a claim out: paired intervals over seeds, on the logarithm.

Of two settings the logarithms are compared seed by seed: perplexities in nats a token. A result is a ratio.
A claim ``a < b`` holds if the whole 95 % interval of the mean difference lies below 0, does not hold if all of it
lies above, and is undecided otherwise. Intervals are of single comparisons, not corrected for their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from binllm.collect.paired import Paired, paired_over_seeds
from binllm.tables.claims import Expectation
from binllm.tables.rows import Section

LEAST_SEEDS = 3


class Verdict(StrEnum):
    """What a claim came to."""

    holds = "holds"
    fails = "does not hold"
    undecided = "undecided"


@dataclass(frozen=True)
class Judgement:
    """An expectation and what was found.

    Attributes:
        expectation: What should come out.
        verdict: What came out.
        paired: Logarithm of the lower setting minus that of the other one (and of its factor); None without common seeds.
        why: Why it is undecided, where there is no interval.
    """

    expectation: Expectation
    verdict: Verdict
    paired: Paired | None = None
    why: str = ""


def judge(expectation: Expectation, section: Section) -> Judgement:
    """Decide one expectation on a section's runs."""
    rows = [section.row(label) for label in (expectation.lower, expectation.higher)]
    missing = [label for label, row in zip((expectation.lower, expectation.higher), rows, strict=True) if row is None]
    if missing:
        return Judgement(expectation, Verdict.undecided, why=f"no run of {' and '.join(missing)}")
    lower, higher = (logarithms(row.values) for row in rows if row is not None)
    paired = paired_over_seeds(lower, {seed: value + math.log(expectation.factor) for seed, value in higher.items()})
    if paired is None:
        return Judgement(expectation, Verdict.undecided, why="no common seed with numbers")
    if paired.seeds < LEAST_SEEDS or paired.low is None or paired.high is None:
        return Judgement(expectation, Verdict.undecided, paired, f"{paired.seeds} common seeds, {LEAST_SEEDS} needed")
    if paired.high < 0:
        return Judgement(expectation, Verdict.holds, paired)
    return Judgement(expectation, Verdict.fails if paired.low > 0 else Verdict.undecided, paired)


def judge_all(section: Section) -> list[Judgement]:
    """Decide all expectations of the section's claim."""
    return [judge(one, section) for one in section.experiment.claim.expected]


def together(judgements: Sequence[Judgement]) -> Verdict:
    """A claim holds if all of it does, and does not hold if any part of it does not."""
    found = {one.verdict for one in judgements}
    if Verdict.fails in found:
        return Verdict.fails
    return Verdict.undecided if Verdict.undecided in found else Verdict.holds


def logarithms(values: Mapping[int, float]) -> dict[int, float]:
    """Natural logarithms; nan where there is none."""
    return {seed: math.log(value) if value > 0 else math.nan for seed, value in values.items()}
