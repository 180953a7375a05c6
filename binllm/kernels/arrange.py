"""Triton kernel that lays out a term's inputs as its product reads them, and its twin in torch.

Layout of the result, (8, bytes, parts, tokens) bfloat16, tokens fastest: entry [b, k, p, t] belongs to column
j = 8 k + b, which is bit b of byte k of every packed row. So the eight bits of a byte meet eight matrices, and no bit
moves to another thread than the one that loaded its byte. Its value is part p of

    weight_b factor_j x[t, c(j)],   weight_b = 2^(7 - min(b, 6))

zero behind the last column. Two bfloat16 parts, a number rounded and what is left of it, hold 16 significant bits: all
of a float16, and of a product with a float16 scale what matters. A bfloat16 input without factor is one part, exactly.
The powers of two are those of `binllm.kernels.plane_product`, and cost no bit.
"""

# pyright: reportArgumentType=false
# (Triton annotates the parameters of a kernel with its own types, what is passed are Python numbers.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from binllm.kernels.interpreter import INTERPRETED
from binllm.kernels.terms import Inputs

WEIGHTS = tuple(2.0 ** (7 - min(b, 6)) for b in range(8))
BYTES, TOKENS = 16, 16  # of a tile


def parts_of(inputs: Inputs, x: Tensor) -> int:
    """How many bfloat16 numbers stand for one input."""
    return 1 if x.dtype == torch.bfloat16 and inputs.factor is None else 2


def arrange(inputs: Inputs, x: Tensor) -> Tensor:
    """Lay out the inputs of a term.

    Args:
        inputs: Which columns, times which factor.
        x: (tokens, n_in) float16, bfloat16 or float32, rows contiguous.

    Returns:
        (8, bytes, parts, tokens) bfloat16.
    """
    tokens, count, parts = len(x), len(inputs.block), parts_of(inputs, x)
    n_bytes = triton.cdiv(count, 8)
    out = torch.empty(8, n_bytes, parts, tokens, dtype=torch.bfloat16, device=x.device)
    columns, factor = (x if tensor is None else tensor for tensor in (inputs.columns, inputs.factor))
    _arrange[(triton.cdiv(n_bytes, BYTES), triton.cdiv(tokens, TOKENS))](
        x, columns, factor, out, tokens, count, n_bytes, x.stride(0),
        CHOSEN=inputs.columns is not None, SCALED=inputs.factor is not None, PARTS=parts, BYTES=BYTES, TOKENS=TOKENS,
        INTERPRETED=INTERPRETED,
    )  # fmt: skip
    return out


def arrange_reference(inputs: Inputs, x: Tensor) -> Tensor:
    """The twin of `arrange` in torch, to the bit."""
    values = torch.nn.functional.pad(inputs.values(x), (0, -len(inputs.block) % 8))
    values = values.reshape(len(x), -1, 8).permute(2, 1, 0)  # (8, bytes, tokens)
    values = values * torch.tensor(WEIGHTS, device=x.device)[:, None, None]
    parts = [values.bfloat16()]
    if parts_of(inputs, x) == 2:
        parts.append((values - parts[0].float()).bfloat16())
    return torch.stack(parts, 2)


@triton.jit
def _to_bfloat16(value, INTERPRETED: tl.constexpr):
    """Round to nearest, ties to even; the interpreter's own cast truncates."""
    if INTERPRETED:
        bits = value.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return value.to(tl.bfloat16)


@triton.jit
def _arrange(
    x, columns, factor, out, tokens, count, n_bytes, x_stride,
    CHOSEN: tl.constexpr, SCALED: tl.constexpr, PARTS: tl.constexpr, BYTES: tl.constexpr, TOKENS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0) * BYTES * 8 + tl.arange(0, BYTES * 8)
    t = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = j < count
    place = tl.load(columns + j, mask=inside, other=0) if CHOSEN else j
    value = tl.load(x + t[:, None] * x_stride + place[None, :], mask=(t < tokens)[:, None] & inside[None, :], other=0.0)
    value = value.to(tl.float32)
    if SCALED:
        value = value * tl.load(factor + j, mask=inside, other=0.0)[None, :]
    bit = j % 8
    value = value * (1 << (7 - tl.minimum(bit, 6))).to(tl.float32)[None, :]
    target = out + ((bit * n_bytes + j // 8)[None, :] * PARTS) * tokens + t[:, None]
    stored = (t < tokens)[:, None] & (j // 8 < n_bytes)[None, :]
    high = _to_bfloat16(value, INTERPRETED)
    tl.store(target, high, mask=stored)
    if PARTS == 2:
        tl.store(target + tokens, _to_bfloat16(value - high.to(tl.float32), INTERPRETED), mask=stored)
