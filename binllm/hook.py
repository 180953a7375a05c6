"""Makes `import binllm` enough for transformers to load a packed checkpoint, without importing transformers.

transformers takes seconds to import, so registering the quantizer waits until it is there: at once if it is already,
otherwise when its module of models has been imported, which comes before any model is loaded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

AWAITED = "transformers.modeling_utils"
QUANTIZER = "binllm.packing.quantizer"


def register_with_transformers() -> None:
    """Register the quantizer now or as soon as transformers is imported; twice is once."""
    if AWAITED in sys.modules:
        importlib.import_module(QUANTIZER)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, once, and has its loader tell when it is done."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module as its own loader does, then imports the quantizer."""

    def __init__(self, own: Loader):
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.own  # what looks at the module later sees no trace
        self.own.exec_module(module)
        importlib.import_module(QUANTIZER)
