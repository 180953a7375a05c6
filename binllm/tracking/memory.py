"""Resident memory of the process: now, at its highest, and the highest during one phase.

The kernel keeps one high-water mark for the whole life of a process (``ru_maxrss``, ``VmHWM``): read after a
phase it says what the process ever needed, not what the phase needed. Linux lets a process reset the mark
through ``/proc/self/clear_refs``. Where that is permitted the peak of a phase is its own (`Peak.exact`);
elsewhere it is the process's peak at the end of the phase, an upper bound. Resident memory includes pages of
memory-mapped files.

The mark belongs to the process, so the list of open measurements does too: it is the one global of this
module. Measurements nest; they are for one thread.
"""

from __future__ import annotations

import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """The highest memory of an interval, final when the interval ends.

    Attributes:
        bytes: Resident memory of the process.
        cuda_bytes: Memory that torch held allocated on all CUDA devices together; 0 without CUDA.
        exact: Whether `bytes` is the interval's own peak rather than an upper bound.
    """

    bytes: int = 0
    cuda_bytes: int = 0
    exact: bool = True


_lock = threading.RLock()  # layers are fitted side by side
_open: list[Peak] = []
_process = Peak()


def current_rss() -> int:
    """Return the resident memory of the process now, in bytes."""
    return psutil.Process().memory_info().rss


def process_peak() -> int:
    """Return the highest resident memory of the process so far, in bytes, over all resets of the mark."""
    return max(_process.bytes, _high_water())


def _high_water() -> int:
    if STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cuda_devices() -> range:
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def _fold() -> bool:
    """Credit the marks to every open measurement and reset them; returns whether the reset was permitted."""
    high, cuda = _high_water(), sum(torch.cuda.max_memory_allocated(device) for device in _cuda_devices())
    for peak in (*_open, _process):
        peak.bytes, peak.cuda_bytes = max(peak.bytes, high), max(peak.cuda_bytes, cuda)
    for device in _cuda_devices():
        torch.cuda.reset_peak_memory_stats(device)
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


@contextmanager
def measure_peak() -> Iterator[Peak]:
    """Measure the highest memory of a ``with`` block.

    Yields:
        The measurement; read it after the block.
    """
    with _lock:
        peak = Peak(exact=_fold())
        _open.append(peak)
    try:
        yield peak
    finally:
        with _lock:
            _fold()
            # By identity: two measurements with equal numbers are equal dataclasses.
            _open[:] = [other for other in _open if other is not peak]


def format_bytes(count: float) -> str:
    """Return a size for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
