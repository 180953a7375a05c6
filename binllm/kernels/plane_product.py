"""Triton kernel of one term: packed bits are unpacked, multiplied and scaled in one pass, and never stored.

Layout. `bits` and `gate` are (n_out, bytes) uint8, bit b of byte k is column 8 k + b (`binllm.packing.bits`); the inputs
are laid out by `binllm.kernels.arrange`. A program has BLOCK_N rows and COLUMNS columns of a tensor core's product:

    column = (q * PARTS + p) * TOKENS + t     block g0 + q, part p of the input, token t

that is, the 16 columns that a product needs at least are tokens where there are many (Q = 1: prefill) and otherwise
blocks of input columns (Q > 1: decode). Inputs of other blocks are zero in a column, so that each block's sum stands
alone and its scale multiplies it once, in float32.

Unpacking is one operation a bit: (byte & 2^b) | 0x3F80 is the bfloat16 number 1 + bit 2^(b - 7), and with the input times
2^(7 - b) the product's sum is Σ bit x + Σ 2^(7 - b) x. The second part does not depend on the row and is taken away.
(Bit 7 is shifted to place 6.) All operands are exact: the sum's only roundings are those of float32.

With P the plane, G the gate: Σ_j G (2 P - 1) x = 2 Σ (P & G) x - Σ G x, and a mean's term is Σ G x.

The twin in torch is `Term.product`.
"""

# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
# (The body of a kernel is Triton's language: compile-time numbers and ranges are not what they are in Python.)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from binllm.kernels.interpreter import INTERPRETED
from binllm.kernels.terms import Term

LEAST_COLUMNS, MOST_COLUMNS = 16, 64  # of a tensor core's product; most: what the registers of a program hold
TILES = ((32, 32, 4), (64, 16, 4), (64, 32, 4), (128, 16, 4), (128, 32, 4), (128, 32, 8), (256, 16, 8), (256, 32, 8))
"""(rows, bytes, warps) that the autotuner tries, each once for a shape: many rows share the work on the inputs."""


def _configs() -> list[triton.Config]:
    tiles = [(32, 16, 4)] if INTERPRETED else TILES  # there is nothing to time in the interpreter
    return [triton.Config({"BLOCK_N": n, "BLOCK_B": b}, num_warps=warps) for n, b, warps in tiles]


