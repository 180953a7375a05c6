"""Which layers are fitted as one: those that read one input and must share their column scales, else each on its own.

Stacking their rows makes one problem of them: they have the same inputs, hence the same metric, and rows do not interact but
through the column scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from binllm.binarization import Binarization
from binllm.errors import bad_value
from binllm.objectives import Objective
from binllm.plan import Plan


class Stack(NamedTuple):
    """Layers that are fitted as one.

    Attributes:
        names: Of the layers within their block, at least one.
        role: Their roles.
        objective: What they are fitted to.
        binarization: What their weight may be.
    """

    names: tuple[str, ...]
    role: str
    objective: Objective
    binarization: Binarization

    @property
    def label(self) -> str:
        """The layers' names in one."""
        return "+".join(self.names)


def stacks(
    plan: Plan, block: nn.Module, groups: Sequence[Sequence[str]], roles: Mapping[str, str]
) -> list[list[Stack]]:
    """The stacks of each group of layers that read one input.

    Args:
        plan: What is done to each layer.
        block: The decoder block, not quantized yet.
        groups: Names of its linear layers by stage.
        roles: Their roles by name.

    Raises:
        BinllmError: Layers that are to share column scales have different objectives.
    """
    last = groups[-1][-1]
    shared = getattr(plan.binarization, "shares_columns", False)
    result: list[list[Stack]] = []
    for group in groups:
        parts = [tuple(group)] if shared else [(name,) for name in group]
        result.append([_stack(plan, names, roles, last) for names in parts])
    return [[_foldable(stack, block, groups[0]) for stack in group] for group in result] if shared else result


def _stack(plan: Plan, names: tuple[str, ...], roles: Mapping[str, str], last: str) -> Stack:
    objectives = [plan.objective_of(roles[name], name == last) for name in names]
    if any(one is not objectives[0] for one in objectives):
        wanted = f"all or none of {', '.join(roles[name] for name in names)}, which share their column scales"
        raise bad_value("objective.roles", ", ".join(plan.objective.roles), wanted)
    return Stack(names, "+".join(roles[name] for name in names), objectives[0], plan.binarization)


def _foldable(stack: Stack, block: nn.Module, readers: Sequence[str]) -> Stack:
    """Without column scales where these could not be folded: `o`, if several of its columns read one row of v."""
    if stack.role != "o":
        return stack
    inputs: Any = block.get_submodule(stack.names[0])
    made = sum(block.get_submodule(name).out_features for name in readers)  # type: ignore[misc]
    if made == 3 * inputs.in_features:
        return stack
    binarization: Any = stack.binarization
    return stack._replace(binarization=replace(binarization, column_scale=False))
