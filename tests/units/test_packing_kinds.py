"""Specifications of every kind travel through JSON unchanged, and impossible ones are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from helpers_codes import SPECIMENS, generator
from torch import nn

from binllm.errors import BinllmError
from binllm.packing import BinaryLinear, LayerSpec, spec_from_dict
from binllm.packing.haar import HaarSpec
from binllm.packing.kinds import KINDS
from binllm.packing.partial import PartialSpec
from binllm.packing.protocol import Spec
from binllm.packing.uniform import UniformSpec
from binllm.resume import block_tensors, install_block


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("specimen", SPECIMENS)
def test_a_specification_survives_json(specimen: str, bias: bool) -> None:
    spec = SPECIMENS[specimen]((6, 50), 16, generator()).spec(bias)
    read = spec_from_dict(json.loads(json.dumps(spec.to_dict())), "q")
    assert read == spec and type(read) is type(spec)
    assert read.bias is bias and KINDS[spec.kind] is type(spec)


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_a_block_of_every_kind_is_put_back_after_an_interruption(specimen: str) -> None:
    code = SPECIMENS[specimen]((8, 50), 16, generator()).stored()
    done = nn.Sequential(BinaryLinear.from_code(code, torch.linspace(-1, 1, 8)), nn.ReLU())
    fresh = nn.Sequential(nn.Linear(50, 8), nn.ReLU())
    install_block(fresh, block_tensors(done))
    x = torch.randn(3, 50, generator=generator())
    assert torch.equal(fresh(x), done(x))


VALID: dict[str, Spec] = {
    "binary": LayerSpec(6, 50, 16, groups=2, salient=3, salient_groups=1, column_scale=True, row_mean=True),
    "uniform": UniformSpec(6, 50, 16, 4),
    "partial": PartialSpec(6, 50, 16, 30),
    "haar": HaarSpec(6, 50, 16, "row", 3),
}
BROKEN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("binary", {"n_out": 0}),
    ("binary", {"block_size": 0}),
    ("binary", {"groups": 3}),
    ("binary", {"groups": True}),
    ("binary", {"salient": 51}),
    ("binary", {"salient": 0}),
    ("binary", {"salient_groups": 3}),
    ("binary", {"scale_dtype": "int8"}),
    ("binary", {"column_scale": False, "column_scale_per_group": True}),
    ("binary", {"groups": 1, "column_scale_per_group": True}),
    ("binary", {"row_mean": False, "row_mean_per_cell": True}),
    ("binary", {"unheard": 1}),
    ("uniform", {"level_bits": 5}),
    ("uniform", {"level_bits": "4"}),
    ("partial", {"salient": -1}),
    ("partial", {"salient": 301}),
    ("haar", {"axis": "rows"}),
    ("haar", {"n_in": 51}),
    ("haar", {"n_out": 5}),
    ("haar", {"block_size": 5}),
    ("haar", {"salient": 51}),
    ("haar", {"axis": "column", "salient": 50}),
)


@pytest.mark.parametrize(("kind", "change"), BROKEN, ids=str)
def test_impossible_specifications_are_refused(kind: str, change: dict[str, Any]) -> None:
    values = VALID[kind].to_dict()
    assert spec_from_dict(values, "q") == VALID[kind]
    with pytest.raises(BinllmError, match="^config.json: the specification of layer q is not valid"):
        spec_from_dict(values | change, "q")


def test_a_kind_does_not_read_the_values_of_another() -> None:
    with pytest.raises(BinllmError, match="of layer q is not valid"):
        UniformSpec.from_dict(VALID["uniform"].to_dict() | {"kind": "binary"}, "q")
    with pytest.raises(BinllmError, match="kind of layer q = None"):
        spec_from_dict(VALID["uniform"].to_dict() | {"kind": None}, "q")
