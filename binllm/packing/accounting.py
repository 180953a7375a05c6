"""How many bits a quantized weight takes, counted at three levels.

- payload: the sign planes and levels, rounded up to bytes;
- linear: everything a packed layer stores (the payload, group bits, masks, salient columns, zero points, all
  scales), biases left out, since they are not quantized and would be there anyway;
- model: every byte of the checkpoint's tensors, over all parameters, tied ones once.

`nominal` is the figure that the literature prints: bits of signs and levels over weights, without scales,
bitmaps and rounding to bytes. `layer_bits` computes all from the layer's shape by its kind's formula
(`Spec.bits`), `checkpoint_bits` sums the bytes in the files; they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from binllm.packing.headers import read_config, read_headers, tensor_files
from binllm.packing.kinds import spec_from_dict
from binllm.packing.protocol import Code, LayerBits, Spec

__all__ = ["BitsAccount", "LayerBits", "checkpoint_bits", "layer_bits"]


@dataclass(frozen=True)
class BitsAccount:
    """What a checkpoint takes.

    Attributes:
        nominal: Bits per quantized weight as the literature counts.
        payload: Bits per quantized weight of the sign planes and levels.
        linear: Bits per quantized weight of the packed layers.
        model: Bits per parameter of the whole model.
        payload_bytes: Bytes of the sign planes and levels.
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


def layer_bits(layer: Code | Spec) -> LayerBits:
    """Count the bits of one layer from its shape.

    Args:
        layer: A code (its scales count in the dtype they have, so give the stored one) or a specification.

    Returns:
        The bits.
    """
    return layer.bits()


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
    specs = {name: spec_from_dict(values, name) for name, values in layers.items()}
    files = tensor_files(folder)
    payload = linear = model = parameters = 0
    for name, header in read_headers(files).items():
        layer, _, tensor = name.rpartition(".")
        packed = layer in specs and tensor != "bias"
        model += header.nbytes
        parameters += 0 if packed else header.numel
        linear += header.nbytes if packed else 0
        payload += header.nbytes if packed and tensor in specs[layer].payload else 0
    weights = sum(spec.n_out * spec.n_in for spec in specs.values())
    signs = sum(spec.bits().sign_bits for spec in specs.values())
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
