"""What an objective is: a few options, and one function from a layer's statistics to a quadratic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from binllm.errors import bad_value
from binllm.quadratic import Amp, Quadratic
from binllm.statistics import Statistics, TokenWeights

ALL = "all"
LAST = "last"


class Objective(Protocol):
    """The interface; a user's own objective needs these members and no base class.

    Attributes:
        name: Label in records and run folders.
        roles: Layer roles it applies to: names such as ``down``, or ``all``, or ``last`` (last linear layer of a block).
        token_weights: How tokens are weighted in the moments that it gets.
        aligns_outputs: Whether its metric is the input's second moment, so that errors are fed back in that same metric.

    One that does not look at the full-precision stream, so that neither C nor the outputs' energy need be measured for it,
    says so by ``reads_reference = False``.
    """

    @property
    def name(self) -> str: ...
    @property
    def roles(self) -> Sequence[str]: ...
    @property
    def token_weights(self) -> TokenWeights: ...
    @property
    def aligns_outputs(self) -> bool: ...

    def quadratic(self, weight: Tensor, statistics: Statistics) -> Quadratic:
        """The objective of one layer with weight (n_out, n_in), float64."""
        ...

    def amp(self, weight: Tensor, statistics: Statistics) -> Amp | None:
        """Attention matrix preservation for this layer, or None."""
        ...


def check_interval(key: str, value: float, low: float, high: float) -> None:
    """Raise the user's error when a number is outside ``[low, high]``."""
    if not low <= value <= high:
        raise bad_value(key, value, f"{low:g} <= {key.split('.')[-1]} <= {high:g}")


def reads_reference(objective: Objective) -> bool:
    """Whether C and the energy of the full-precision outputs are measured for an objective."""
    return getattr(objective, "reads_reference", True)


def applies_to(objective: Objective, role: str, is_last: bool) -> bool:
    """Whether an objective takes a layer of this role."""
    return ALL in objective.roles or role in objective.roles or (is_last and LAST in objective.roles)
