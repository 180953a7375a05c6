"""Zero-shot tasks through lm-eval's own Python API, on a model in memory, packed or not."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections import Counter
from contextlib import redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from binllm.errors import bad_value
from binllm.evaluation.task_files import check_files, local_task, task_file
from binllm.evaluation.zero_shot_config import ZeroShotConfig
from binllm.models.on_demand import device_of
from binllm.packing.headers import file_hash
from binllm.tracking.measurements import Origin, TaskMeasurement


def check_zero_shot(config: ZeroShotConfig) -> None:
    """Refuse at once what would fail only after the model was loaded or quantized.

    Raises:
        BinllmError: lm-eval is not installed, `check_files` refuses the data, or the hub cannot be reached.
    """
    if not config.tasks:
        return
    if find_spec("lm_eval") is None:
        raise bad_value(
            "zero_shot.tasks", ", ".join(config.tasks), "none without lm-eval; pip install 'binllm[zero-shot]'"
        )
    if config.data is not None:
        check_files(config.tasks, Path(config.data))
    else:
        for name in config.tasks:
            build_task(name, config)


def source_of(task: str, config: ZeroShotConfig) -> str:
    """Where a task's data come from, as `TaskMeasurement.source` says it."""
    if config.data is None:
        return "hub"
    return f"local sha256:{file_hash(task_file(task, Path(config.data)))}"


def build_task(name: str, config: ZeroShotConfig) -> Any:
    """The task for lm-eval (a `lm_eval.api.task.ConfigurableTask`) with its data loaded.

    Raises:
        BinllmError: The data cannot be had from the hub.
    """
    from lm_eval.api.task import ConfigurableTask

    if config.data is None:
        return _hub_task(name)
    return ConfigurableTask(config=local_task(name, Path(config.data)))


@cache
def _hub_task(name: str) -> Any:
    from lm_eval.tasks import TaskManager

    try:
        return TaskManager().load([name])["tasks"][name]
    except Exception as error:  # whatever the hub's client raises without a network
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        allowed = f"a folder of local jsonl files where the hub cannot be reached ({first})"
        raise bad_value("zero_shot.data", None, allowed) from error


def measure_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    config: ZeroShotConfig,
    origin: Origin,
) -> TaskMeasurement:
    """Measure a model on one task, with no example in the prompt and no chat template.

    Nothing is drawn at random: lm-eval is told to set no seed, and its standard errors of means are formulas. (The
    standard error of LAMBADA's perplexity is a bootstrap with the fixed seeds of lm-eval.)

    Args:
        model: In evaluation mode, on any device.
        tokenizer: Its tokenizer.
        name: Of the task.
        config: Data, limit, batch.
        origin: Model and code, for the record.

    Returns:
        The record.

    Raises:
        BinllmError: The data cannot be had.
    """
    begun = time.perf_counter()
    task = build_task(name, config)
    found = _ask(model, tokenizer, task, config)
    samples = found["samples"][name]
    metrics, errors = _metrics(found["results"][name])
    chance, constant = _levels(task, samples)
    return TaskMeasurement(
        origin=origin,
        task=name,
        source=source_of(name, config),
        task_version=str(found["versions"][name]),
        task_hash=_task_hash(samples),
        prompt=_prompt(task),
        limit=config.limit,
        examples=len(samples),
        metrics=metrics,
        standard_errors=errors,
        chance=chance,
        constant=constant,
        correct=[float(sample["acc"]) for sample in samples],
        seconds=time.perf_counter() - begun,
    )


def _ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Any, config: ZeroShotConfig) -> Any:
    """lm-eval's results and samples of one task."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    seeds: dict[str, Any] = dict.fromkeys(names)  # None: no global generator is touched
    ours = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=config.batch)  # type: ignore[arg-type]
    # lm-eval takes the first weight's device, which of a streamed model is none.
    ours._device = device_of(model)  # pyright: ignore[reportAttributeAccessIssue]
    with redirect_stdout(sys.stderr):  # what lm-eval prints is progress, not a result
        return simple_evaluate(
            model=ours,
            tasks=[task],
            num_fewshot=0,
            limit=config.limit,
            bootstrap_iters=1000,
            log_samples=True,
            task_manager=TaskManager(include_defaults=False),
            **seeds,
        )


def _metrics(results: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """lm-eval's ``acc,none`` and ``acc_stderr,none`` as metrics and their standard errors."""
    values = {key.split(",")[0]: value for key, value in results.items() if "," in key and isinstance(value, float)}
    errors = {key.removesuffix("_stderr"): value for key, value in values.items() if key.endswith("_stderr")}
    return {key: value for key, value in values.items() if not key.endswith("_stderr")}, errors


def _levels(task: Any, samples: list[dict[str, Any]]) -> tuple[float, float]:
    """The acc of a uniform guess, and that of always choosing the place which is right most often."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0, 0.0
    chance = sum(1 / len(sample["arguments"]) for sample in samples) / len(samples)
    # where the choices are contexts, lm-eval keeps the right one's place in the text
    place = task.doc_to_text if task.multiple_input else task.doc_to_target
    places = Counter(place(sample["doc"]) for sample in samples)
    return chance, places.most_common(1)[0][1] / len(samples)


def _task_hash(samples: list[dict[str, Any]]) -> str:
    hashes = (sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _prompt(task: Any) -> dict[str, str]:
    parts = {name: getattr(task.config, name) for name in ("doc_to_text", "doc_to_target", "doc_to_choice")}
    named = {name: getattr(part, "__name__", str(part)) for name, part in parts.items() if part is not None}
    return named | {"num_fewshot": "0"}
