"""binllm from Python: quantize a model in memory, no command line and no run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from binllm.configuration import compose_run
from binllm.data import calibration_tokens
from binllm.diagnostics.diagnosis import Diagnosis
from binllm.errors import bad_value
from binllm.inner_loop import Events, open_streams, quantize_blocks, quantize_head
from binllm.models import check_context, decoder_blocks
from binllm.pipeline import plan_of
from binllm.schema import RunConfig, build
from binllm.tracking.progress import RunProgress
from binllm.tracking.records import LayerRecord


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokens: Tensor | None = None,
    *,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> tuple[PreTrainedModel, list[LayerRecord]]:
    """Quantize a causal language model to one bit per weight and scales.

    Args:
        model: Any model that transformers loads, in evaluation mode; its linear layers are replaced in place by
            `binllm.packing.BinaryLinear`. It may be on a GPU.
        tokenizer: For the calibration text; not needed with ``tokens``.
        tokens: Calibration tokens (sequences, length) int64; by default those of the ``dataset`` group.
        overrides: What the command line would say, for example ``["method=paper", "seed=1", "objective.alpha=0.5"]``.
            No model is loaded, no perplexity measured and no file written, so keys of model, device, threads, kernel,
            evaluation, tracker and paths have no effect.
        progress: Show a progress bar on stderr.

    Returns:
        The same model, and one record per quantized layer.

    Raises:
        BinllmError: An override or the tokens are not allowed, or a layer cannot be quantized.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> model = AutoModelForCausalLM.from_pretrained("folder").eval()
        >>> model, records = binllm.quantize(model, AutoTokenizer.from_pretrained("folder"))
        >>> binllm.save_checkpoint(model, None, "folder-1bit")
    """
    config: RunConfig = build(compose_run(overrides))
    if tokens is None:
        if tokenizer is None:
            raise bad_value("tokenizer", None, "a tokenizer when no tokens are given")
        tokens = calibration_tokens(config.dataset, tokenizer, config.seed).ids
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or tokens.numel() == 0:
        shape = f"{tokens.dtype} of shape {tuple(tokens.shape)}"
        raise bad_value("tokens", shape, "an int64 tensor of shape (sequences, length)")
    check_context(model, tokens.shape[1], "dataset.length")
    plan = plan_of(config)
    bar = RunProgress(len(decoder_blocks(model)[1]), quiet=not progress)
    with bar, bar.phase("quantize", total=bar.blocks):
        if remark := plan.remark():
            bar.note(remark)
        streams = open_streams(model, tokens, plan)
        diagnosis = Diagnosis(config.diagnostics, plan)

        def finished(index: int, *block: Any) -> None:
            diagnosis.finish(index, *block)
            bar.block_done(index)

        events = Events(diagnosis.begin, bar.layer, finished)
        return model, quantize_blocks(streams, plan, events) + quantize_head(model, streams, plan)
