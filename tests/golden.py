"""Golden vectors: inputs and outputs of the published code of BiLLM and ARB-LLM, recorded and stored as data.

The files in ``golden/`` hold no code. Weights and activations of the cases named ``real`` come from SmolLM2-135M-Instruct
(Apache-2.0) on text of C4 (ODC-BY); the others are synthetic. Inputs are tensors ``in.*`` and outputs ``out.<case>``; the
metadata of a case names its inputs and gives reference scalars. Everything is in PyTorch's orientation, (n_out, n_in).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"


@cache
def load(name: str) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors of ``golden/<name>.safetensors`` by name, and what the metadata says about each case by its name."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        cases = {key: json.loads(text) for key, text in file.metadata().items() if not key.startswith("_")}
    return tensors, cases
