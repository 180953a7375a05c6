"""The table of one experiment's runs, the table of what all claims came to, and that of every expected difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from binllm.collect.paired import Paired, paired_over_seeds
from binllm.tables.claims import PERPLEXITY, Claim
from binllm.tables.grid import DASH, Grid, number
from binllm.tables.rows import Row, Section, seeds_text
from binllm.tables.texts import VARIED, protocol_of, text_of, windows_of
from binllm.tables.verdicts import LEAST_SEEDS, Judgement, judge_all, logarithms, together

OTHERS = {
    "nominal bits": ("nominal_bits", 3),
    "stored bits": ("linear_bits", 3),
    "quantize, s": ("quantize_seconds", 1),
}
NUMBERS = ("seeds", "p", *OTHERS)
SEVERAL, GUESSING = "†", "‡"


def ablation_grid(section: Section) -> Grid:
    """One section as a table: a line a setting, tested against the reference, and below it what the claim came to."""
    claim = section.experiment.claim
    measured = "perplexity" if claim.measures == PERPLEXITY else "quantize, s"
    ratio = f"ratio to `{claim.reference}` (95 %)"
    others = [name for name in OTHERS if name != measured]
    headings = [f"`{claim.varies}`", "seeds", measured, ratio, "p", *others]
    reference = section.row(claim.reference)
    lines = [_line(row, reference, others) for row in section.rows]
    if section.definition:
        for row, cells in zip(section.rows, lines, strict=True):
            cells[2] += f" {GUESSING}" if row.is_guessing else ""
    numbers = [*NUMBERS, measured, ratio]
    return Grid(_title(section), headings, lines, numbers, _notes(section))


def _line(row: Row, reference: Row | None, others: Sequence[str]) -> list[str]:
    paired = None
    if reference is not None and reference is not row:
        paired = paired_over_seeds(logarithms(row.values), logarithms(reference.values))
    mark = f" {SEVERAL}" if len(row.codes) > 1 else ""
    p_value = DASH if paired is None or paired.p_value is None or not _tested(paired) else p_text(paired.p_value)
    values = [(row.mean_of(metric), digits) for metric, digits in (OTHERS[name] for name in others)]
    return [
        f"`{row.label}`{mark}",
        str(len(row.values)),
        number(list(row.values.values())),
        ratio_text(paired),
        p_value,
        *(DASH if value is None else f"{value:,.{digits}f}" for value, digits in values),
    ]


def _tested(paired: Paired) -> bool:
    return paired.seeds >= LEAST_SEEDS


def p_text(value: float) -> str:
    """To three digits, and never 0: ``0.035``, ``<0.001``."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def ratio_text(paired: Paired | None) -> str:
    """The ratio of two settings with its interval where there are seeds enough: ``0.913 (0.880 to 0.947)``."""
    if paired is None:
        return DASH
    ratio = _number(paired.difference)
    if not _tested(paired) or paired.low is None or paired.high is None:
        return ratio
    return f"{ratio} ({_number(paired.low)} to {_number(paired.high)})"


def _number(logarithm: float) -> str:
    return f"{math.exp(logarithm):.3f}" if abs(logarithm) < 7 else f"{math.exp(min(logarithm, 700)):.3g}"


def _title(section: Section) -> str:
    claim = section.experiment.claim
    where = f"calibration {protocol_of(_settings(section))}"
    if claim.measures == PERPLEXITY:
        windows = windows_of(section.definition)
        full = "" if section.full_precision is None else f"; full precision {section.full_precision:,.2f}"
        where = f"perplexity on {text_of(section.definition)} ({windows}); {where}{full}"
    return f"**{section.model}**, {claim.experiment}: {where}."


def _settings(section: Section) -> dict[str, str]:
    """Settings of the calibration; what the experiment varies is said so."""
    return {**section.protocol, **dict.fromkeys(section.experiment.varied, VARIED)}


