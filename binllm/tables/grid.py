"""Tables of cells as Markdown and as LaTeX, and numbers as cells."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

DASH = "-"  # a cell without a value
LATEX = {
    **{"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "·": r"$\cdot$"},
    **{"α": r"$\alpha$", "λ": r"$\lambda$", "×": r"$\times$", "†": r"$\dagger$", "–": "--", "−": "$-$"},
}


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        title: What it is, one sentence or more.
        headings: Of the columns.
        lines: Cells; as many in each line as headings.
        numbers: Headings of the columns that are aligned right.
        notes: Lines below it.
    """

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)

    def markdown(self) -> str:
        """As Markdown: title, cells, notes."""
        notes = "".join(f"\n- {note}" for note in self.notes)
        return f"{self.title}\n\n{grid(self.headings, self.lines, self.numbers)}\n{notes}".rstrip() + "\n"

    def latex(self) -> str:
        """As a LaTeX ``table`` with rules of the package booktabs."""
        columns = "".join("r" if heading in self.numbers else "l" for heading in self.headings)
        rows = [" & ".join(map(escape, cells)) + r" \\" for cells in (self.headings, *self.lines)]
        notes = "".join(f"\n\\par\\footnotesize {escape(note)}" for note in self.notes)
        body = "\n".join([r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"])
        return (
            f"\\begin{{table}}\n\\centering\n\\caption{{{escape(self.title)}}}\n\\begin{{tabular}}{{{columns}}}\n{body}\n"
            f"\\end{{tabular}}{notes}\n\\end{{table}}\n"
        )


def escape(text: str) -> str:
    """Markdown's text for LaTeX: code and bold become commands, special characters are escaped."""
    parts = re.split(r"(`[^`]*`|\*\*[^*]*\*\*)", text)
    return "".join(_escaped(part) for part in parts)


def _escaped(part: str) -> str:
    for mark, command in (("`", "texttt"), ("**", "textbf")):
        if len(part) > 2 * len(mark) and part.startswith(mark) and part.endswith(mark):
            return f"\\{command}{{{_characters(part[len(mark) : -len(mark)])}}}"
    return _characters(part)


def _characters(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def number(values: Sequence[float]) -> str:
    """A mean, and for several values their sample standard deviation, such as ``206.00 ± 6.00``."""
    mean = statistics.fmean(values)
    digits = 2 if mean < 1000 else 0
    spread = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 and math.isfinite(mean) else ""
    return f"{mean:,.{digits}f}{spread}"


def grid(headings: Sequence[str], lines: Iterable[Sequence[str]], numbers: Sequence[str]) -> str:
    """The lines of a Markdown table; the columns whose headings are in `numbers` are aligned right."""
    rule = ["---:" if heading in numbers else "---" for heading in headings]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule, *lines))
