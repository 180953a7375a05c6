"""Blocks, layers, roles and stages are found in every architecture, and nothing is guessed."""

import pytest
import torch
from torch import nn

from binllm.errors import BinllmError
from binllm.models import Family, Role, decoder_blocks, last_layer, layer_roles, linear_layers, stages
from binllm.models.random import random_model

STAGES = {
    Family.llama: [["q", "k", "v"], ["o"], ["gate", "up"], ["down"]],
    Family.phi3: [["qkv"], ["o"], ["gate_up"], ["down"]],
    Family.opt: [["q", "k", "v"], ["o"], ["fc1"], ["fc2"]],
}


@pytest.mark.parametrize("family", Family)
def test_every_family_has_its_blocks_and_stages(family):
    model = random_model(family)
    path, blocks = decoder_blocks(model)
    assert model.get_submodule(path) is blocks
    assert len(blocks) == 3
    for block in blocks:
        roles = layer_roles(block)
        assert [[roles[name].value for name in group] for group in stages(block)] == STAGES[family]
        assert list(linear_layers(block)) == [name for group in stages(block) for name in group]
        assert last_layer(block) == stages(block)[-1][-1]


@pytest.mark.parametrize("family", Family)
def test_the_stages_are_the_order_of_execution_and_read_one_input(family):
    model = random_model(family).eval()
    block = decoder_blocks(model)[1][0]
    inputs: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda _, args: inputs.update({name: args[0].clone()})

    for name, layer in linear_layers(block).items():
        layer.register_forward_pre_hook(keep(name))
    model(input_ids=torch.arange(12)[None])
    groups = stages(block)
    order = {name: place for place, name in enumerate(inputs)}
    for group, later in zip(groups, groups[1:], strict=False):
        assert max(order[name] for name in group) < min(order[name] for name in later)
    for group in groups:
        assert all(torch.equal(inputs[group[0]], inputs[name]) for name in group)


def test_roles_are_strings():
    assert Role.gate_up == "gate_up"
    assert f"{Role.q}" == "q"


def test_an_unknown_layer_is_named():
    block = nn.ModuleDict({"attention": nn.ModuleDict({"mystery": nn.Linear(2, 2)})})
    with pytest.raises(BinllmError, match="'attention.mystery' is unknown"):
        layer_roles(block)


def test_two_layers_of_one_role_are_refused():
    block = nn.ModuleDict({"a": nn.ModuleDict({"fc1": nn.Linear(2, 2)}), "b": nn.ModuleDict({"fc1": nn.Linear(2, 2)})})
    with pytest.raises(BinllmError, match="'a.fc1' and 'b.fc1'"):
        layer_roles(block)


def test_the_longest_list_of_one_class_with_linear_layers_wins():
    model = nn.Module()
    model.mixed = nn.ModuleList([nn.Linear(1, 1), nn.ReLU(), nn.ReLU(), nn.ReLU()])
    model.plain = nn.ModuleList(nn.ReLU() for _ in range(9))
    model.short = nn.ModuleList(nn.Linear(1, 1) for _ in range(2))
    model.long = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    assert decoder_blocks(model)[0] == "long"
    with pytest.raises(BinllmError, match="no list of decoder blocks"):
        decoder_blocks(nn.Linear(2, 2))
