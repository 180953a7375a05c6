"""Whether Triton's interpreter runs the kernels, which then need no GPU; decided when Triton is first imported."""

from __future__ import annotations

import os

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
