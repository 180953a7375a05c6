"""What a process that is not the first does of a run under ``torchrun``: its share of the quantization, nothing else."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from binllm.data import calibration_tokens
from binllm.distributed import Ranks
from binllm.inner_loop import Events, open_streams, quantize_blocks, quantize_head
from binllm.models import load_model
from binllm.pipeline import fingerprint_of, pick_device, plan_of
from binllm.resume import restore_progress, save_progress
from binllm.schema import RunConfig, build


def assist(composed: Any, ranks: Ranks) -> None:
    """Do what `binllm.pipeline.run` waits for in the first process. No file is written.

    Args:
        composed: The configuration as Hydra composed it.
        ranks: The processes that share the run.

    Raises:
        BinllmError: A mistake in the input, or this process does not have what the first one has.
    """
    config: RunConfig = build(composed)
    if ranks.tell(0):
        return  # the first process found the run done
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    loaded = load_model(config.model)
    model: Any = loaded.model.to(pick_device(config.device))  # type: ignore[arg-type]
    tokens, plan = calibration_tokens(config.dataset, loaded.tokenizer, config.seed), plan_of(config)
    streams = open_streams(model, tokens.ids, plan, ranks)
    ranks.agree(fingerprint_of(loaded, tokens), "model or calibration text")
    start = restore_progress(None, streams)
    quantize_blocks(streams, plan, Events(block=partial(save_progress, None)), start)
    quantize_head(model, streams, plan)
