"""Parts that Markdown tables of runs have in common: the protocol, how they were made, the place in a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from binllm.errors import BinllmError
from binllm.tracking.records import Provenance
from binllm.tracking.runs import Run


def protocol_lines(runs: Sequence[Run]) -> tuple[str, str]:
    """What the runs of one protocol measured and on which text they were calibrated, the seed left out."""
    first = runs[0]
    settings = first.settings
    keys = sorted({one.definition for run in runs for one in (run.full_precision, run.quantized)})
    return (
        f"**{settings['model.name']}** in {settings['model.dtype']}; token perplexity by the definition"
        f" `{'`, `'.join(keys)}` ({first.quantized.tokens} predicted tokens);",
        f"calibration {settings['dataset.sequences']} x {settings['dataset.length']} tokens of"
        f" `{settings['dataset.corpus']}/{settings['dataset.split']}`",
    )


def made_by(command: str, runs: Iterable[Run]) -> str:
    """The command, the machines and the versions of the code that made the runs."""
    provenances = [run.provenance for run in runs]
    machines = sorted({_machine(one) for one in provenances})
    codes = sorted({_code(one) for one in provenances})
    return f"Made by `{command}` on {'; '.join(machines)}; code {', '.join(codes)}."


def _machine(provenance: Provenance) -> str:
    return f"{provenance.device}, {provenance.threads} threads"


def _code(provenance: Provenance) -> str:
    if provenance.git_commit is None:
        return f"binllm {provenance.versions.get('binllm', 'unknown')}"
    return provenance.git_commit[:12] + (" with changes" if provenance.git_dirty else "")


def replace_between(document: Path, markers: tuple[str, str], table: str) -> str:
    """A document's text with a table between its two markers; the document itself stays as it is.

    Raises:
        BinllmError: The markers are not there once each, in order.
    """
    text = document.read_text(encoding="utf-8")
    first, last = markers
    begin, end = text.find(first), text.find(last)
    if text.count(first) != 1 or text.count(last) != 1 or end < begin:
        raise BinllmError(f"{document}: needs the lines {first} and {last} once each, in this order")
    return text[: begin + len(first)] + "\n" + table + text[end:]
