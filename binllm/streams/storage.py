"""Where activations live."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor


class Storage(Enum):
    """``memory``: ordinary tensors. ``disk``: tensors mapped to unnamed temporary files, for models with long streams."""

    memory = "memory"
    disk = "disk"


class Activations:
    """Allocates CPU tensors in memory or on disk; both are ordinary tensors to whoever uses them.

    Args:
        storage: Where.
        folder: Folder of the temporary files; the system's own when None.
    """

    def __init__(self, storage: Storage, folder: Path | None = None):
        self.storage = storage
        self.folder = folder

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor; a file behind it is removed at once and lives as long as the tensor."""
        if self.storage is Storage.memory:
            return torch.empty(shape, dtype=dtype)
        numel = torch.Size(shape).numel()
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="binllm-activations-") as file:
            size = numel * torch.empty((), dtype=dtype).element_size()
            file.truncate(max(size, 1))
            return torch.from_file(file.name, shared=True, size=numel, dtype=dtype).view(shape)

    def let_go(self, *tensors: Tensor) -> None:
        """Take tensors on disk out of the process's memory; what is touched is read again, by way of the system's cache.

        Args:
            tensors: Whole tensors as `empty` made them; their content stays.
        """
        if self.storage is Storage.disk:
            for tensor in tensors:
                place = ctypes.c_void_p(tensor.data_ptr())
                ctypes.CDLL(None).madvise(place, ctypes.c_size_t(tensor.nbytes), mmap.MADV_DONTNEED)
