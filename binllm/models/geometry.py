"""Shapes of a model without its weights: what a run's cost can be told from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from binllm.errors import BinllmError
from binllm.models.config import ModelConfig, Place, Source, resolve
from binllm.models.families import decoder_blocks, layer_roles, linear_layers, stages
from binllm.models.folder import one_line
from binllm.models.gguf import cached_copy
from binllm.models.loading import load_model


class Shape(NamedTuple):
    """A linear layer: weight (n_out, n_in), and what it does in its block."""

    n_out: int
    n_in: int
    role: str

    @property
    def entries(self) -> int:
        """Of the weight."""
        return self.n_out * self.n_in


@dataclass(frozen=True)
class Geometry:
    """Shapes of a model.

    Attributes:
        blocks: Number of decoder blocks.
        stages: A block's linear layers, grouped by the input that they share, in order of the data flow.
        head: (vocabulary, n_in) of the output layer.
        parameters: Of the whole model, tied ones once.
    """

    blocks: int
    stages: tuple[tuple[Shape, ...], ...]
    head: tuple[int, int]
    parameters: int

    @property
    def hidden(self) -> int:
        """Width of the streams."""
        return self.stages[0][0].n_in

    @property
    def layers(self) -> list[Shape]:
        """A block's linear layers."""
        return [layer for stage in self.stages for layer in stage]

    @property
    def block_entries(self) -> int:
        """Weights of a block's linear layers."""
        return sum(layer.entries for layer in self.layers)


@cache
def geometry_of(config: ModelConfig) -> Geometry:
    """The shapes of a configured model; of its files at most a configuration or a header is read.

    Raises:
        BinllmError: The place is missing or holds no causal language model, or the model is on the hub and its config.json
            not in the hub's cache.
    """
    place = resolve(config)
    if place.source in (Source.random, Source.llama2c):  # tiny by nature
        return shapes_of(load_model(config).model)
    try:
        head = _configuration(place, config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(head, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # whatever transformers meets in a user's files is a fault of these files
        reason = "its config.json is not in the hub's cache" if place.source is Source.hub else one_line(error)
        raise BinllmError(f"{place.key} = {place.target}: the model's shapes are not known here ({reason})") from error
    return shapes_of(model)


def _configuration(place: Place, config: ModelConfig) -> Any:
    code = {"trust_remote_code": config.trust_remote_code}
    if place.source is Source.hub:
        where = {"revision": config.revision or "main", "local_files_only": True}
        return AutoConfig.from_pretrained(place.target, **where, **code)
    if place.source is Source.gguf:
        file = Path(place.target)
        copy = cached_copy(file)
        return (
            AutoConfig.from_pretrained(copy) if copy else AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        )
    return AutoConfig.from_pretrained(place.target, local_files_only=True, **code)


def shapes_of(model: PreTrainedModel) -> Geometry:
    """The shapes of a model at hand, on any device.

    Raises:
        BinllmError: It has no decoder blocks, or a layer of unknown role.
    """
    _, blocks = decoder_blocks(model)
    linears, roles = linear_layers(blocks[0]), layer_roles(blocks[0])
    head: Any = model.get_output_embeddings()
    return Geometry(
        blocks=len(blocks),
        stages=tuple(
            tuple(Shape(linears[name].out_features, linears[name].in_features, roles[name].value) for name in stage)
            for stage in stages(blocks[0])
        ),
        head=(head.out_features, head.in_features),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
