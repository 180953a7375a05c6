"""Golden vectors for tests: the recorded ones, altered ones, and folders made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from binllm import tools
from binllm.golden.files import Case, GoldenFile

FOLDER = Path(__file__).parent / "golden"
Description = dict[str, Any]


def hand_made(**changes: Any) -> Description:
    """Row (1, 2, 4, 9): mean 4 and scale 2.5; the entry at the mean has no sign."""
    return {"function": "high_order_residual", "x": "in.a.x", "mask": "in.a.mask", "args": {"order": 1}} | changes


def write(folder: Path, cases: dict[str, Any], kind: Any = "pure binarizers", **tensors: Tensor) -> Path:
    """A file with the tensors of `hand_made` and these; names have ``__`` for a dot."""
    own = {
        "in.a.x": torch.tensor([[1.0, 2, 4, 9]]),
        "in.a.mask": torch.ones(1, 4, dtype=torch.uint8),
        "out.case": torch.tensor([[1.5, 1.5, 4, 6.5]]),
    }
    own |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    metadata = {name: about if isinstance(about, str) else json.dumps(about) for name, about in cases.items()}
    folder.mkdir(exist_ok=True)
    save_file(own, folder / "some.safetensors", metadata | ({"_about": json.dumps({"kind": kind})} if kind else {}))
    return folder


def report(capsys: pytest.CaptureFixture[str], folder: Path) -> tuple[int, list[str]]:
    """Exit code and lines of the command."""
    code = 0
    try:
        tools.main(["golden", str(folder)])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert err == ""
    return code, out.splitlines()


def altered(folder: Path, source: str, case: str, tensors: dict[str, Tensor], **about: Any) -> Case:
    """A recorded case with other tensors or another description."""
    with safe_open(FOLDER / f"{source}.safetensors", "pt") as file:
        own = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        metadata = file.metadata()
    described = json.dumps(json.loads(metadata[case]) | about)
    save_file(own | tensors, folder / "altered.safetensors", {"_about": metadata["_about"], case: described})
    return GoldenFile.read(folder / "altered.safetensors").cases[case]
