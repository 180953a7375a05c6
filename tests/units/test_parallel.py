"""Layers side by side, and parts of one layer: the same results in the same order, on one thread each."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from binllm.parallel import ahead, by_parts, one_thread, side_by_side


def test_results_come_in_order_from_calls_that_overlap() -> None:
    """Each call waits for the other: one after the other they would never end."""
    both = threading.Barrier(2, timeout=20)

    def call(item: int) -> tuple[int, int, bool]:
        both.wait()
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert side_by_side(call, [3, 1]) == [(3, 1, False), (1, 1, False)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_single_item_has_all_threads_and_a_fit_inside_it_one() -> None:
    def call(item: int) -> tuple[int, int, int]:
        outside = torch.get_num_threads()
        with one_thread():
            inside = torch.get_num_threads()
        return outside, inside, torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert side_by_side(call, [1]) == [(3, 1, 3)]
        with one_thread(wanted=False):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_without_threads_calls_follow_each_other() -> None:
    seen: list[tuple[int, int]] = []
    side_by_side(lambda item: seen.append((item, threading.get_ident())), [2, 1], threaded=False)
    assert seen == [(2, threading.get_ident()), (1, threading.get_ident())]


@pytest.mark.parametrize("threaded", [True, False])
def test_an_error_reaches_the_caller(threaded: bool) -> None:
    def fail(item: int) -> None:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 1"):
        side_by_side(fail, [1, 2], threaded)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_beside_products_on_all_threads_only_compiled_parts_are_shared() -> None:
    both = threading.Barrier(2, timeout=20)
    with one_thread(wanted=False):
        assert by_parts(lambda _: threading.get_ident(), [1, 2]) == [threading.get_ident()] * 2
        callers = by_parts(lambda _: (both.wait(), threading.get_ident())[1], [1, 2], compiled=True)
    assert len(set(callers)) == 2


@pytest.mark.usefixtures("two_threads")
def test_parts_are_shared_with_the_threads_that_a_lone_fit_leaves_idle() -> None:
    """As above, the calls wait for each other; outside of a fit there is one thread."""
    both = threading.Barrier(2, timeout=20)

    def call(item: int) -> tuple[int, int, bool]:
        both.wait()
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    with one_thread():
        assert by_parts(call, [3, 1]) == [(3, 1, False), (1, 1, False)]
    assert set(by_parts(lambda item: threading.get_ident(), range(9))) == {threading.get_ident()}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_part_reaches_the_caller_from_either_thread() -> None:
    both = threading.Barrier(2, timeout=20)

    def fail(item: int) -> None:
        both.wait()
        if item == wrong:
            raise ValueError(f"item {item}")

    for wrong in (0, 1):
        with one_thread(), pytest.raises(ValueError, match=f"item {wrong}"):
            by_parts(fail, range(2))


def test_an_idle_thread_begins_with_what_is_asked_for_later() -> None:
    begun, here = threading.Event(), threading.get_ident()

    def work() -> tuple[int, int, bool]:
        begun.set()
        return threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            result = ahead(work)
            assert begun.wait(20)
            assert result()[0] != here
            assert result()[1:] == (1, False)
    finally:
        torch.set_num_threads(before)


def test_without_an_idle_thread_the_caller_does_it_when_it_asks() -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread():
            result = ahead(lambda: seen.append(threading.get_ident()))
            assert not seen
            result()
    finally:
        torch.set_num_threads(before)
    assert seen == [threading.get_ident()]


def test_a_busy_thread_does_not_hold_up_parts() -> None:
    """The helper is kept waiting until the parts are done: they would never end if they waited for it."""
    free = threading.Event()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            busy = ahead(lambda: free.wait(20))
            assert by_parts(lambda item: item + 1, [1, 2, 3]) == [2, 3, 4]
            free.set()
            assert busy()
    finally:
        torch.set_num_threads(before)


def test_an_error_ahead_reaches_whoever_asks() -> None:
    def fail() -> None:
        raise ValueError("ahead")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread(), pytest.raises(ValueError, match="ahead"):
            ahead(fail)()
    finally:
        torch.set_num_threads(before)
