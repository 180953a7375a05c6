"""The one kind of exception that a user's input may cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MISTAKE, FAULT, INTERRUPTED = 2, 1, 130  # exit codes: the input's, the program's, the user's own wish


class BinllmError(Exception):
    """A mistake in the input. The message is one clear line: key, value, what is allowed."""


def bad_value(key: str, value: object, allowed: str | Iterable[str]) -> BinllmError:
    """Make the error for a value that is not allowed.

    Args:
        key: Full configuration key, for example ``objective.alpha``.
        value: What the user gave.
        allowed: A sentence, or the allowed names; for names the nearest one is suggested.

    Returns:
        The error, to be raised by the caller.
    """
    if isinstance(allowed, str):
        return BinllmError(f"{key} = {value}: allowed is {allowed}")
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return BinllmError(f"{key} = {value}: allowed are {', '.join(names)}{hint}")
