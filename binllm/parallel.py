"""Layers side by side: a fit is thousands of small products, which gain nothing from threads inside a product."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item], threaded: bool = True) -> list[Result]:
    """Apply a function to every item, one item to a thread of torch, without gradients.

    Every call runs on one thread, so its result does not depend on how many there are, and a busy machine does not make it
    many times slower (threads of one small product wait for each other).

    Args:
        function: What is done; it may not touch what another item's call touches.
        items: What it is done to.
        threaded: Set to False where calls should use all threads themselves, one after the other.

    Returns:
        The results in the order of the items.

    Raises:
        Exception: Whatever a call raises, after the others have ended.
    """
    if not threaded:
        return [function(item) for item in items]
    threads = torch.get_num_threads()

    def call(item: Item) -> Result:
        torch.set_num_threads(1)  # of the calling thread
        with torch.no_grad():
            return function(item)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(call, items))
    finally:
        torch.set_num_threads(threads)
