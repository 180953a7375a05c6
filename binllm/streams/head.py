"""The input of the output layer (``lm_head``) in both streams, after the last block and the model's own final norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from binllm.streams.dual import DualStream, Stop, run_until_stop


class _Replay(nn.Module):
    """Stands in for all decoder blocks: returns what they would have returned."""

    def __init__(self) -> None:
        super().__init__()
        self.output = torch.empty(0)

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.output


@torch.no_grad()
def head_inputs(model: nn.Module, head: nn.Module, streams: DualStream) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the head's input batch by batch; both streams stand after the last block.

    Args:
        model: The model.
        head: The output layer.
        streams: The dual stream.

    Yields:
        (x, x_hat), each (sequences, length, n_in).
    """
    path = next(name for name, module in model.named_modules() if module is streams.blocks)
    parent_path, _, name = path.rpartition(".")
    parent, blocks = model.get_submodule(parent_path), streams.blocks
    replay = _Replay()
    caught: list[Tensor] = []

    def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0])
        raise Stop

    handle = head.register_forward_pre_hook(catch)
    setattr(parent, name, nn.ModuleList([replay]))
    try:
        for span in streams.spans:
            for stream in (streams.x, streams.x_hat):
                replay.output = stream[span].to(streams.device)
                ids = torch.zeros(replay.output.shape[:2], dtype=torch.int64, device=streams.device)
                run_until_stop(model, input_ids=ids, use_cache=False)
            yield caught[-2], caught[-1]
            caught.clear()
    finally:
        handle.remove()
        setattr(parent, name, blocks)
