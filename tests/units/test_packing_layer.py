"""A packed layer computes exactly what its code says, with every kernel, and its state is what is saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers_codes import ONE_OF_EACH_KIND, SHAPES, SPECIMENS, generator, random_code
from torch import nn
from torch.nn import functional

from binllm.errors import BinllmError
from binllm.packing import BinaryLinear, Code, panels, set_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FULL: dict[str, Any] = {"groups": 2, "salient": 5, "column_scale": True, "row_mean": True}


def full_layer(bias: bool = True) -> BinaryLinear:
    """A layer with every optional tensor."""
    return BinaryLinear.from_code(
        random_code((7, 50), 16, generator(), **FULL), torch.linspace(-1, 1, 7) if bias else None
    )


def assert_same(left: Code, right: Code) -> None:
    """Every tensor equal, in dtype too."""
    for name, value in vars(left).items():
        other = getattr(right, name)
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype and torch.equal(value, other), name
        else:
            assert value == other, name


@pytest.mark.parametrize("specimen", SPECIMENS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packing_keeps_the_stored_code(shape: tuple[int, int, int], specimen: str) -> None:
    code = SPECIMENS[specimen](shape[:2], shape[2], generator()).stored()
    layer = BinaryLinear.from_code(code)
    assert_same(layer.to_code().validate(), code)
    assert {n: (tuple(b.shape), b.dtype) for n, b in layer.named_buffers()} == layer.spec.tensors()
    for dtype in DTYPES:
        assert torch.equal(layer.dense_weight(dtype), code.dense(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("specimen", SPECIMENS)
def test_panels_and_denormal_flushing_change_no_bit(
    specimen: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = SPECIMENS[specimen]((23, 50), 16, generator()).stored()
    whole, layer = code.dense(dtype), BinaryLinear.from_code(code)
    monkeypatch.setattr(panels, "PANEL_ENTRIES", 180)  # not quite four rows: pairs must stay together
    assert torch.equal(code.dense(dtype), whole)
    assert torch.equal(layer.dense_weight(dtype), whole)
    torch.set_flush_denormal(True)
    try:
        assert torch.equal(code.dense(dtype), whole)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(code.dense(torch.float32).to(dtype), whole)
    rows = layer.spec.unpack(dict(layer.named_buffers()), (4, 10))
    assert torch.equal(rows.dense(dtype), whole[4:10])


@pytest.mark.parametrize("specimen", ONE_OF_EACH_KIND)
@pytest.mark.parametrize("kernel", ["dense", "auto"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_forward_is_linear_with_the_dense_weight(
    specimen: str, kernel: str, dtype: torch.dtype, with_bias: bool
) -> None:
    source = generator()
    code = SPECIMENS[specimen]((48, 50), 16, source).stored()
    bias = torch.randn(48, generator=source).to(dtype) if with_bias else None
    layer = BinaryLinear.from_code(code, bias)
    set_kernel(layer, kernel)
    for batch in ((1,), (3, 5), (64,)):
        x = torch.randn(*batch, 50, generator=source).to(dtype)
        expected = functional.linear(x, code.dense(dtype), bias)
        assert torch.equal(layer(x), expected)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("specimen", ONE_OF_EACH_KIND)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_panels_equal_the_dense_product_up_to_rounding_and_themselves_to_the_bit(
    specimen: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "PANEL_ENTRIES", 180)  # sixteen panels
    source = generator()
    code = SPECIMENS[specimen]((48, 50), 16, source).stored()
    layer = BinaryLinear.from_code(code, torch.randn(48, generator=source))
    set_kernel(layer, "torch")
    x = torch.randn(3, 5, 50, generator=source).to(dtype)
    exact = functional.linear(x.double(), code.dense(dtype).double(), layer.bias.double())  # type: ignore[union-attr]
    y = layer(x)
    assert y.dtype == dtype and torch.equal(layer(x), y)
    assert (y.double() - exact).norm() <= 2 * torch.finfo(dtype).eps * exact.norm()
    largest = max(rows.shape[0] for _, rows in layer.panels(dtype))
    assert largest == 2, "the whole weight must not exist at once"


def test_only_the_dense_kernel_keeps_a_weight_and_it_is_no_state() -> None:
    layer, x = full_layer(), torch.ones(1, 50)
    state = set(layer.state_dict())
    keeps_a_weight = lambda: any(isinstance(kept, torch.Tensor) for kept in layer._kept.values())  # noqa: E731
    layer(x)
    assert keeps_a_weight()
    assert set(layer.state_dict()) == state
    set_kernel(layer, "torch")
    layer(x)
    assert not keeps_a_weight()


def test_salient_columns_are_stored_the_shorter_way() -> None:
    few = BinaryLinear.from_code(random_code((4, 160), 32, generator(), salient=10)).get_buffer("salient")
    many = BinaryLinear.from_code(random_code((4, 160), 32, generator(), salient=11)).get_buffer("salient")
    assert (few.dtype, few.shape) == (torch.int16, (10,))
    assert (many.dtype, many.shape) == (torch.uint8, (20,))
    for n_in, dtype in ((32768, torch.int16), (32769, torch.int32)):
        wide = BinaryLinear.from_code(random_code((1, n_in), 128, generator(), salient=2))
        assert wide.get_buffer("salient").dtype == dtype
        assert_same(wide.to_code(), random_code((1, n_in), 128, generator(), salient=2).stored())


@pytest.mark.parametrize("specimen", ONE_OF_EACH_KIND)
@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_casting_a_model_leaves_the_stored_scales(cast: Any, specimen: str) -> None:
    layer = BinaryLinear.from_code(SPECIMENS[specimen]((8, 50), 16, generator()), torch.linspace(-1, 1, 8))
    code, other = layer.to_code(), nn.Linear(8, 3)
    cast(nn.Sequential(layer, other))
    assert_same(layer.to_code(), code)
    assert layer.bias is not None and layer.bias.dtype == other.weight.dtype
    x = torch.ones(2, 50, dtype=other.weight.dtype)
    assert torch.equal(layer(x), functional.linear(x, code.dense(x.dtype), layer.bias))


def test_state_loads_into_an_empty_layer_and_replaces_the_kept_weight() -> None:
    layer = full_layer()
    other = BinaryLinear.from_code(random_code((7, 50), 16, generator(1), **FULL), torch.zeros(7))
    x = torch.ones(1, 50)
    before = other(x)
    other.load_state_dict(layer.state_dict())
    assert not torch.equal(other(x), before)
    assert torch.equal(other(x), layer(x))
    meta = BinaryLinear.empty(layer.spec, "meta")
    assert all(tensor.is_meta for tensor in meta.state_dict().values())
    meta.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(meta(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("kernel", ["dense", "torch"])
def test_gradients_reach_the_input_also_after_inference_mode(kernel: str) -> None:
    layer, x = full_layer(), torch.ones(1, 50, requires_grad=True)
    set_kernel(layer, kernel)
    with torch.inference_mode():
        layer(torch.ones(1, 50))
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], layer.dense_weight().sum(0))


def test_an_unknown_kernel_is_refused_with_the_names() -> None:
    with pytest.raises(
        BinllmError, match="kernel.name = dens: allowed are auto, dense, torch, triton; did you mean 'd"
    ):
        set_kernel(full_layer(), "dens")


@pytest.mark.parametrize("kernel", ["dense", "torch"])
def test_a_compiled_layer_is_one_graph_with_the_same_result(kernel: str) -> None:
    model = nn.Sequential(full_layer(), nn.ReLU())
    set_kernel(model, kernel)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 50, generator=generator())
    assert torch.equal(compiled(x), model(x))
    gradients = []
    for run in (compiled, model):
        leaf = x.clone().requires_grad_()
        run(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_a_copy_of_a_compiled_layer_computes_with_its_own_bits() -> None:
    layer, x = full_layer(), torch.ones(1, 50)
    other = copy.deepcopy(layer)
    other.get_buffer("row_scale").mul_(2)
    compiled = [torch.compile(one, backend="eager")(x) for one in (layer, other)]
    assert torch.equal(compiled[0], layer(x)) and torch.equal(compiled[1], other(x))
    assert not torch.equal(*compiled)
