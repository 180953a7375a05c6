"""Read the published figures: one CSV file a table, whose comment lines name the source."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PerplexityFigure:
    """A perplexity of arXiv 2512.21651v1, Table 1 (OPT) or 2 (LLaMA): C4 calibration, one run each.

    Attributes:
        dataset: c4, wikitext2 or ptb.
        model: Such as ``opt-1.3b``.
        method: full_precision, pb_llm, billm, arb_rc, arb_x or proposed.
        weight_bits: The paper's nominal figure, without scales and group bitmaps.
        perplexity: As printed.
    """

    dataset: str
    model: str
    method: str
    weight_bits: float
    perplexity: float


@dataclass(frozen=True)
class AccuracyFigure:
    """Mean accuracy over seven zero-shot tasks, percent: arXiv 2512.21651v1, Table 1."""

    model: str
    method: str
    accuracy: float


@dataclass(frozen=True)
class AblationFigure:
    """A row of arXiv 2512.21651v1, Table 3 (amp) or 4 (target).

    Attributes:
        model: Such as ``llama-2-7b``.
        ablation: amp or target.
        setting: on or off; activation_conditioned or output.
        c4: Perplexity on C4.
        wikitext2: Perplexity on WikiText-2.
        remark: Where the source contradicts itself; mostly empty.
    """

    model: str
    ablation: str
    setting: str
    c4: float
    wikitext2: float
    remark: str


def perplexities() -> list[PerplexityFigure]:
    """Tables 1 and 2, in the order of the source."""
    return [
        PerplexityFigure(
            row["dataset"], row["model"], row["method"], float(row["weight_bits"]), float(row["perplexity"])
        )
        for row in _rows("perplexity.csv")
    ]


def accuracies() -> list[AccuracyFigure]:
    """The accuracies of Table 1, in the order of the source."""
    return [
        AccuracyFigure(row["model"], row["method"], float(row["accuracy"])) for row in _rows("zero_shot_average.csv")
    ]


def ablations() -> list[AblationFigure]:
    """Tables 3 and 4, in the order of the source."""
    return [
        AblationFigure(
            row["model"],
            row["ablation"],
            row["setting"],
            float(row["c4"]),
            float(row["wikitext2"]),
            row["remark"] or "",
        )
        for row in _rows("ablations.csv")
    ]


def _rows(name: str) -> Iterator[dict[str, str]]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    yield from csv.DictReader(line for line in lines if not line.startswith("#"))
