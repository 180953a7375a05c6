"""Cases that Triton's interpreter runs, in a process of their own: it is chosen when Triton is first imported.

``python tests/helpers_interpreted.py`` prints one JSON line with what `tests/units/test_kernels_triton.py` asserts.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
import warnings

import torch
from helpers_codes import EXTRAS, SPECIMENS, generator, random_code

from binllm.kernels.arrange import arrange, arrange_reference
from binllm.kernels.fused import multiply
from binllm.kernels.plane_product import add_product, columns_of
from binllm.kernels.terms import terms_of
from binllm.packing import BinaryLinear, set_kernel

SHAPE, BLOCK = (35, 34), 12  # rows beyond a tile, columns and blocks that end inside a byte
CASES = (  # extras, dtype, tokens: gates, cells, means and both planes; blocks side by side and tokens side by side
    (0, torch.bfloat16, 1),
    (6, torch.float16, 3),
    (8, torch.bfloat16, 1),
    (10, torch.float32, 17),
)


def relative(y: torch.Tensor, exact: torch.Tensor) -> float:
    """‖y - exact‖ / ‖exact‖ in float64."""
    return float((y.double() - exact).norm() / exact.norm())


def products() -> dict[str, list]:
    """For each case the error of the whole product, of each term against its twin, and whether inputs are equal."""
    found: dict[str, list] = {}
    for extras, dtype, tokens in CASES:
        code = random_code(SHAPE, BLOCK, generator(), **EXTRAS[extras]).stored()
        x = torch.randn(tokens, SHAPE[1], generator=generator(1)).to(dtype)
        terms = terms_of(code.spec(), code.pack())
        whole = relative(multiply(terms, x, SHAPE[0]), x.double() @ code.dense(torch.float64).T)
        term = terms[-1]
        arranged = arrange(term.inputs, x)
        out = torch.full((1, tokens, SHAPE[0]), torch.nan)
        add_product(term, arranged, out, begin=True)
        alone = relative(out[0], term.product(x.double()))
        same = torch.equal(arranged, arrange_reference(term.inputs, x))
        found[f"{EXTRAS[extras]} {dtype} {tokens}"] = [whole, alone, same]
    return found


def splits() -> float:
    """The error where three programs share the blocks of a row."""
    code = random_code((5, 300), 8, generator()).stored()
    x = torch.randn(2, 300, generator=generator(1)).bfloat16()
    (term,) = terms_of(code.spec(), code.pack())
    out = torch.full((3, 2, 5), torch.nan)
    assert columns_of(2, 1) == (2, 8)
    add_product(term, arrange(term.inputs, x), out, begin=True)
    return relative(out.sum(0), x.double() @ code.dense(torch.float64).T)


def layers() -> dict[str, object]:
    """A layer in half precision with bias, and one that the kernel does not cover."""
    layer = BinaryLinear.from_code(random_code((6, 40), 16, generator()), torch.linspace(-1, 1, 6))
    set_kernel(layer, "triton")
    x = torch.randn(2, 1, 40, generator=generator()).bfloat16()
    exact = torch.nn.functional.linear(x.double(), layer.dense_weight(torch.float64), layer.bias.double())  # type: ignore
    y = layer(x)
    model = torch.nn.ModuleDict(
        {name: BinaryLinear.from_code(SPECIMENS["partial"]((6, 40), 16, generator())) for name in ("first", "second")}
    )
    set_kernel(model, "triton")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fallen = [one(x) for one in model.values() for _ in range(2)]
    set_kernel(model, "torch")
    return {
        "error": relative(y, exact),
        "shape": [*y.shape, str(y.dtype)],
        "warnings": [str(one.message) for one in caught],
        "fallen": all(torch.equal(a, one(x)) for a, one in zip(fallen[::2], model.values(), strict=True)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"products": products(), "splits": splits(), "layers": layers()}))
