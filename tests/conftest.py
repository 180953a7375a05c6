"""Fixtures that several areas share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from helpers_command import Preloaded

# Tiny matrices: more threads only wait for each other, and with pytest -n they fight. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def command() -> Iterator[Preloaded]:
    """The real commands, each in a process of its own: ``command(folder, "debug=tiny", ...)``."""
    with Preloaded() as preloaded:
        yield preloaded
