"""The paper's tables: its published figures, and beside them, in columns of their own, what was measured here.

A published figure and one of ours never share a column, and a figure of ours stands in a line of the same model and
method only; where nobody ran it there is a dash. Runs of several protocols make several tables.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from binllm import published
from binllm.tables.grid import DASH, Grid, number
from binllm.tables.rows import Section, accuracy_of
from binllm.tables.texts import COLUMNS, protocol_of, text_of, windows_of

# The paper's names of models by ours, and our presets by the paper's methods (its ARB rows are with CGB)
MODELS = {
    **{f"opt-{size}": f"opt-{size}" for size in ("1.3b", "2.7b", "6.7b", "13b", "30b")},
    **{"Llama-2-7b-hf": "llama-2-7b", "Llama-2-13b-hf": "llama-2-13b", "Meta-Llama-3-8B": "llama-3-8b"},
}
HOMES = {"opt-": "table1", "Llama-2-": "table2", "Meta-Llama-3-": "table2", "Phi-3-": "phi3"}
METHODS = {"pb_llm": "pb_llm", "billm": "billm", "arb_rc": "arb_rc_cgb", "arb_x": "arb_x_cgb", "proposed": "paper"}
SETTINGS = {"on": "agree", "off": "off", "activation_conditioned": "0", "output": "1"}
PUBLISHED, OURS = "published: ", "ours: "


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables.

    Attributes:
        name: Of the files: ``table1``.
        experiment: The overlay whose runs are ours.
        title: First words of the caption.
        lines: Model, printed name of the setting, our label of it, and the published figures by column.
    """

    name: str
    experiment: str
    title: str
    lines: Sequence[tuple[str, str, str, Mapping[str, str]]]


def is_home(experiment: str, model: str) -> bool:
    """Whether a model's runs are of this one of the experiments that sweep the same methods; table1 takes all others."""
    if experiment not in HOMES.values():
        return True
    return next((home for start, home in HOMES.items() if model.startswith(start)), "table1") == experiment


def paper_tables() -> list[PaperTable]:
    """Tables 1 to 4 with all published figures."""
    return [
        PaperTable("table1", "table1", "Table 1 of arXiv 2512.21651 (OPT)", _methods("opt")),
        PaperTable("table2", "table2", "Table 2 of arXiv 2512.21651 (LLaMA)", _methods("llama")),
        PaperTable("table3", "ablation/amp", "Table 3 of arXiv 2512.21651 (AMP)", _ablation("amp")),
        PaperTable("table4", "ablation/target", "Table 4 of arXiv 2512.21651 (target)", _ablation("target")),
    ]


def _methods(family: str) -> list[tuple[str, str, str, Mapping[str, str]]]:
    figures: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for one in published.perplexities():
        if one.model.startswith(family):
            figures[one.model, one.method][COLUMNS[one.dataset]] = f"{one.perplexity:,.2f}"
    for one in published.accuracies():
        if one.model.startswith(family):
            figures[one.model, one.method]["accuracy, %"] = f"{one.accuracy:.2f}"
    order = {model: place for place, model in enumerate(dict.fromkeys(model for model, _ in figures))}
    keys = sorted(figures, key=lambda key: order[key[0]])  # by model; methods stay as the source has them
    return [(model, method, METHODS.get(method, method), figures[model, method]) for model, method in keys]


def _ablation(name: str) -> list[tuple[str, str, str, Mapping[str, str]]]:
    lines = []
    for one in published.ablations():
        if one.ablation == name:
            mark = f" ({one.remark})" if one.remark else ""
            figures = {"C4": f"{one.c4:,.2f}", "WikiText-2": f"{one.wikitext2:,.2f}{mark}"}
            lines.append((one.model, one.setting, SETTINGS[one.setting], figures))
    return lines


def paper_grids(table: PaperTable, sections: Sequence[Section]) -> list[Grid]:
    """A table for every protocol in which a model of it was run; one with dashes if there is none.

    Args:
        table: Which.
        sections: Of the table's experiment, of any model.
    """
    models = {model for model, *_ in table.lines}
    groups: dict[str, list[Section]] = defaultdict(list)
    for section in sections:
        if MODELS.get(section.model) in models:
            chosen = {key: text for key, text in section.protocol.items() if not key.startswith("model.")}
            groups[json.dumps(chosen, sort_keys=True)].append(section)
    return [_grid(table, own) for own in groups.values()] or [_grid(table, [])]


def _grid(table: PaperTable, sections: Sequence[Section]) -> Grid:
    columns = list(dict.fromkeys(name for *_, figures in table.lines for name in figures))
    ours = sorted({(text_of(one.definition), windows_of(one.definition)) for one in sections})
    own_headings = [f"{OURS}{text}, {windows}" for text, windows in ours] or [f"{OURS}perplexity"]
    accuracy = [f"{OURS}accuracy, %"] if any(accuracy_of(run) for one in sections for run in one.runs) else []
    published_headings = [f"{PUBLISHED}{name}" for name in columns]
    headings = ["model", "method", *published_headings, *own_headings, *accuracy, f"{OURS}seeds"]
    lines = []
    for model, printed, label, figures in table.lines:
        own = [one for one in sections if MODELS[one.model] == model]
        cells = [_ours(own, label, name) for name in ours] or [DASH]
        counts = [len(row.values) for one in own if (row := one.row(label))]
        accuracies = [_accuracy(own, label)] if accuracy else []
        seeds = str(max(counts)) if counts else DASH
        known = [figures.get(name, DASH) for name in columns]
        lines.append([model, printed, *known, *cells, *accuracies, seeds])
    return Grid(_title(table, sections), headings, lines, headings[2:], _notes(sections))


def _ours(sections: Sequence[Section], label: str, text: tuple[str, str]) -> str:
    """Our figure of a model and setting on a text."""
    same = [one for one in sections if (text_of(one.definition), windows_of(one.definition)) == text]
    if label == "full_precision":
        return next((f"{one.full_precision:,.2f}" for one in same if one.full_precision is not None), DASH)
    return next((number(list(row.values.values())) for one in same if (row := one.row(label))), DASH)


def _accuracy(sections: Sequence[Section], label: str) -> str:
    rows = [row for one in sections if (row := one.row(label))]
    found = [accuracy[0] for run in (rows[0].runs.values() if rows else ()) if (accuracy := accuracy_of(run))]
    return f"{statistics.fmean(found):.2f}" if found else DASH


def _title(table: PaperTable, sections: Sequence[Section]) -> str:
    if not sections:
        return f"{table.title}: published figures. No model of it was run here."
    return f"{table.title}: published figures, and ours (calibration {protocol_of(sections[0].protocol)})."


def _notes(sections: Sequence[Section]) -> list[str]:
    notes = [
        "Published: as printed, one run each, 128 x 2048 tokens of C4, whole splits in windows of 2048 tokens.",
        "Ours: mean ± sample standard deviation over seeds, by the protocol in the title and the headings; a dash where "
        "nothing was run here.",
    ]
    codes = sorted({run.code for one in sections for run in one.runs})
    return notes + ([f"Code: {', '.join(codes)}."] if codes else [])
