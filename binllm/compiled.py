"""Loops that are compiled when they are first called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Compile a function of arrays and numbers by numba; it does not hold Python's lock, so that threads can share work.

    What is compiled is kept and made anew when its file changes, and only then: what it calls belongs into the same file.

    Args:
        options: Further ones of `numba.njit`.
    """

    def decorate(function: Function) -> Function:
        keeping: Any = njit(nogil=True, cache=True, **options)
        alone: Any = njit(nogil=True, **options)
        try:
            return keeping(function)
        except RuntimeError:  # no folder to keep it in can be written to: every process compiles for itself
            return alone(function)

    return decorate
