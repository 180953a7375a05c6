"""The Triton kernels equal their twins: through the interpreter everywhere, and on a GPU where one is at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_codes import EXTRAS, SHAPES, generator, packed_model, random_code

from binllm.errors import BinllmError
from binllm.kernels.terms import terms_of
from binllm.packing import BinaryLinear, set_kernel

TESTS = Path(__file__).parents[1]
BFLOAT16_BAR = 2e-3
NO_GPU = not torch.cuda.is_available()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_a_code_is_the_sum_of_its_terms(extras: dict[str, Any], shape: tuple[int, int, int]) -> None:
    code = random_code(shape[:2], shape[2], generator(), **extras).stored()
    x = torch.randn(3, shape[1], generator=generator(1), dtype=torch.float64)
    total = sum(term.product(x) for term in terms_of(code.spec(), code.pack()))
    torch.testing.assert_close(total, x @ code.dense(torch.float64).T)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """What the interpreter found, in a process of its own."""
    pytest.importorskip("triton")
    paths = os.pathsep.join((str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, str(TESTS / "helpers_interpreted.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_products_and_inputs_equal_their_twins(interpreted: dict[str, Any]) -> None:
    for case, (whole, one_term, same_inputs) in interpreted["products"].items():
        assert same_inputs, case
        assert max(whole, one_term) < 1e-5, case


def test_programs_that_share_a_row_add_up(interpreted: dict[str, Any]) -> None:
    assert interpreted["splits"] < 1e-5


def test_a_layer_keeps_dtype_shape_and_bias(interpreted: dict[str, Any]) -> None:
    assert interpreted["layers"]["shape"] == [2, 1, 6, "torch.bfloat16"]
    assert interpreted["layers"]["error"] < torch.finfo(torch.bfloat16).eps / 2  # that of rounding the result


def test_what_is_not_covered_falls_back_with_one_warning_that_says_why(interpreted: dict[str, Any]) -> None:
    (warning,) = interpreted["layers"]["warnings"]
    assert "layer first" in warning and "kernel torch" in warning and "'partial'" in warning
    assert interpreted["layers"]["fallen"]


@pytest.mark.parametrize(
    ("parts", "tokens", "blocks", "gate"), [(1, 1, 16, 0), (2, 64, 1, 2)], ids=["decode", "prefill"]
)
def test_the_product_compiles_for_a_gpu(
    parts: int, tokens: int, blocks: int, gate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from binllm.kernels.plane_product import _product

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"SIGNS": True, "GATE": gate, "BEGIN": False, "BYTES_A_BLOCK": 16, "PARTS": parts, "TOKENS": tokens}
    constants |= {"Q": blocks, "INTERPRETED": False, "BLOCK_N": 64, "BLOCK_B": 16}
    pointers = {"x": "*bf16", "bits": "*u8", "gate": "*u8", "scale": "*fp16", "block": "*i32", "first": "*i32"}
    types = pointers | {"out": "*fp32"} | dict.fromkeys(constants, "constexpr")
    kernel = _product.fn
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert "mma" in compiled.asm["ptx"], "the product must be one of tensor cores"


@pytest.mark.skipif("not NO_GPU", reason="a CUDA device is at hand")
def test_the_kernel_is_refused_on_a_device_that_cannot_run_it() -> None:
    model = packed_model("llama", generator())
    with pytest.raises(BinllmError, match=r"^kernel.name = triton: cannot run on cpu \(.*\); allowed are auto, dense"):
        set_kernel(model, "triton")


@pytest.mark.skipif("NO_GPU", reason="needs a CUDA device")
@pytest.mark.parametrize("tokens", [1, 5, 16, 200])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_on_a_gpu_a_layer_equals_the_exact_product(extras: dict[str, Any], dtype: torch.dtype, tokens: int) -> None:
    code = random_code((515, 1111), 128, generator(), **extras).stored()
    layer = BinaryLinear.from_code(code).to("cuda")
    set_kernel(layer, "triton")
    x = torch.randn(tokens, 1111, generator=generator(1)).to("cuda", dtype)
    exact = x.double() @ layer.dense_weight(torch.float64).T
    assert (layer(x).double() - exact).norm() < BFLOAT16_BAR * exact.norm()
    assert torch.equal(layer(x), layer(x))
