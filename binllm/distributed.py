"""One model calibrated by several processes, as ``torchrun`` starts them: each has a share of the text.

Moments are sums over all shares. Every process holds the whole model and fits every layer to the same moments; the first one
alone measures, writes and prints. Messages go from CPU memory over gloo, whatever the device: they are a few matrices a
layer, against many products for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from binllm.errors import BinllmError, bad_value

LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by torchrun alone
PIECE = 2**27  # entries of one message: less than 2^31 bytes, which not every transport takes
WAIT = timedelta(days=30)  # for the first process to measure; torchrun ends all processes when one has died


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them. Of a single process, the default, every method leaves all as it is.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the first, which measures, writes and prints."""
        return self.rank == 0

    def shares(self, sequences: int, batch: int) -> list[slice]:
        """What every process has of the calibration sequences.

        Shares are whole batches in order, so each forward pass is one that a single process would make too, to the bit.

        Args:
            sequences: Number of them.
            batch: Sequences in one forward pass.

        Raises:
            BinllmError: There are fewer batches than processes.
        """
        batches = -(-sequences // batch)
        if batches < self.size > 1:
            made = f"dataset.sequences = {sequences} in batches of calibration.batch = {batch}"
            raise bad_value("torchrun --nproc-per-node", self.size, f"at most {batches}, a batch for each: {made}")
        bounds = [min(sequences, batches * rank // self.size * batch) for rank in range(self.size + 1)]
        return [slice(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]

    def add_up(self, parts: Iterable[Tensor]) -> None:
        """Add tensors over all processes, in place; afterwards they have the same bits in all of them."""
        if self.size > 1:
            for part in parts:
                total = part.cpu()
                for piece in total.view(-1).split(PIECE):
                    dist.all_reduce(piece)
                part.copy_(total)

    def gather(self, own: Tensor, shares: Sequence[slice]) -> Tensor:
        """The shares of all processes in one tensor on the CPU, in the first process; elsewhere `own`."""
        if self.size == 1:
            return own
        if not self.leads:
            for sequence in own:
                dist.send(sequence.contiguous(), dst=0)
            return own
        whole = torch.empty(shares[-1].stop, *own.shape[1:], dtype=own.dtype)
        whole[shares[0]] = own
        for source, share in enumerate(shares[1:], 1):
            for sequence in whole[share]:
                dist.recv(sequence, source)
        return whole

    def copy(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The first process's tensors on the CPU, in every process; what the others give is not looked at."""
        if self.size == 1:
            return tensors
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()} if self.leads else {}
        sent = bytearray(save(own))
        message = torch.frombuffer(sent.ljust(self.tell(len(sent))), dtype=torch.uint8)
        for piece in message.split(PIECE):
            dist.broadcast(piece, src=0)
        return load(message.numpy().tobytes())

    def tell(self, number: int) -> int:
        """The first process's number, in every process."""
        if self.size == 1:
            return number
        told = torch.tensor([int(number)])
        dist.broadcast(told, src=0)
        return int(told)

    def agree(self, text: str, what: str) -> None:
        """Check that this process has the first one's text.

        Raises:
            BinllmError: It has another; torchrun then ends all processes.
        """
        theirs = self.copy({"text": torch.tensor(list(text.encode()), dtype=torch.uint8)})["text"]
        if text != (expected := bytes(theirs.tolist()).decode()):
            raise BinllmError(f"torchrun: process {self.rank} has another {what} ({text}) than process 0 ({expected})")


def launched() -> bool:
    """Whether torchrun started this process."""
    return LAUNCHED in os.environ


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, for the time of a ``with`` block; without torchrun a single one."""
    if not launched():
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=WAIT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
