"""A model, a text or a task, and the record of one on the other; what a folder holds already is not measured again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from binllm.data import TokenStream
from binllm.evaluation.config import EvaluationConfig
from binllm.evaluation.intervals import RESAMPLES, SEED, perplexity_interval
from binllm.evaluation.perplexity import definition, perplexity
from binllm.evaluation.zero_shot import measure_task, source_of
from binllm.evaluation.zero_shot_config import ZeroShotConfig
from binllm.models import device_of
from binllm.tracking.measurements import (
    Origin,
    TaskMeasurement,
    TextMeasurement,
    read_measurement,
    task_name,
    text_name,
    write_measurement,
)
from binllm.tracking.provenance import PACKAGE, device_name, git_state, library_versions

LIBRARIES = ("tokenizers", "lm-eval", "datasets")


def origin_of(model: PreTrainedModel, identity: str, kernel: str | None) -> Origin:
    """Describe a model and the code that measures it.

    Args:
        model: As it will be measured.
        identity: Hash of the checkpoint, or where the full-precision model came from.
        kernel: Of the packed layers; None for a full-precision model.
    """
    commit, dirty = git_state(PACKAGE)
    return Origin(
        model=identity,
        quantized=kernel is not None,
        dtype=str(model.dtype).removeprefix("torch."),
        kernel=kernel,
        device=device_name(device_of(model)),
        threads=torch.get_num_threads(),
        git_commit=commit,
        git_dirty=dirty,
        versions=library_versions(LIBRARIES),
    )


def text_measurement(
    model: PreTrainedModel,
    text: TokenStream,
    config: EvaluationConfig,
    origin: Origin,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> TextMeasurement:
    """Measure a perplexity and write its record, or find it written.

    Args:
        model: In evaluation mode.
        text: The tokenised text.
        config: Windows.
        origin: Model and code.
        folder: Of the records.
        progress: Called with (windows done, windows in all) after each forward pass.

    Raises:
        BinllmError: As `perplexity`; or the written record cannot be read.
    """
    text_hash = hashlib.sha256(text.ids.numpy().astype("<i8").tobytes()).hexdigest()
    file = folder / text_name(origin, definition(text, config), text_hash)
    if file.exists() and isinstance(found := read_measurement(file), TextMeasurement):
        return found
    begun = time.perf_counter()
    measured = perplexity(model, text, config, progress)
    seconds = time.perf_counter() - begun
    record = TextMeasurement(
        origin=origin,
        definition=measured.key,
        text_hash=text_hash,
        perplexity=measured.value,
        nll=measured.nll,
        window_nll=list(measured.window_nll),
        window_tokens=list(measured.window_tokens),
        interval=perplexity_interval(measured.window_nll, measured.window_tokens),
        resamples=RESAMPLES,
        seed=SEED,
        seconds=seconds,
    )
    write_measurement(folder, record)
    return record


def task_measurements(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: ZeroShotConfig,
    origin: Origin,
    folder: Path,
) -> list[TaskMeasurement]:
    """Measure the tasks of a configuration and write a record after each, or find it written.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        config: Which tasks, over which data.
        origin: Model and code.
        folder: Of the records.

    Raises:
        BinllmError: As `measure_task`; or a written record cannot be read.
    """
    records = []
    for name in config.tasks:
        file = folder / task_name(origin, name, source_of(name, config), config.limit)
        found = read_measurement(file) if file.exists() else None
        if not isinstance(found, TaskMeasurement):
            found = measure_task(model, tokenizer, name, config, origin)
            write_measurement(folder, found)
        records.append(found)
    return records
