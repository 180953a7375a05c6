"""Processes that share the calibration text: shares are whole batches, and their moments add up to those of all of it."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch.testing import assert_close

from binllm.distributed import LAUNCHED, Ranks, joined
from binllm.errors import BinllmError
from binllm.statistics import Moments, TokenWeights

SHAPE = (7, 32, 12)  # sequences, length, features
OUTPUTS = torch.linspace(-1, 1, 5 * SHAPE[-1]).view(5, -1)  # the weight of a layer that reads them


@pytest.mark.parametrize(("sequences", "batch"), [(16, 4), (7, 2), (5, 1), (9, 4)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_are_whole_batches_in_order(sequences: int, batch: int, size: int) -> None:
    shares = [Ranks(rank, size).shares(sequences, batch) for rank in range(size)]
    assert all(one == shares[0] for one in shares)
    ends = [share.stop for share in shares[0]]
    assert [share.start for share in shares[0]] == [0, *ends[:-1]]
    assert ends[-1] == sequences
    assert all(share.start % batch == 0 and share.start < share.stop for share in shares[0])


def test_more_processes_than_batches_are_refused() -> None:
    with pytest.raises(
        BinllmError, match="--nproc-per-node = 3: allowed is at most 2, .*dataset.sequences = 8 in batches"
    ):
        Ranks(0, 3).shares(8, 4)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAUNCHED, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # a cluster's scheduler may set it
    with joined() as ranks:
        assert ranks == Ranks(0, 1)


def streams() -> tuple[torch.Tensor, torch.Tensor]:
    x, noise = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(0))
    return x, x + 0.3 * noise


def check_process(rank: int, port: int, size: int, weights: TokenWeights) -> None:
    """What each of the processes does; an exception here fails the test."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=size)
    ranks, (x, x_hat) = Ranks(rank, size), streams()
    shares = ranks.shares(len(x), 2)
    share = shares[rank]
    own = Moments(SHAPE[-1], weights, outputs=[OUTPUTS])
    own.add(x[share], x_hat[share])
    own.add_over(ranks)
    alone = Moments(SHAPE[-1], weights, cross=False)
    alone.add(x[share], x_hat[share])
    alone.add_over(ranks)
    found, expected = own.statistics(), statistics_of_all(weights)
    assert torch.equal(alone.statistics().gram, found.gram)
    assert found.tokens == expected.tokens
    for name in ("gram", "cross_gram", "output_energy", "mean", "mean_hat"):
        # outputs are made in float32, but their energy is summed in float64 as well
        assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
    ranks.agree(str([getattr(found, name).sum().item() for name in ("gram", "mean")]), "sum")  # the same bits
    whole = ranks.gather(x[share], shares)
    assert torch.equal(whole, x if rank == 0 else x[share])
    copied = ranks.copy({"x": x, "half": x_hat.half()} if rank == 0 else {})
    assert torch.equal(copied["x"], x) and torch.equal(copied["half"], x_hat.half())
    assert ranks.tell(7 + rank) == 7
    if rank > 0:
        with pytest.raises(BinllmError, match=f"process {rank} has another seed \\({rank}\\) than process 0 \\(0\\)"):
            ranks.agree(str(rank), "seed")
    else:
        ranks.agree("0", "seed")
    torch.distributed.destroy_process_group()


def statistics_of_all(weights: TokenWeights):
    moments = Moments(SHAPE[-1], weights, outputs=[OUTPUTS])
    moments.add(*streams())
    return moments.statistics()


@pytest.mark.parametrize(("size", "weights"), [(2, TokenWeights.uniform), (3, TokenWeights.inverse_energy)])
def test_moments_of_several_processes_are_those_of_one(size: int, weights: TokenWeights) -> None:
    mp.start_processes(check_process, (free_port(), size, weights), size, start_method="fork")  # type: ignore[attr-defined]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]
