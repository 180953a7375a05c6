"""Checks of options that solvers share."""

from __future__ import annotations

from binllm.errors import bad_value


def check_walk(ridge: float, passes: int) -> None:
    """Check ``solver.ridge`` and ``solver.passes``."""
    if not 0 <= ridge <= 1:
        raise bad_value("solver.ridge", ridge, "0 <= ridge <= 1 (relative to the metric's mean diagonal)")
    check_count("solver.passes", passes, 0)


def check_count(key: str, value: int, low: int) -> None:
    """Check a whole number against its lower bound."""
    if value < low:
        raise bad_value(key, value, f"a whole number of at least {low}")
