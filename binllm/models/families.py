"""Decoder blocks, linear layers and their roles, found by structure.

No model name and no class name of a model is looked at. The rules:

- The decoder blocks are the longest ``ModuleList`` whose members are of one class and hold linear layers, packed or not.
- A layer's role is read from the name of the attribute that holds it in the block (`ROLE_OF_NAME`), the last
  component of its path. A name that is not listed is an error, never a guess.
- The stages are the roles in data-flow order; layers of one stage read the same input.
"""

from __future__ import annotations

from enum import StrEnum

from torch import nn

from binllm.errors import BinllmError
from binllm.packing import BinaryLinear


class Role(StrEnum):
    """What a linear layer does in its block."""

    q = "q"
    k = "k"
    v = "v"
    qkv = "qkv"
    o = "o"
    gate = "gate"
    up = "up"
    gate_up = "gate_up"
    down = "down"
    fc1 = "fc1"
    fc2 = "fc2"


ROLE_OF_NAME: dict[str, Role] = {
    "q_proj": Role.q,
    "k_proj": Role.k,
    "v_proj": Role.v,
    "qkv_proj": Role.qkv,
    "o_proj": Role.o,
    "out_proj": Role.o,
    "gate_proj": Role.gate,
    "up_proj": Role.up,
    "gate_up_proj": Role.gate_up,
    "down_proj": Role.down,
    "fc1": Role.fc1,
    "fc2": Role.fc2,
}

STAGES: tuple[tuple[Role, ...], ...] = (
    (Role.q, Role.k, Role.v, Role.qkv),
    (Role.o,),
    (Role.gate, Role.up, Role.gate_up, Role.fc1),
    (Role.down, Role.fc2),
)
_ORDER = [role for stage in STAGES for role in stage]


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the decoder blocks.

    Args:
        model: A causal language model.

    Returns:
        Module path of the list (``model.layers``) and the list; the first one of the longest.

    Raises:
        BinllmError: No list of equal modules with linear layers is there.
    """
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len({type(block) for block in module}) == 1
        and any(isinstance(part, nn.Linear | BinaryLinear) for part in module[0].modules())
    ]
    if not found:
        raise BinllmError("model: no list of decoder blocks with linear layers found in it")
    return max(found, key=lambda item: len(item[1]))


def layer_roles(block: nn.Module) -> dict[str, Role]:
    """Give every linear layer of a block its role.

    Args:
        block: One decoder block.

    Returns:
        Module name relative to the block ``->`` role, in execution order.

    Raises:
        BinllmError: A layer's name is not a known one, two layers have one role, or there is none.
    """
    roles: dict[Role, str] = {}
    for name, module in block.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        role = ROLE_OF_NAME.get(name.rpartition(".")[2])
        if role is None:
            known = ", ".join(ROLE_OF_NAME)
            raise BinllmError(f"model: the role of linear layer '{name}' is unknown; known names are {known}")
        if role in roles:
            raise BinllmError(f"model: layers '{roles[role]}' and '{name}' of one block both have role {role.value}")
        roles[role] = name
    if not roles:
        raise BinllmError("model: a decoder block has no linear layers")
    return {roles[role]: role for role in _ORDER if role in roles}


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """Collect the linear layers of a block that is not quantized yet.

    Args:
        block: One decoder block.

    Returns:
        Module name relative to the block ``->`` layer, weight (n_out, n_in), in execution order.

    Raises:
        BinllmError: As `layer_roles`.
    """
    layers: dict[str, nn.Linear] = {}
    for name in layer_roles(block):
        layer = block.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        layers[name] = layer
    return layers


def stages(block: nn.Module) -> list[list[str]]:
    """Group the layers of a block in data-flow order: each group reads one input.

    Args:
        block: One decoder block that is not quantized yet.

    Returns:
        Groups of module names: q, k, v | o | gate, up | down; fused qkv | o | gate_up | down; or
        q, k, v | o | fc1 | fc2. The last name of the last group is the last linear layer of the block.

    Raises:
        BinllmError: As `layer_roles`.
    """
    roles = layer_roles(block)
    groups = [[name for name, role in roles.items() if role in stage] for stage in STAGES]
    return [group for group in groups if group]


def last_layer(block: nn.Module) -> str:
    """Name the last linear layer of a block (``down_proj`` or ``fc2``).

    Args:
        block: One decoder block that is not quantized yet.

    Returns:
        Module name relative to the block.
    """
    return stages(block)[-1][-1]
