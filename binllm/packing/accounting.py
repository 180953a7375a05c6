"""How many bits a quantized weight takes, counted at three levels.

- payload: the sign planes (signs and residual signs), rows rounded up to bytes;
- linear: everything a packed layer stores (sign planes, group bits, salient columns, all scales), biases left
  out, since they are not quantized and would be there anyway;
- model: every byte of the checkpoint's tensors, over all parameters, tied ones once.

`nominal` is the figure that the literature prints: sign bits over weights, without scales, bitmaps and
rounding to bytes. `layer_bits` computes it from the layer's shape, `checkpoint_bits` sums the bytes in the
files; they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from binllm.packing.bits import packed_size
from binllm.packing.code import BinaryCode
from binllm.packing.headers import read_config, read_headers, tensor_files
from binllm.packing.layer import spec_of
from binllm.packing.spec import LayerSpec

SIGN_PLANES = ("signs", "residual_signs")


@dataclass(frozen=True)
class LayerBits:
    """Bits of one packed layer, or of several added up.

    Attributes:
        weights: Entries of the weight matrix.
        sign_bits: Signs and residual signs, as the literature counts.
        payload_bits: The sign planes as stored.
        linear_bits: Everything stored for the layer, the bias left out.
    """

    weights: int
    sign_bits: int
    payload_bits: int
    linear_bits: int

    @property
    def nominal(self) -> float:
        """Bits per weight as the literature counts."""
        return self.sign_bits / self.weights

    @property
    def payload(self) -> float:
        """Bits per weight of the stored sign planes."""
        return self.payload_bits / self.weights

    @property
    def linear(self) -> float:
        """Bits per weight of everything stored for the layer."""
        return self.linear_bits / self.weights

    def __add__(self, other: LayerBits) -> LayerBits:
        """Bits of both."""
        return LayerBits(
            self.weights + other.weights,
            self.sign_bits + other.sign_bits,
            self.payload_bits + other.payload_bits,
            self.linear_bits + other.linear_bits,
        )


@dataclass(frozen=True)
class BitsAccount:
    """What a checkpoint takes.

    Attributes:
        nominal: Bits per quantized weight as the literature counts.
        payload: Bits per quantized weight of the sign planes.
        linear: Bits per quantized weight of the packed layers.
        model: Bits per parameter of the whole model.
        payload_bytes: Bytes of the sign planes.
        linear_bytes: Bytes of the packed layers' tensors, biases left out.
        model_bytes: Bytes of all tensors.
        file_bytes: Bytes of the tensor files, their headers included.
        quantized_weights: Weights in packed layers.
        parameters: All parameters of the model, tied ones once.
    """

    nominal: float
    payload: float
    linear: float
    model: float
    payload_bytes: int
    linear_bytes: int
    model_bytes: int
    file_bytes: int
    quantized_weights: int
    parameters: int


def layer_bits(layer: BinaryCode | LayerSpec) -> LayerBits:
    """Count the bits of one layer from its shape.

    Args:
        layer: A code (its scales count in the dtype they have, so give the stored one) or a specification.

    Returns:
        The bits.
    """
    spec = layer if isinstance(layer, LayerSpec) else spec_of(layer)
    plane = 8 * spec.n_out * packed_size(spec.n_in)
    residual_plane = 8 * spec.n_out * packed_size(spec.salient)
    group_plane = plane if spec.groups == 2 else 0
    columns = min(packed_size(spec.n_in), spec.salient * spec.index_dtype.itemsize)
    scales = spec.n_out * spec.blocks * (spec.groups + spec.row_mean + (spec.salient > 0))
    scales += spec.n_in * spec.column_scale
    scale_bits = torch.finfo(getattr(torch, spec.scale_dtype)).bits
    return LayerBits(
        weights=spec.n_out * spec.n_in,
        sign_bits=spec.n_out * (spec.n_in + spec.salient),
        payload_bits=plane + residual_plane,
        linear_bits=plane + residual_plane + group_plane + 8 * columns + scale_bits * scales,
    )


def checkpoint_bits(folder: str | Path) -> BitsAccount:
    """Count the bits of a checkpoint from the headers of its tensor files; no tensor is loaded.

    Args:
        folder: Written by `save_checkpoint`.

    Returns:
        The account; per-weight figures are 0 where there is no packed layer.

    Raises:
        BinllmError: If the folder is not a checkpoint, or a file is missing or damaged.
    """
    folder = Path(folder)
    layers = read_config(folder)["quantization_config"]["layers"]
    specs = {name: LayerSpec.from_dict(values, name) for name, values in layers.items()}
    files = tensor_files(folder)
    payload = linear = model = parameters = 0
    for name, header in read_headers(files).items():
        layer, _, tensor = name.rpartition(".")
        packed = layer in specs and tensor != "bias"
        model += header.nbytes
        parameters += 0 if packed else header.numel
        linear += header.nbytes if packed else 0
        payload += header.nbytes if packed and tensor in SIGN_PLANES else 0
    weights = sum(spec.n_out * spec.n_in for spec in specs.values())
    signs = sum(layer_bits(spec).sign_bits for spec in specs.values())
    per_weight = 1 / weights if weights else 0.0
    return BitsAccount(
        nominal=signs * per_weight,
        payload=8 * payload * per_weight,
        linear=8 * linear * per_weight,
        model=8 * model / (parameters + weights),
        payload_bytes=payload,
        linear_bytes=linear,
        model_bytes=model,
        file_bytes=sum(file.stat().st_size for file in files),
        quantized_weights=weights,
        parameters=parameters + weights,
    )
