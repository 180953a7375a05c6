"""``binllm-tools evaluate``: perplexity on chosen texts and zero-shot tasks, of whatever model there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from binllm.errors import bad_value
from binllm.evaluation.config import EvaluationConfig
from binllm.evaluation.measure import task_measurements, text_measurement
from binllm.evaluation.perplexity import definition, evaluation_tokens
from binllm.evaluation.subject import Subject, compose_for, evaluations_of, load_subject
from binllm.evaluation.texts import texts_of
from binllm.evaluation.zero_shot import check_zero_shot
from binllm.models.config import Dtype
from binllm.tracking.measurement_tables import measurement_tables
from binllm.tracking.measurements import Measurement
from binllm.tracking.progress import RunProgress
from binllm.tracking.tables import wide


def evaluate(
    place: str,
    texts: Sequence[str] = (),
    settings: Sequence[str] = (),
    dtype: str | None = None,
    out: Path | None = None,
) -> Path:
    """Measure a model, write a record of each text and task as it is done, print them.

    Args:
        place: Run, checkpoint, model folder, or an option of the group ``model``.
        texts: As for `texts_of`; none means the text of the settings, unless there are zero-shot tasks.
        settings: Overrides as `binllm` takes them: ``evaluation=paper``, ``zero_shot=all``, ``threads=1``.
        dtype: Of the forward pass: float32, bfloat16 or float16; None is the model's own.
        out: Folder of the records; None is beside what is measured.

    Returns:
        The folder of the records.

    Raises:
        BinllmError: A mistake in the input; what was measured before it came to light is kept.
    """
    if dtype is not None and dtype not in Dtype.__members__:
        raise bad_value("--dtype", dtype, Dtype.__members__)
    config = compose_for(place, settings)
    check_zero_shot(config.zero_shot)
    wanted = texts_of(config.evaluation, texts)
    if not texts and not config.zero_shot.tasks:
        wanted = [config.evaluation]
    folder = evaluations_of(place, config) if out is None else out
    if folder.exists() and not folder.is_dir():
        raise bad_value("--out", folder, "a folder")
    subject = load_subject(place, config, None if dtype is None else Dtype[dtype])
    found: list[Measurement] = [*_measure_texts(subject, wanted, folder)]
    found += task_measurements(subject.model, subject.tokenizer, config.zero_shot, subject.origin, folder)
    console = wide(Console())
    for table in measurement_tables(found):
        console.print(table)
    console.print(f"records: {folder}", soft_wrap=True, highlight=False, markup=False)
    return folder


def _measure_texts(subject: Subject, wanted: Sequence[EvaluationConfig], folder: Path) -> list[Measurement]:
    """Read all texts before the first one is measured, so that a mistake in the last costs nothing."""
    streams = [(one, evaluation_tokens(one, subject.tokenizer)) for one in wanted]
    keys = [definition(text, one) for one, text in streams]
    found: list[Measurement] = []
    with RunProgress() as progress:
        for (one, text), key in zip(streams, keys, strict=True):
            with progress.phase(key):
                found.append(text_measurement(subject.model, text, one, subject.origin, folder, progress.step))
    return found
