"""Frozen dataclasses to plain JSON values and back, strictly: what does not fit is refused by name.

Numbers that JSON cannot write (NaN, infinities) become the strings ``"nan"``, ``"inf"``, ``"-inf"``, so that
every file this package writes is valid JSON for any reader.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from binllm.errors import BinllmError, bad_value

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(value: Any) -> Any:
    """Turn records, enums, paths and containers of them into plain JSON values.

    Args:
        value: A dataclass instance, mapping, sequence, enum, path or scalar.

    Returns:
        Dicts, lists, strings, numbers, booleans and None only.

    Raises:
        TypeError: A value of another type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(encode(key)): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def decode(kind: Any, value: Any, where: str) -> Any:
    """Check a plain JSON value against a type and build it.

    Args:
        kind: A dataclass, enum, scalar type, ``list[...]``, ``dict[str, ...]`` or a union with None.
        value: What ``json.loads`` returned.
        where: Names the place in error messages, for example ``run.json: results``.

    Returns:
        An instance of `kind`.

    Raises:
        BinllmError: An unknown or missing field, or a value of the wrong type; `where` and the field are
            named.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return decode(kind, value, where)
    if origin is list and isinstance(value, list):
        return [decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value in kind.__members__:
            return kind[value]
        raise bad_value(where, value, list(kind.__members__))
    if kind is float and isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    raise bad_value(where, repr(value), f"a value of type {getattr(kind, '__name__', kind)}")


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise bad_value(where, repr(value), f"an object with the fields of {kind.__name__}")
    hints = _hints(kind)
    for name in value:
        if name not in hints:
            raise bad_value(f"{where}: unknown field", name, hints)
    for name in hints:
        if name not in value:
            raise BinllmError(f"{where}: the field '{name}' of {kind.__name__} is missing")
    return kind(**{name: decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        BinllmError: It cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BinllmError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise BinllmError(f"{path}: must hold a JSON object")
    return content
