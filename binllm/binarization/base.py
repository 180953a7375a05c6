"""What a binarization is: a first code for every block of columns, and how fitted blocks become a layer's code."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from binllm.binarization.target import Target


class FittedBlock(Protocol):
    """The code of one block while it is being fitted; solvers ask for more, see `Solver.blocks`."""

    def dense(self) -> Tensor:
        """Ŵᵀ (width, n_out)."""
        ...


@runtime_checkable
class Columnwise(Protocol):
    """A block whose columns can be rounded one by one, the levels held (GPTQ)."""

    def dense(self) -> Tensor:
        """Ŵᵀ (width, n_out)."""
        ...

    def round_column(self, k: int, weight: Tensor) -> Tensor:
        """Move column k to the levels nearest to ``weight`` (n_out,), and return them."""
        ...


class Binarization(Protocol):
    """The interface; a user's own binarization needs these members and no base class.

    Attributes:
        block_size: Input columns of a block, or None for one block as wide as the layer.
        block: Class of its blocks, which says which solvers can work on them.
    """

    @property
    def block_size(self) -> int | None: ...
    @property
    def block(self) -> type: ...

    def initialise(self, target: Target) -> Any:
        """A first code of one block, a `FittedBlock`."""
        ...

    def assemble(self, blocks: list[Any]) -> Any:
        """The code (`binllm.packing`) of the layer whose blocks these are, from left to right."""
        ...