def _notes(section: Section) -> list[str]:
    found = judge_all(section)
    codes = sorted({run.code for run in section.runs})
    notes = [f"**{together(found)}**: {section.experiment.claim.text}.", *map(judgement_text, found)]
    if section.definition:
        notes.append(f"Definition of the perplexity: `{section.definition}`.")
    notes.append(f"Mean ± sample standard deviation over seeds. Code: {', '.join(codes)}.")
    notes.append("Seconds are by the clock, with whatever else the machine did meanwhile.")
    if any(len(row.codes) > 1 for row in section.rows):
        notes.append(f"{SEVERAL} its runs were made by different versions of the code.")
    if section.definition and any(row.is_guessing for row in section.rows):
        notes.append(f"{GUESSING} above the vocabulary: worse than a uniform guess of the next token.")
    return notes


def judgement_text(one: Judgement) -> str:
    """An expectation and what was found, in one line."""
    about = f" (ratio {ratio_text(one.paired)})" if one.paired is not None else ""
    return f"`{one.expectation}`: {one.verdict}{about}{f', {one.why}' if one.why else ''}"


def claims_grid(claims: Sequence[Claim], sections: Sequence[Section]) -> Grid:
    """All claims with what was expected and what was found, a line for each section, a dash where there is no run."""
    lines = []
    for claim in claims:
        expected = ", ".join(f"`{one}`" for one in claim.expected)
        own = [one for one in sections if one.experiment.claim == claim]
        for section in own:
            found = judge_all(section)
            text = text_of(section.definition) if section.definition else "time"
            where = f"{section.model}, {text}; {protocol_of(_settings(section))}"
            lines.append([claim.experiment, claim.text, expected, where, seeds_text(section), f"**{together(found)}**"])
        if not own:
            lines.append([claim.experiment, claim.text, expected, DASH, DASH, "not run"])
    headings = ["experiment", "claim", "expected", "measured on", "seeds", "found"]
    note = (
        "A claim holds if the 95 % interval of every expected difference (paired over seeds, on the logarithm) lies on the "
        "expected side, does not hold if one lies on the other side, and is undecided otherwise or with fewer than "
        f"{LEAST_SEEDS} seeds. Intervals are not corrected for the number of comparisons."
    )
    return Grid("What was claimed, expected and found.", headings, lines, ["seeds"], [note])


def ratios_grid(claims: Sequence[Claim], sections: Sequence[Section]) -> Grid:
    """Every expected difference of the claims that were tested, a column for each model: the verdict and the ratio.

    Of a model's protocols the one with most settings is shown.
    """
    firsts = {(one.experiment.claim.experiment, one.model): one for one in reversed(sections)}
    tested = [claim for claim in claims if any(name == claim.experiment for name, _ in firsts)]
    models = sorted({model for _, model in firsts})
    lines = []
    for claim in tested:
        found = {model: judge_all(one) for model in models if (one := firsts.get((claim.experiment, model)))}
        for index, expected in enumerate(claim.expected):
            cells = [_short(found[model][index]) if model in found else DASH for model in models]
            lines.append(["" if index else claim.text, f"`{claim.varies}`", f"`{expected}`", *cells])
    notes = [
        "Ratio of the lower setting to the other one, paired over seeds, with its 95 % interval; below 1 is as expected.",
        *(_seeds_note(model, [one for (_, name), one in firsts.items() if name == model]) for model in models),
    ]
    return Grid(
        "Every expected difference, and what was found.", ["claim", "varied", "expected", *models], lines, (), notes
    )


def _short(one: Judgement) -> str:
    return f"**{one.verdict}**, {ratio_text(one.paired)}" if one.paired is not None else f"{one.verdict}: {one.why}"


def _seeds_note(model: str, sections: Sequence[Section]) -> str:
    """What a model's column was measured on."""
    texts = sorted({text_of(one.definition) if one.definition else "time" for one in sections})
    return f"{model}: {', '.join(sorted({seeds_text(one) for one in sections}))} seeds; {'; '.join(texts)}."
