"""The kinds of codes by the name that config.json gives them. A new kind is a `Code`, its `Spec` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from binllm.errors import bad_value
from binllm.packing.haar import HaarSpec
from binllm.packing.partial import PartialSpec
from binllm.packing.protocol import Spec
from binllm.packing.spec import LayerSpec
from binllm.packing.uniform import UniformSpec

KINDS: dict[str, type[Spec]] = {spec.kind: spec for spec in (LayerSpec, UniformSpec, PartialSpec, HaarSpec)}

SINCE_VERSION_2: dict[str, Any] = {
    "kind": LayerSpec.kind,
    "salient_groups": 0,
    "column_scale_per_group": False,
    "row_mean_per_cell": False,
    "residual_column_scale": False,
}
"""What format version 1, which knew one kind only, did not say."""


def spec_from_dict(values: Mapping[str, Any], layer: str) -> Spec:
    """Read a specification of any kind and of any format version from config.json.

    Args:
        values: What `Spec.to_dict` wrote.
        layer: Name of the layer, for the error.

    Raises:
        BinllmError: If the kind is unknown, or a value is missing, unknown, of another type or out of range.
    """
    if "kind" not in values:
        values = SINCE_VERSION_2 | dict(values)
    kind = str(values["kind"])
    if kind not in KINDS:
        raise bad_value(f"config.json: kind of layer {layer}", kind, KINDS)
    return KINDS[kind].from_dict(values, layer)
