"""Text from a packed checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer

from binllm.errors import bad_value
from binllm.packing.checkpoint import load_checkpoint


@torch.no_grad()
def print_continuation(checkpoint: Path, prompt: str, tokens: int, kernel: str, chat: bool) -> None:
    """Print a prompt and its most probable continuation, token by token as it is found.

    Args:
        checkpoint: Written by `save_checkpoint`.
        prompt: Not empty.
        tokens: At most so many new ones.
        kernel: That multiplies by the packed weights.
        chat: Whether the prompt is a user's message, put into the model's chat template.

    Raises:
        BinllmError: The checkpoint cannot be read or has no tokenizer (or no chat template), an argument is not allowed.
    """
    if tokens < 1:
        raise bad_value("--tokens", tokens, "a whole number of at least 1")
    model, loaded = load_checkpoint(checkpoint, kernel=kernel)
    tokenizer: Any = loaded
    if tokenizer is None:
        raise bad_value("CHECKPOINT", checkpoint, "a checkpoint with a tokenizer")
    if chat and tokenizer.chat_template is None:
        raise bad_value("--chat", chat, "left out: the checkpoint has no chat template")
    if chat:
        message = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    if not ids.numel():
        raise bad_value("PROMPT", repr(prompt), "a text of at least one token")
    streamer = TextStreamer(tokenizer, skip_prompt=chat, skip_special_tokens=True)
    settings: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, streamer=streamer, pad_token_id=pad, **settings
    )
