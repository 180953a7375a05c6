"""A run's configuration as its folder has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from binllm.errors import BinllmError
from binllm.tracking.folder import RunPaths


def read_settings(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder with dotted keys.

    Raises:
        BinllmError: There is none, or it cannot be read.
    """
    file = RunPaths(folder).config
    try:
        return flatten(OmegaConf.to_container(OmegaConf.load(file)))
    except Exception as error:  # OSError, or what the YAML parser raises
        first = str(error).splitlines()[0]
        raise BinllmError(f"{file} cannot be read: {first}") from error


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    if not isinstance(node, dict):
        return {prefix: node}
    parts = (flatten(part, f"{prefix}.{name}" if prefix else str(name)) for name, part in node.items())
    return {key: value for part in parts for key, value in part.items()}
