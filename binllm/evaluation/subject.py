"""What ``binllm-tools evaluate`` measures: a run, a checkpoint, or a full-precision model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from binllm.configuration import compose_run
from binllm.errors import BinllmError, bad_value
from binllm.evaluation.measure import origin_of
from binllm.identity import model_name
from binllm.models import load_model, to_device
from binllm.models.config import Dtype
from binllm.packing.checkpoint import load_checkpoint, stream_checkpoint
from binllm.packing.headers import METHOD, checkpoint_hash
from binllm.pipeline import pick_device
from binllm.schema import RunConfig, build
from binllm.tracking.folder import RunPaths
from binllm.tracking.measurements import Origin
from binllm.yaml_folder import CONF


@dataclass(frozen=True)
class Subject:
    """A loaded model.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: Its tokenizer.
        origin: Model and code.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: Origin


def checkpoint_of(place: str) -> Path | None:
    """The checkpoint folder that a run folder or a checkpoint folder names; None for anything else.

    Raises:
        BinllmError: A run folder without a checkpoint.
    """
    run = RunPaths(place)
    if run.record.is_file() or (run.state / "state.json").is_file():
        if not run.checkpoint.is_dir():
            advice = "the command that made the run finishes it, or makes it anew where the folder is gone"
            raise BinllmError(f"PLACE = {place}: no checkpoint, not yet or not any more; {advice}")
        return run.checkpoint
    try:
        content = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    quantization = content.get("quantization_config") if isinstance(content, dict) else None
    return Path(place) if isinstance(quantization, dict) and quantization.get("quant_method") == METHOD else None


def compose_for(place: str, settings: Sequence[str]) -> RunConfig:
    """The configuration of an evaluation: settings, and for a full-precision model the model.

    Args:
        place: Run, checkpoint, model folder, or an option of the group ``model``.
        settings: Overrides as `binllm` takes them.

    Raises:
        BinllmError: The place is none of these, or an override is not allowed.
    """
    if checkpoint_of(place) is not None:
        return build(compose_run(settings))
    path, options = Path(place).expanduser(), [file.stem for file in sorted((CONF / "model").glob("*.yaml"))]
    if not path.exists() and place not in options:
        raise bad_value("PLACE", place, [*options, "a run folder", "a checkpoint", "a model's folder"])
    chosen = str(path.absolute()) if path.exists() else place
    return build(compose_run([f"model={chosen}", *settings]))


def evaluations_of(place: str, config: RunConfig) -> Path:
    """Where the records go: into the run, beside the checkpoint, or for a full-precision model into the results."""
    checkpoint = checkpoint_of(place)
    if checkpoint is None:
        return RunPaths(Path(config.paths.results).expanduser() / f"{model_name(config)}-full_precision").evaluations
    if checkpoint.name == "checkpoint" and RunPaths(checkpoint.absolute().parent).record.is_file():
        return RunPaths(checkpoint.absolute().parent).evaluations
    return checkpoint.absolute().parent / f"{checkpoint.absolute().name}-evaluations"


def load_subject(place: str, config: RunConfig, dtype: Dtype | None) -> Subject:
    """Load what is to be measured.

    Args:
        place: As for `compose_for`.
        config: What that returned.
        dtype: Of the forward pass; None is the checkpoint's own, or ``model.dtype`` of a full-precision model.

    Raises:
        BinllmError: The model cannot be loaded, or has no tokenizer.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device, checkpoint = pick_device(config.device), checkpoint_of(place)
    if checkpoint is None:
        loaded = load_model(config.model if dtype is None else replace(config.model, dtype=dtype), config.streaming)
        model: PreTrainedModel = to_device(loaded.model, device)
        return Subject(model, loaded.tokenizer, origin_of(model, loaded.origin, None))
    kernel, attention = config.kernel.name.value, config.model.attention.value
    chosen = None if dtype is None else getattr(torch, dtype.value)
    load = stream_checkpoint if config.streaming else load_checkpoint
    model, tokenizer = load(checkpoint, chosen, kernel, str(device), attention)
    if tokenizer is None:
        raise BinllmError(f"{checkpoint}: has no tokenizer, so nothing can be measured on text")
    return Subject(model, tokenizer, origin_of(model, checkpoint_hash(checkpoint), kernel))
