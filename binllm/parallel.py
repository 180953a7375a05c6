"""Threads: layers side by side, and one thread where work is thousands of small products.

Threads inside a small product wait for each other more than they work, and on a busy machine many times longer. So a fit
runs on one thread (`one_thread`), and the layers of a wave share the threads that there are (`side_by_side`). A layer that
is fitted alone would leave threads idle: they take a share of what its fit does part by part (`by_parts`), and begin with
what it needs next (`ahead`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGE = 2**24  # weights of a layer that keeps all threads busy by itself


class _Idle(threading.local):
    """The threads that `one_thread` leaves idle, for the thread that called it.

    Attributes:
        count: Those that take parts of what torch does.
        others: All but the calling one, which take parts of compiled loops.
        pool: Runs them.
    """

    count = 0
    others = 0
    pool: ThreadPoolExecutor | None = None


_idle = _Idle()


def _use(threads: int) -> None:
    """Set the number of threads of the calling thread."""
    torch.get_num_threads()  # a new thread that has not asked before takes the last number that any thread has set
    torch.set_num_threads(threads)


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Products inside a ``with`` block run on the calling thread alone, if wanted; the others may help."""
    threads = torch.get_num_threads()
    before = _idle.count, _idle.others, _idle.pool
    if wanted:
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max(1, threads - 1), initializer=_use, initargs=(1,)) as pool:
            _idle.count, _idle.others = threads - 1 if wanted else 0, threads - 1
            _idle.pool = pool  # it starts a thread when it first has something to do
            yield
    finally:
        _idle.count, _idle.others, _idle.pool = before
        torch.set_num_threads(threads)


def by_parts(function: Callable[[Item], Result], items: Sequence[Item], compiled: bool = False) -> list[Result]:
    """Apply a function to every item, without gradients; inside `one_thread` idle threads take items as well.

    Args:
        function: What is done; it may not touch what another item's call touches. Its result must not depend on the thread.
        items: What it is done to.
        compiled: The function asks torch for nothing, so that threads may help even where torch's products use all of them.

    Returns:
        The results in the order of the items, whatever the number of threads.

    Raises:
        Exception: Whatever a call raises, after the others have ended.
    """
    results: list[Any] = [None] * len(items)
    left = iter(list(enumerate(items)))  # the next of a list is taken by one thread only

    def work() -> None:
        with torch.no_grad():
            for index, item in left:
                results[index] = function(item)

    helpers = min(_idle.others if compiled else _idle.count, len(items) - 1)
    futures = [_idle.pool.submit(work) for _ in range(helpers)] if _idle.pool is not None else []
    try:
        work()
    finally:
        begun = [future for future in futures if not future.cancel()]  # another one may still be busy `ahead`
        wait(begun)
    for future in begun:
        future.result()
    return results


def ahead(function: Callable[[], Result]) -> Callable[[], Result]:
    """Let an idle thread of `one_thread` begin with something whose result is asked for later.

    Args:
        function: What is done; nothing that it looks at may change before the result is asked for, which must not depend on
            the thread.

    Returns:
        A function to be called once, that gives the result; where no thread has begun, the calling one does it then.
    """
    if _idle.pool is None or not _idle.count:
        return function
    future = _idle.pool.submit(torch.no_grad()(function))
    return lambda: function() if future.cancel() else future.result()


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
        _use(max(1, threads // workers))
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
