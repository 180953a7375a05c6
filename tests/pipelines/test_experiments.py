"""Every experiment of the paper's tables and ablations: each setting of its sweep quantizes a block of a tiny model."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import ModuleList

from binllm.data import calibration_tokens
from binllm.inner_loop import open_streams, quantize_blocks
from binllm.models import decoder_blocks, load_model
from binllm.pipeline import check_model, plan_of
from binllm.schema import RunConfig, build
from binllm.tables.claims import claims
from binllm.tables.sweeps import compose_setting, sweep

CLAIMS = {claim.experiment: claim for claim in claims()}
MODELS = {"phi3": "tiny_phi3", "ablation/roles_fused": "tiny_phi3", "table1": "tiny_opt"}
SMALL = ("protocol=light", "debug=tiny", "dataset.length=16", "dataset.documents=40")
SEEN: set[str] = set()  # what two experiments share is quantized once


@pytest.mark.parametrize("experiment", CLAIMS)
def test_every_setting_of_an_experiment_quantizes(experiment: str):
    claim = CLAIMS[experiment]
    for value in sweep(claim):
        narrow = ["binarization.most=40"] if value.startswith(("billm", "arb", "hbllm")) else []  # some blocks have 48
        model = f"model={MODELS.get(experiment, 'tiny_llama')}"
        composed = compose_setting(claim, value, *SMALL, model, *narrow)
        wanted = json.dumps(OmegaConf.to_container(composed, resolve=True, enum_to_str=True), sort_keys=True)
        if wanted not in SEEN:
            quantize_one_block(build(composed))
        SEEN.add(wanted)


def quantize_one_block(config: RunConfig) -> None:
    loaded = load_model(config.model)
    check_model(loaded.model, config)
    path, blocks = decoder_blocks(loaded.model)
    parent, _, name = path.rpartition(".")
    setattr(loaded.model.get_submodule(parent), name, ModuleList(list(blocks)[:1]))
    ids = calibration_tokens(config.dataset, loaded.tokenizer).ids
    before = loaded.model(ids).logits.detach()
    records = quantize_blocks(open_streams(loaded.model, ids, plan_of(config)), plan_of(config))
    after = loaded.model(ids).logits
    assert records and torch.isfinite(after).all() and not torch.equal(before, after)
    aligned = {record.role for record in records if record.objective == config.objective.name}
    assert aligned, "the objective has a layer"