def columns_of(tokens: int, parts: int) -> tuple[int, int]:
    """Tokens and blocks of a program, so that tokens x parts x blocks is a width that tensor cores have."""
    tile = min(triton.next_power_of_2(tokens), MOST_COLUMNS // parts)
    return tile, max(1, LEAST_COLUMNS // (tile * parts))


def splits_of(n_out: int, tokens: int, blocks: int, device: torch.device) -> int:
    """Into how many ranges of blocks a product is cut, so that a matrix with few rows keeps a GPU busy too."""
    if tokens > LEAST_COLUMNS or device.type != "cuda":
        return 1
    programs = 4 * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(blocks // LEAST_COLUMNS, programs // triton.cdiv(n_out, 64)))


def add_product(term: Term, arranged: Tensor, out: Tensor, begin: bool) -> None:
    """Add a term's product to the sums of all terms.

    Args:
        term: What to multiply by.
        arranged: Its inputs by `arrange`.
        out: (splits, tokens, n_out) float32, contiguous.
        begin: Overwrite what is there: this is the first term.
    """
    splits, tokens, n_out = out.shape
    parts, blocks = arranged.shape[2], term.inputs.blocks
    tile, q = columns_of(tokens, parts)
    a_split = triton.cdiv(triton.cdiv(blocks, splits), q) * q
    planes = [arranged if plane is None else plane for plane in (term.bits, term.gate)]

    def grid(meta: dict[str, Any]) -> tuple[int, int, int]:
        return triton.cdiv(n_out, meta["BLOCK_N"]), triton.cdiv(tokens, tile), splits

    _product[grid](
        arranged, *planes, term.scale, term.inputs.block, term.inputs.first, out,
        n_out, tokens, arranged.shape[1], blocks, a_split, len(term.inputs.block), *term.scale.stride(),
        SIGNS=term.bits is not None, GATE=0 if term.gate is None else 2 if term.inverted else 1, BEGIN=begin,
        BYTES_A_BLOCK=term.inputs.bytes_a_block, PARTS=parts, TOKENS=tile, Q=q, INTERPRETED=INTERPRETED,
    )  # fmt: skip


@triton.jit
def _one_plus(byte, b: tl.constexpr, INTERPRETED: tl.constexpr):
    """1 + bit 2^(min(b, 6) - 7), bit b of each byte, in bfloat16; in the interpreter, which lacks that, in float32."""
    bit = (byte >> 1) & 64 if b == 7 else byte & (1 << b)
    number = (bit | 0x3F80).to(tl.int16)
    if INTERPRETED:
        return (number.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return number.to(tl.bfloat16, bitcast=True)


@triton.jit
def _add_bytes(
    sums, plane, opened, source, step, inside, block, bit, count, g,
    SIGNS: tl.constexpr, GATE: tl.constexpr, LOOK_UP: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Add a chunk of bytes to the sums: with P (or P & G), with G, Σ 2^(7 - b) x, Σ x."""
    open_product, gate_product, shift, plain = sums
    shifts, plains = tl.zeros(inside.shape, tl.float32), tl.zeros(inside.shape, tl.float32)
    for b in tl.static_range(8):
        mine = inside
        if LOOK_UP:
            mine = inside & (tl.load(block + b, mask=bit + b < count, other=-1)[:, None] == g[None, :])
        value = tl.load(source + b * step, mask=mine, other=0.0)
        wide = value.to(tl.float32)
        operand = wide if INTERPRETED else value
        if SIGNS:
            open_product = tl.dot(_one_plus(plane, b, INTERPRETED), operand, open_product)
        if GATE > 0:
            gate_product = tl.dot(_one_plus(opened, b, INTERPRETED), operand, gate_product)
        shifts += wide
        plains += wide * (1.0 / (1 << (7 - min(b, 6))))
    return open_product, gate_product, shift + tl.sum(shifts, axis=0), plain + tl.sum(plains, axis=0)


@triton.jit
def _of_blocks(sums, SIGNS: tl.constexpr, GATE: tl.constexpr):
    """What a term's blocks give before their scales."""
    open_product, gate_product, shift, plain = sums
    if SIGNS and GATE > 0:
        of_block = 2.0 * open_product - gate_product - shift[None, :]
    elif SIGNS:
        of_block = 2.0 * (open_product - shift[None, :]) - plain[None, :]
    elif GATE > 0:
        of_block = gate_product - shift[None, :]
    else:
        of_block = open_product + plain[None, :]  # a mean: nothing but the inputs' sum
    return of_block


@triton.autotune(
    configs=_configs(),
    key=["n_out", "n_bytes", "a_split", "SIGNS", "GATE", "BYTES_A_BLOCK", "PARTS", "TOKENS"],
    restore_value=["out"],
)
@triton.jit
def _product(
    x, bits, gate, scale, block, first, out,
    n_out, tokens, n_bytes, blocks, a_split, count, scale_row, scale_block,
    SIGNS: tl.constexpr, GATE: tl.constexpr, BEGIN: tl.constexpr,
    BYTES_A_BLOCK: tl.constexpr, PARTS: tl.constexpr, TOKENS: tl.constexpr, Q: tl.constexpr, INTERPRETED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = Q * PARTS * TOKENS
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.arange(0, COLUMNS)
    token = tl.program_id(1) * TOKENS + column % TOKENS
    part = column // TOKENS % PARTS
    g_stop = tl.minimum((tl.program_id(2) + 1) * a_split, blocks)
    total = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
    for g0 in range(tl.program_id(2) * a_split, g_stop, Q):
        g = g0 + column // (PARTS * TOKENS)
        nothing, none = tl.zeros((BLOCK_N, COLUMNS), tl.float32), tl.zeros((COLUMNS,), tl.float32)
        sums = (nothing, nothing, none, none)
        k_stop = tl.cdiv(tl.load(first + tl.minimum(g0 + Q, g_stop)), 8)
        for k0 in range(tl.load(first + g0) // 8, k_stop, BLOCK_B):
            k = k0 + tl.arange(0, BLOCK_B)
            here = (row < n_out)[:, None] & (k < n_bytes)[None, :]
            place = row.to(tl.int64)[:, None] * n_bytes + k[None, :]
            plane, opened = k, k  # not looked at where there is none
            if GATE > 0:
                opened = tl.load(gate + place, mask=here, other=0).to(tl.int32)
                opened = opened ^ 255 if GATE == 2 else opened
            if SIGNS:
                plane = tl.load(bits + place, mask=here, other=0).to(tl.int32)
                plane = plane & opened if GATE > 0 else plane
            inside = (token < tokens)[None, :] & (k < n_bytes)[:, None]
            if BYTES_A_BLOCK > 0:
                inside = inside & ((k // BYTES_A_BLOCK)[:, None] == g[None, :])
            source = x + (k[:, None] * PARTS + part[None, :]) * tokens + token[None, :]
            sums = _add_bytes(
                sums, plane, opened, source, n_bytes * PARTS * tokens, inside, block + 8 * k, 8 * k, count, g,
                SIGNS, GATE, BYTES_A_BLOCK == 0, INTERPRETED,
            )  # fmt: skip
        of_block = _of_blocks(sums, SIGNS, GATE)
        where = scale + row.to(tl.int64)[:, None] * scale_row + g[None, :] * scale_block
        a = tl.load(where, mask=(row < n_out)[:, None] & (g < g_stop)[None, :], other=0.0)
        total += of_block * a.to(tl.float32)
    y = tl.sum(tl.reshape(total, (BLOCK_N, Q * PARTS, TOKENS)), axis=1)
    t = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    target = out + (tl.program_id(2).to(tl.int64) * tokens + t[None, :]) * n_out + row[:, None]
    stored = (row < n_out)[:, None] & (t < tokens)[None, :]
    if not BEGIN:
        y += tl.load(target, mask=stored, other=0.0)
    tl.store(target, y, mask=stored)
