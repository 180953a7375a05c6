"""``binllm-tools report``: one self-contained HTML page about a run or about several side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf

from binllm.configuration import PRIVATE
from binllm.errors import BinllmError, bad_value
from binllm.report.comparison import Comparison, Subject, read_comparison
from binllm.report.data import page_data
from binllm.report.diagnosis import Finding, Named, compare, diagnose
from binllm.report.facts import facts
from binllm.tracking.atomic import write_text
from binllm.tracking.folder import RunPaths
from binllm.tracking.memory import format_bytes
from binllm.tracking.progress import format_seconds
from binllm.tracking.runs import NO_NUMBERS

PARTS = Path(__file__).parent / "parts"
SCRIPTS = ("plot.js", "heat.js", "views.js", "table.js")
MOST = 8  # runs of a page, as many as can be told apart by their lines
HEADINGS = (
    *("run", "perplexity", "of full precision", "nominal bits", "stored bits"),
    *("whole model", "quantize", "peak memory"),
)


def write_page(folders: Sequence[Path], out: Path) -> None:
    """Write the page.

    Args:
        folders: Run folders of one model.
        out: The HTML file; its folder is made.

    Raises:
        BinllmError: As `read_comparison`; too many runs, ``out`` is a folder, or jinja2 is missing.
    """
    if out.is_dir():
        raise bad_value("--out", out, "the name of a file")
    if len(folders) > MOST:
        raise BinllmError(
            f"{len(folders)} runs are given; a report takes at most {MOST}, so that they can be told apart"
        )
    page = render(read_comparison(folders))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def render(comparison: Comparison) -> str:
    """The page as text: style, script and data are inside, nothing is loaded from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    subjects = comparison.subjects
    numbers = {one.label: facts(one) for one in subjects}
    named = [Named(one.label, one.run.quantized.perplexity, numbers[one.label]) for one in subjects]
    found = {one.label: diagnose(numbers[one.label]) for one in subjects}
    together = compare(named)
    return environment.get_template("page.html").render(
        title=subjects[0].run.record.run_id if len(subjects) == 1 else f"{len(subjects)} runs of {_model(subjects[0])}",
        style=(PARTS / "style.css").read_text(encoding="utf-8"),
        script="\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        data=_embedded(page_data(comparison)),
        subjects=subjects,
        headings=HEADINGS,
        summary=[_summary(one) for one in subjects],
        definition=subjects[0].run.quantized.definition,
        together=together,
        findings={label: _by_topic(findings) for label, findings in found.items()},
        thresholds=_thresholds([*together, *(one for findings in found.values() for one in findings)]),
        undiagnosed=[one.label for one in subjects if not RunPaths(one.run.folder).diagnostics.exists()],
        differences=_differences(comparison),
        configurations={one.label: _configuration(one) for one in subjects},
        provenance=[_provenance(one) for one in subjects],
    )


def _configuration(subject: Subject) -> str:
    """As YAML, without the groups that say something of a person's machine and nothing of the run."""
    config: Any = OmegaConf.load(RunPaths(subject.run.folder).config)
    return OmegaConf.to_yaml(OmegaConf.create({key: config[key] for key in config if key not in PRIVATE}))


def _embedded(data: Any) -> str:
    """JSON that can stand inside a script element: no text in it ends the element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _model(subject: Subject) -> str:
    return str(subject.run.settings["model.name"])


def _summary(subject: Subject) -> list[str]:
    run, record = subject.run, subject.run.record
    peak = record.phase_peak_memory_bytes.get("quantize")
    seconds = record.seconds.get("quantize")
    return [
        subject.label,
        f"{run.quantized.perplexity:,.2f}",
        f"{run.full_precision.perplexity:,.2f}",
        f"{run.bits.nominal:.3f}",
        f"{run.bits.linear:.3f}",
        f"{run.bits.model_bytes / 1e6:,.1f} MB",
        format_seconds(seconds) if seconds is not None else "-",
        format_bytes(peak) if peak else "-",
    ]


def _by_topic(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    return {
        topic: [one for one in findings if one.topic == topic] for topic in dict.fromkeys(f.topic for f in findings)
    }


def _thresholds(findings: Sequence[Finding]) -> dict[str, float]:
    """The number that decided a sentence, in words, with its limit; each once."""
    return {one.quantity: one.threshold for one in findings}


def _differences(comparison: Comparison) -> dict[str, list[str]]:
    """Keys of the configuration in which the runs differ, with every run's value."""
    settings = [one.run.settings for one in comparison.subjects]
    keys = list(dict.fromkeys(key for one in settings for key in one if key.split(".")[0] not in NO_NUMBERS))
    values = {key: [str(one.get(key, "-")) for one in settings] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _provenance(subject: Subject) -> dict[str, str]:
    one, record = subject.run.provenance, subject.run.record
    code = f"{one.git_commit}{' with changes' if one.git_dirty else ''}" if one.git_commit else "installed package"
    return {
        "run": record.run_id,
        "code": code,
        "versions": ", ".join(f"{name} {version}" for name, version in one.versions.items()),
        "machine": f"{one.device}, {one.threads} threads, {one.platform}",
        "seeds": ", ".join(f"{name} {seed}" for name, seed in one.seeds.items()),
        "calibration tokens": one.calibration_hash,
        "checkpoint": one.checkpoint_hash or "-",
        "configuration": record.config_hash or "-",
        "started, finished": f"{record.started}, {record.finished or '-'}",
    }
