"""Compiled loops, where there is a folder to keep them in and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import caching

from binllm.compiled import compiled


@pytest.mark.parametrize("kept", [True, False])
def test_a_function_is_compiled_whether_or_not_it_can_be_kept(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @compiled()
    def total(x: np.ndarray) -> float:
        return x.sum()

    assert total(np.arange(4.0)) == 6
    assert bool(total.stats.cache_path) == kept  # type: ignore[attr-defined]
