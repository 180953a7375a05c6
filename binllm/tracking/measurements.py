"""The typed records of measurements: one small JSON file each in the folder ``evaluations`` beside what was measured.

A file is named by what defines its numbers, so measuring again finds what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from binllm.tracking.atomic import write_json
from binllm.tracking.json_codec import read_json
from binllm.tracking.naming import config_hash
from binllm.tracking.records import JsonRecord

VERSION = 1


@dataclass(frozen=True)
class Interval:
    """Ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Origin(JsonRecord):
    """What was measured, and by which code.

    Attributes:
        model: Hash of the checkpoint, or where the full-precision model came from.
        quantized: Whether it is a checkpoint.
        dtype: Of the forward pass; log-probabilities are always taken in float32.
        kernel: Of the packed layers; None without such layers.
        device: Name of the device.
        threads: CPU threads of torch.
        git_commit: Commit of the checkout; None for an installed wheel.
        git_dirty: Whether the code differs from that commit; None without a checkout.
        versions: Versions of Python and of the libraries that numbers depend on.
    """

    model: str
    quantized: bool
    dtype: str
    kernel: str | None
    device: str
    threads: int
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TextMeasurement(JsonRecord):
    """Perplexity on one text, window by window.

    Attributes:
        version: Format version.
        origin: Model and code.
        definition: As in `Perplexity.key`.
        text_hash: SHA-256 of the text's token ids as little-endian int64, hexadecimal.
        perplexity: exp of `nll`.
        nll: Mean negative log-likelihood of a scored token, nats.
        window_nll: The mean of each window, nats.
        window_tokens: Scored tokens of each window.
        interval: 95 % bootstrap interval of the perplexity over windows; None for one window, or if not finite.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        seconds: Time for the forward passes.
    """

    VERSION: ClassVar[int | None] = VERSION

    version: int = VERSION
    origin: Origin
    definition: str
    text_hash: str
    perplexity: float
    nll: float
    window_nll: list[float]
    window_tokens: list[int]
    interval: Interval | None
    resamples: int
    seed: int
    seconds: float

    @property
    def name(self) -> str:
        """Name of its file."""
        return text_name(self.origin, self.definition, self.text_hash)


@dataclass(frozen=True, kw_only=True)
class TaskMeasurement(JsonRecord):
    """One zero-shot task by lm-eval.

    Attributes:
        version: Format version.
        origin: Model and code.
        task: Name.
        source: ``hub``, or ``local sha256:<hash of the jsonl file>``.
        task_version: As the task's definition has it.
        task_hash: SHA-256 over the documents, prompts and targets that were asked, as lm-eval defines it.
        prompt: The templates (text, target, choices) and the number of examples in the prompt.
        limit: Only the first so many examples; None for all.
        examples: Number of examples.
        metrics: By lm-eval's names: acc, acc_norm, perplexity.
        standard_errors: Of the metrics, by lm-eval.
        chance: Expected acc of a uniform guess among the choices; 0 where there are none.
        constant: The acc of always giving the most frequent answer's place; 0 where there are no choices.
        correct: acc of each example, for paired comparisons.
        seconds: Time.
    """

    VERSION: ClassVar[int | None] = VERSION

    version: int = VERSION
    origin: Origin
    task: str
    source: str
    task_version: str
    task_hash: str
    prompt: dict[str, str]
    limit: int | None
    examples: int
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    chance: float
    constant: float
    correct: list[float]
    seconds: float

    @property
    def name(self) -> str:
        """Name of its file."""
        return task_name(self.origin, self.task, self.source, self.limit)


Measurement = TextMeasurement | TaskMeasurement


def text_name(origin: Origin, definition: str, text_hash: str) -> str:
    """Name of the file of a perplexity: equal exactly for equal model, dtype, kernel and windows."""
    return f"perplexity-{_digest(origin, definition=definition, text=text_hash)}.json"


def task_name(origin: Origin, task: str, source: str, limit: int | None) -> str:
    """Name of the file of a task: equal exactly for equal model, dtype, kernel, data and limit."""
    return f"{task}-{_digest(origin, task=task, source=source, limit=limit)}.json"


def _digest(origin: Origin, **what: str | int | None) -> str:
    return config_hash({"model": origin.model, "dtype": origin.dtype, "kernel": origin.kernel, **what})


def write_measurement(folder: Path, measurement: Measurement) -> None:
    """Write a measurement's file; the folder is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / measurement.name, measurement)


def read_measurements(folder: Path) -> Iterator[Measurement]:
    """Read all measurements of a folder in the order of their names; none if there is no such folder.

    Raises:
        BinllmError: A file cannot be read or has another format version.
    """
    for file in sorted(folder.glob("*.json")):
        yield read_measurement(file)


def read_measurement(file: Path) -> Measurement:
    """Read one file.

    Raises:
        BinllmError: It cannot be read or has another format version.
    """
    content = read_json(file)
    kind = TaskMeasurement if "task" in content else TextMeasurement
    return kind.from_json(content, str(file))
