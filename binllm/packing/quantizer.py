"""Teaches transformers' `from_pretrained` to load a packed checkpoint; importing this module registers it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from binllm.errors import BinllmError
from binllm.packing.headers import (
    METHOD,
    TensorHeader,
    check_hashes,
    check_version,
    read_headers,
)
from binllm.packing.kinds import spec_from_dict
from binllm.packing.layer import BinaryLinear, binary_layers

SAFETENSORS_NAMES = {
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


class BinllmQuantizationConfig(QuantizationConfigMixin):
    """`quantization_config` in config.json.

    Attributes:
        quant_method: Always "binllm".
        format_version: Version of the checkpoint format; that of a loaded checkpoint stays.
        layers: `Spec` of every packed layer as plain values, by the layer's full name.
        header: Whatever the writer wants to keep with the checkpoint, plain JSON values.
        sha256: Hash of every tensor file by its name; may be empty.
    """

    def __init__(
        self,
        layers: dict[str, dict[str, Any]] | None = None,
        header: dict[str, Any] | None = None,
        sha256: dict[str, str] | None = None,
        format_version: int | None = None,
        **_: Any,
    ):
        """Take the values in config.json; those that a later writer may add are ignored."""
        self.format_version = check_version(format_version)
        self.quant_method = METHOD  # pyright: ignore[reportAttributeAccessIssue] - the enum has no open end
        self.layers = layers or {}
        self.header = header or {}
        self.sha256 = sha256 or {}


class BinllmQuantizer(HfQuantizer):
    """Puts packed layers into the empty model and refuses files that do not match them exactly."""

    requires_calibration = True
    quantization_config: BinllmQuantizationConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Replace the listed layers (the model is on the meta device), check headers and hashes."""
        replace_layers(model, self.quantization_config.layers, kwargs.get("dtype"))
        files = [Path(file) for file in kwargs.get("checkpoint_files") or []]
        check_tensors(model, read_headers(files))
        check_hashes(files, self.quantization_config.sha256)
        return model

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[None, dict[str, Any]]:
        """Called by `save_pretrained`, which writes other files than those that the hashes belong to."""
        self.quantization_config.sha256 = {}
        model.config.quantization_config = self.quantization_config
        return None, {}

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The state of a packed model is what is saved."""
        return True

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Signs have no gradient."""
        return False


# Called, not used as decorators: they would hide the classes' types.
register_quantization_config(METHOD)(BinllmQuantizationConfig)
register_quantizer(METHOD)(BinllmQuantizer)


def replace_layers(model: nn.Module, layers: Mapping[str, Mapping[str, Any]], dtype: torch.dtype | None) -> None:
    """Replace linear layers by packed ones on the meta device.

    Args:
        model: Built from the checkpoint's config.json.
        layers: `Spec` as plain values, by layer name.
        dtype: Of the biases.

    Raises:
        BinllmError: If a layer is not in the model or not of the shape in its specification.
    """
    for name, values in layers.items():
        spec = spec_from_dict(values, name)
        try:
            linear = model.get_submodule(name)
        except AttributeError:
            raise BinllmError(f"config.json: the packed layer {name} is not in the model") from None
        fits = isinstance(linear, nn.Linear) and tuple(linear.weight.shape) == (spec.n_out, spec.n_in)
        if not fits or (linear.bias is not None) != spec.bias:
            raise BinllmError(f"config.json: the model's layer {name} is {linear}, the packed one is {spec}")
        with torch.device("meta"):
            model.set_submodule(name, BinaryLinear.empty(spec, dtype=dtype))


def check_tensors(model: PreTrainedModel, saved: Mapping[str, TensorHeader]) -> None:
    """Compare the model's tensors with those in the files.

    Raises:
        BinllmError: Naming the first tensor that is missing, unexpected, or of another shape or dtype.
    """
    wanted = {name: t for name, t in model.state_dict().items() if name not in model.all_tied_weights_keys}
    if missing := sorted(wanted.keys() - saved.keys()):
        raise BinllmError(f"the checkpoint has no tensor {_first(missing)}")
    if unexpected := sorted(saved.keys() - wanted.keys()):
        raise BinllmError(f"{saved[unexpected[0]].file}: unexpected tensor {_first(unexpected)}")
    packed = {f"{layer}.{name}" for layer, m in binary_layers(model).items() for name, _ in m.named_buffers()}
    for name, tensor in wanted.items():
        found = saved[name]
        if found.shape != tuple(tensor.shape):
            shapes = f"{list(found.shape)}, must be {list(tensor.shape)}"
            raise BinllmError(f"{found.file}: tensor {name} has shape {shapes}")
        kind = SAFETENSORS_NAMES.get(tensor.dtype)
        if name in packed and found.dtype != kind:
            raise BinllmError(f"{found.file}: tensor {name} has dtype {found.dtype}, must be {kind}")


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
