"""Both streams through one decoder block at a time.

``x`` (sequences, length, hidden) is the full-precision model's hidden state before the current block, ``x_hat`` that of
the model whose earlier blocks are quantized already. Each block call repeats the arguments that the model itself passes
(rotary embeddings, masks), caught by a forward pre-hook, so ``x_hat`` is the quantized model's own forward bit for bit
at equal batch shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from binllm.distributed import Ranks
from binllm.errors import bad_value
from binllm.models.on_demand import device_of
from binllm.statistics import Moments
from binllm.streams.storage import Activations


class Stop(Exception):
    """Ends a forward pass where nothing later is wanted."""


def check_alike(model: nn.Module) -> None:
    """Refuse a model whose blocks are of several kinds (masks or positions of their own): all get what the first one gets.

    Raises:
        BinllmError: Its configuration names several ``layer_types``.
    """
    kinds = set(getattr(getattr(model, "config", None), "layer_types", None) or ())
    if len(kinds) > 1:
        raise bad_value("model", f"layer_types {', '.join(sorted(kinds))}", "a model with blocks of one kind")


class DualStream:
    """The two streams of a model over its calibration tokens.

    Args:
        model: A causal language model; only its part before the first block is run here.
        blocks: Its decoder blocks.
        ids: Calibration tokens (sequences, length) int64.
        batch: Sequences in one forward pass.
        activations: Where the streams live.
        ranks: The processes that share the sequences; the streams here are those of this process's share.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: nn.ModuleList,
        ids: Tensor,
        batch: int,
        activations: Activations,
        ranks: Ranks = Ranks(),
    ):
        check_alike(model)
        self.ranks, self.shares = ranks, ranks.shares(len(ids), batch)
        ids = ids[self.shares[ranks.rank]]
        self.blocks = blocks
        self.activations = activations
        self.device = device_of(model)
        self.spans = [slice(s, min(s + batch, len(ids))) for s in range(0, len(ids), batch)]
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.x = self._embed(model, blocks[0], ids)
        self.x_hat = self._copy(self.x)

    def _copy(self, tensor: Tensor) -> Tensor:
        copy = self.activations.empty(*tensor.shape, dtype=tensor.dtype).copy_(tensor)
        self.activations.let_go(tensor, copy)
        return copy

    def _embed(self, model: nn.Module, first: nn.Module, ids: Tensor) -> Tensor:
        """Run the model up to its first block and keep what that block is called with."""
        caught: list[Tensor] = []

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            hidden = args[0] if args else kwargs.pop("hidden_states")
            caught.append(hidden)
            self._calls.setdefault(len(hidden), (args[1:], kwargs))
            raise Stop

        hidden = torch.empty(0)
        for span in self.spans:
            with _hooked(first, catch, with_kwargs=True):
                run_until_stop(model, input_ids=ids[span].to(self.device), use_cache=False)
            batch = caught.pop().to("cpu")
            if span.start == 0:
                hidden = self.activations.empty(len(ids), *batch.shape[1:], dtype=batch.dtype)
            hidden[span] = batch
        return hidden

    def whole(self) -> dict[str, Tensor]:
        """Both streams over the sequences of all processes, in the first one; elsewhere this process's share."""
        return {"x": self.ranks.gather(self.x, self.shares), "x_hat": self.ranks.gather(self.x_hat, self.shares)}

    def restore(self, x: Tensor, x_hat: Tensor) -> None:
        """Continue from streams over all sequences that were saved after a finished block."""
        share = self.shares[self.ranks.rank]
        self.x.copy_(x[share])
        self.x_hat.copy_(x_hat[share])
        self.activations.let_go(self.x, self.x_hat)

    def call(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run a block as the model does; hidden (sequences, length, hidden), as many sequences as a batch of `spans`."""
        args, kwargs = self._calls[len(hidden)]
        out = block(hidden.to(self.device), *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    @torch.no_grad()
    def advance_reference(self, block: nn.Module, readers: list[str]) -> list[Tensor]:
        """Run the still unquantized block on ``x``, which becomes the block's output.

        Args:
            block: The decoder block.
            readers: One layer name for every stage of the block.

        Returns:
            The input of every reader, (sequences, length, n_in).
        """
        inputs: list[Tensor | None] = [None] * len(readers)
        for span in self.spans:
            caught: dict[int, Tensor] = {}
            with _Catching(block, readers, caught):
                self.x[span] = self.call(block, self.x[span]).to("cpu")
            for stage, batch in caught.items():
                batch = _by_sequence(batch, span)
                if inputs[stage] is None:
                    inputs[stage] = self.activations.empty(len(self.x), *batch.shape[1:], dtype=batch.dtype)
                inputs[stage][span] = batch.to("cpu")  # type: ignore[index]
            self.activations.let_go(self.x, *(tensor for tensor in inputs if tensor is not None))
        return [tensor for tensor in inputs if tensor is not None]

    @torch.no_grad()
    def advance_quantized(self, block: nn.Module) -> None:
        """Run the quantized block on ``x_hat``, which becomes the block's output."""
        for span in self.spans:
            self.x_hat[span] = self.call(block, self.x_hat[span]).to("cpu")
            self.activations.let_go(self.x_hat)

    @torch.no_grad()
    def measure(self, block: nn.Module, readers: dict[str, Tensor], sums: Sequence[tuple[str, Moments]]) -> None:
        """Measure the inputs of some layers as the partly quantized block sees them.

        Args:
            block: The decoder block as it stands.
            readers: Layer name to its input in the full-precision stream. The forward pass ends at the last of them.
            sums: Layer names, and what the sequences of all processes are added to; in the same order in all processes.
        """
        names = list(readers)
        for span in self.spans:
            caught: dict[int, Tensor] = {}
            with _Catching(block, names, caught, stop_after=len(names)):
                run_until_stop(self.call, block, self.x_hat[span])
            for name, moments in sums:
                moments.add(readers[name][span].to(self.device), _by_sequence(caught[names.index(name)], span))
            self.activations.let_go(self.x_hat, *readers.values())
        for _, moments in sums:
            moments.add_over(self.ranks)


def _by_sequence(batch: Tensor, span: slice) -> Tensor:
    """(sequences, length, n_in), also where a block flattens its tokens (OPT before its feed-forward layers)."""
    return batch.reshape(span.stop - span.start, -1, batch.shape[-1])


def run_until_stop(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with torch.no_grad():
        try:
            function(*args, **kwargs)
        except Stop:
            return


class _hooked:
    """A forward pre-hook for the time of a ``with`` block."""

    def __init__(self, module: nn.Module, hook: Callable[..., None], with_kwargs: bool = False):
        self._handle = module.register_forward_pre_hook(hook, with_kwargs=with_kwargs)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


class _Catching:
    """Catches the inputs of named layers, and can end the pass once it has so many."""

    def __init__(self, block: nn.Module, names: list[str], into: dict[int, Tensor], stop_after: int | None = None):
        self._hooks = [_hooked(block.get_submodule(n), self._catcher(i)) for i, n in enumerate(names)]
        self._into, self._stop_after = into, stop_after

    def _catcher(self, stage: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._into[stage] = args[0]
            if self._stop_after is not None and len(self._into) == self._stop_after:
                raise Stop

        return catch

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.__exit__(*error)
