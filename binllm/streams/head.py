"""What comes after the last block: the model's own final norm and its output layer (``lm_head``), and what that one gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def after_blocks(model: nn.Module, blocks: nn.ModuleList) -> Iterator[Callable[[Tensor], Any]]:
    """Leave out a model's blocks for the time of a ``with`` block.

    Args:
        model: The model.
        blocks: Its decoder blocks.

    Yields:
        The model as a function of its last block's output (sequences, length, hidden), on the device of the model.
    """
    path = next(name for name, module in model.named_modules() if module is blocks)
    parent_path, _, name = path.rpartition(".")
    parent, replay = model.get_submodule(parent_path), _Replay()

    def run(output: Tensor) -> Any:
        replay.output = output
        ids = torch.zeros(output.shape[:2], dtype=torch.int64, device=output.device)
        return model(input_ids=ids, use_cache=False)

    setattr(parent, name, nn.ModuleList([replay]))
    try:
        yield run
    finally:
        setattr(parent, name, blocks)


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
    caught: list[Tensor] = []

    def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0])
        raise Stop

    handle = head.register_forward_pre_hook(catch)
    try:
        with after_blocks(model, streams.blocks) as run:
            for span in streams.spans:
                for stream in (streams.x, streams.x_hat):
                    run_until_stop(run, stream[span].to(streams.device))
                yield caught[-2], caught[-1]
                caught.clear()
    finally:
        handle.remove()
