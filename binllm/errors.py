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


def unknown_key(full_key: str, names: list[str]) -> str:
    """Say that a key does not exist, and which ones do.

    Args:
        full_key: Dotted, for example ``objective.alhpa``.
        names: The keys that exist beside it, without their parent's name.

    Returns:
        One line.
    """
    parent, dot, key = full_key.rpartition(".")
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"; did you mean '{parent}{dot}{near[0]}'?" if near else ""
    where = f"; {parent} has {', '.join(names)}" if parent and names else f"; there are {', '.join(names)}"
    return f"{full_key}: no such key{where if names else ''}{hint}"
