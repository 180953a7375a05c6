"""Every preset of ``conf/method`` quantizes every family of models, and what it makes is what its checkpoint holds."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import binllm
from binllm.configuration import compose_run
from binllm.models import load_model
from binllm.models.config import Family, ModelConfig, Source
from binllm.packing.accounting import checkpoint_bits
from binllm.pipeline import plan_of
from binllm.schema import build
from binllm.yaml_folder import CONF

PRESETS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
FAMILIES = ("llama", "phi3", "opt")


@cache
def tokens() -> Tensor:
    return torch.randint(3, 250, (2, 48), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_quantizes_a_family(method: str, family: str, tmp_path: Path) -> None:
    loaded = load_model(ModelConfig(name=f"tiny_{family}", source=Source.random, family=Family[family]))
    before = loaded.model(tokens()).logits.detach()
    narrow = ["binarization.most=40"] if method.startswith(("billm", "arb", "hbllm")) else []  # some blocks have 48
    overrides = [f"method={method}", *narrow]
    model, records = binllm.quantize(loaded.model, tokens=tokens(), overrides=overrides, progress=False)
    after = model(tokens()).logits
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    binllm.save_checkpoint(model, None, tmp_path / "checkpoint")
    reloaded, _ = binllm.load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(reloaded(tokens()).logits, after)
    stored = sum(record.stored_bits for record in records)
    assert stored == checkpoint_bits(tmp_path / "checkpoint").linear_bytes * 8


@pytest.mark.parametrize(
    ("words", "told"),
    [("method=rtn", True), ("method=one_plane", True), ("method=rtn_128", False), ("method=rtn solver=gptq", False)],
)
def test_a_correction_that_has_no_later_columns_is_said_to_do_nothing(words: str, told: bool) -> None:
    model = load_model(ModelConfig(name="tiny_llama", source=Source.random, family=Family.llama)).model
    codes = []
    for rule in ("none", "gptaq"):
        config = build(compose_run([*words.split(), f"asymmetric={rule}"]))
        assert (plan_of(config).remark() is not None) is (told and rule == "gptaq")
        quantized, _ = binllm.quantize(
            deepcopy(model), tokens=tokens(), overrides=[*words.split(), f"asymmetric={rule}"], progress=False
        )
        codes.append(quantized(tokens()).logits)
    assert torch.equal(*codes) is told
