"""Perplexity per token over windows of a text, by the convention of GPTQ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from binllm.data.tokens import TokenStream, token_stream
from binllm.errors import bad_value
from binllm.evaluation.by_block import logits_by_block
from binllm.evaluation.config import EvaluationConfig
from binllm.models import check_context, is_streamed


@dataclass(frozen=True)
class Perplexity:
    """A measured perplexity.

    Attributes:
        value: exp(nll); infinite where that overflows, NaN where a logit is NaN.
        nll: Mean negative log-likelihood of a scored token, nats.
        window_nll: The mean of each window, nats.
        window_tokens: Number of scored tokens of each window.
        tokens: Number of scored tokens.
        key: The full definition, such as ``wikitext2/test/window=512/stride=512/windows=20/bos=none/gptq``.
    """

    value: float
    nll: float
    window_nll: tuple[float, ...]
    window_tokens: tuple[int, ...]
    tokens: int
    key: str


def evaluation_tokens(config: EvaluationConfig, tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    """Read and tokenise the text of an evaluation.

    Args:
        config: Which text.
        tokenizer: Tokenizer of the model.

    Returns:
        The whole text as a stream; `perplexity` cuts the windows.

    Raises:
        BinllmError: As `token_stream`.
    """
    return token_stream(config, "evaluation", tokenizer)


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel,
    text: TokenStream,
    config: EvaluationConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Measure the perplexity of a model.

    The text is cut in windows of `config.window` tokens that start every `config.stride` tokens; what does
    not fill a last window is left out. In each window the model predicts every token from those before it in
    that window. Without overlap all predictions are scored: window - 1 of them, for the first token has none
    (it may be the BOS). With a smaller stride the first window is scored whole and later ones only on their
    last `stride` tokens, those not scored yet. The perplexity is exp of the mean over all scored tokens;
    without overlap that is GPTQ's mean over windows.

    Args:
        model: In evaluation mode, on any device.
        text: The tokenised text.
        config: Windows.
        progress: Called with (windows done, windows in all) after each forward pass.

    Returns:
        The perplexity with its definition. Log-probabilities are computed in float32, sums in float64; the
        logits of one forward pass (batch, window, vocabulary) live at a time.

    Raises:
        BinllmError: The text has not enough tokens for the windows, or a window is longer than the model's
            context.
    """
    check_context(model, config.window, "evaluation.window")
    stride, count = _windows(text, config)
    total, means, sizes = 0.0, [], []
    # the last batch repeats its last window: another shape could round differently
    starts = [[min(begin + row, count - 1) for row in range(config.batch)] for begin in range(0, count, config.batch)]
    batches = [text.sequences([number * stride for number in numbers], config.window) for numbers in starts]
    for begin, losses in zip(range(0, count, config.batch), _token_nll(model, batches), strict=True):
        for row in range(min(config.batch, count - begin)):
            new = losses[row] if begin + row == 0 else losses[row, -stride:]
            loss = new.sum(dtype=torch.float64).item()
            total += loss
            means.append(loss / len(new))
            sizes.append(len(new))
        if progress is not None:
            progress(min(begin + config.batch, count), count)
    mean = total / sum(sizes)
    value = math.inf if mean > 700 else math.exp(mean)
    return Perplexity(value, mean, tuple(means), tuple(sizes), sum(sizes), definition(text, config))


def definition(text: TokenStream, config: EvaluationConfig) -> str:
    """The key that says which perplexity it is, as in `Perplexity.key`.

    Args:
        text: The tokenised text.
        config: Windows.

    Raises:
        BinllmError: The text has not enough tokens for the windows.
    """
    stride, count = _windows(text, config)
    return f"{text.label}/window={config.window}/stride={stride}/windows={count}/bos={text.bos.value}/gptq"


def _windows(text: TokenStream, config: EvaluationConfig) -> tuple[int, int]:
    """Stride and number of windows."""
    stride = config.stride or text.text_length(config.window)
    available = (len(text.ids) - text.text_length(config.window)) // stride + 1
    found = f"{text.label} has only {len(text.ids)} tokens"
    if available < 1:
        raise bad_value("evaluation.window", config.window, f"at most the length of the text; {found}")
    if config.windows is not None and config.windows > available:
        wanted = f"null or at most {available} with evaluation.window = {config.window}; {found}"
        raise bad_value("evaluation.windows", config.windows, wanted)
    return stride, config.windows or available


def _token_nll(model: PreTrainedModel, batches: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Negative log-likelihood of every token but a row's first: (rows, length - 1) float32 of each batch, on the CPU."""
    for ids, logits in zip(batches, _logits(model, batches), strict=True):
        rows = zip(logits, ids.to(logits.device), strict=True)
        yield torch.stack([cross_entropy(row[:-1].float(), target[1:], reduction="none") for row, target in rows]).cpu()


def _logits(model: PreTrainedModel, batches: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """(rows, length, vocabulary) of each batch."""
    if is_streamed(model):
        yield from logits_by_block(model, batches)
    else:
        for ids in batches:
            yield model(input_ids=ids.to(model.device), use_cache=False).logits
