"""Threads: layers side by side, and one thread where work is thousands of small products.

Threads inside a small product wait for each other more than they work, and on a busy machine many times longer. So a fit
runs on one thread (`one_thread`), and the layers of a wave share the threads that there are (`side_by_side`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGE = 2**24  # weights of a layer that keeps all threads busy by itself


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Products inside a ``with`` block run on the calling thread alone, if wanted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], threaded: bool = True) -> list[Result]:
    """Apply a function to every item at the same time, without gradients; the items share the threads of torch.

    Args:
        function: What is done; it may not touch what another item's call touches.
        items: What it is done to.
        threaded: Set to False where calls should use all threads themselves, one after the other; a single item always
            does, on the calling thread, whose threads exist already.

    Returns:
        The results in the order of the items.

    Raises:
        Exception: Whatever a call raises, after the others have ended.
    """
    if not threaded or len(items) == 1:
        return [function(item) for item in items]
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(items)))

    def call(item: Item) -> Result:
        torch.set_num_threads(max(1, threads // workers))  # of the calling thread
        with torch.no_grad():
            return function(item)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(call, items))
    finally:
        torch.set_num_threads(threads)


def usable_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; CUDA is not started."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if named is None else named.split(",")[:count]
