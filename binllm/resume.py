"""What of a run survives an interruption, and how it is put back."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn

from binllm.models.on_demand import Stored, stow
from binllm.packing import BinaryLinear, binary_layers, spec_from_dict
from binllm.streams import DualStream
from binllm.tracking.records import LayerRecord
from binllm.tracking.state import ResumeState

SPEC = "spec"


def block_tensors(block: nn.Module) -> dict[str, Tensor]:
    """The packed layers of a finished block as named tensors; each layer's spec travels as JSON bytes beside them."""
    tensors: dict[str, Tensor] = {}
    for name, layer in binary_layers(block).items():
        spec = json.dumps(layer.spec.to_dict(), sort_keys=True).encode()
        tensors[f"{name}/{SPEC}"] = torch.tensor(list(spec), dtype=torch.uint8)
        for part, tensor in layer.state_dict().items():
            tensors[f"{name}/{part}"] = tensor.cpu()
    return tensors


def install_block(block: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Replace the linear layers of a block by the packed ones that `block_tensors` named."""
    names = [key.rpartition("/")[0] for key in tensors if key.endswith(f"/{SPEC}")]
    for name in names:
        old = block.get_submodule(name)
        parts = {k.rpartition("/")[2]: v for k, v in tensors.items() if k.rpartition("/")[0] == name}
        spec = spec_from_dict(json.loads(bytes(parts.pop(SPEC).tolist()).decode()), name)
        weight: Tensor = old.weight  # type: ignore[assignment]
        layer = BinaryLinear.empty(spec, weight.device, weight.dtype)
        if not weight.is_meta:  # else the block is streamed, and reads them when it is held
            layer.load_state_dict(parts)
        block.set_submodule(name, layer)


def save_progress(
    state: ResumeState | None, index: int, block: nn.Module, streams: DualStream, records: list[LayerRecord]
) -> None:
    """Make a finished block durable, with both streams after it.

    Args:
        state: Where; None in a process that is not the first, which only gives its share of the streams.
        index: Which block.
        block: The block.
        streams: Both streams.
        records: Of its layers.

    Raises:
        BinllmError: The block is not the one that the first process has; or as `ResumeState.save`.
    """
    tensors = block_tensors(block)
    if streams.ranks.size > 1:
        streams.ranks.agree(_digest(tensors), f"block {index}")
    whole = streams.whole()
    if state is not None:
        state.save(index, tensors, whole, records)
        streams.activations.let_go(streams.x, streams.x_hat)
        _stow_block(state, index, block)


def _stow_block(state: ResumeState, index: int, block: nn.Module) -> None:
    """A streamed block's packed layers need not stay in memory: they are in the state."""
    names = [(layer, part) for layer, packed in binary_layers(block).items() for part in packed.state_dict()]
    stow(block, {f"{layer}.{part}": Stored(state.block_file(index), f"{layer}/{part}") for layer, part in names})


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def restore_progress(state: ResumeState | None, streams: DualStream) -> int:
    """Put back what an earlier process finished.

    Args:
        state: Where it is; None in a process that is not the first, which gets it from there.
        streams: Both streams before the first block.

    Returns:
        The number of finished blocks, 0 when there is nothing to resume.
    """
    saved, ranks = None if state is None else state.load(), streams.ranks
    done = ranks.tell(0 if saved is None else saved.blocks_done)
    for index, block in enumerate(streams.blocks[:done]):
        install_block(block, dict(ranks.copy(saved.blocks[index] if saved else {})))
        if state is not None:
            _stow_block(state, index, block)
    if done:
        streams.restore(**ranks.copy(saved.streams if saved else {}))
    return done
