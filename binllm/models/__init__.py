"""Models: where they come from, and which linear layers they have."""

from binllm.models.config import Attention, Dtype, Family, ModelConfig, Source, resolve
from binllm.models.families import Role, decoder_blocks, last_layer, layer_roles, linear_layers, stages
from binllm.models.loading import LoadedModel, check_context, load_model

__all__ = [
    "Attention",
    "Dtype",
    "Family",
    "LoadedModel",
    "ModelConfig",
    "Role",
    "Source",
    "check_context",
    "decoder_blocks",
    "last_layer",
    "layer_roles",
    "linear_layers",
    "load_model",
    "resolve",
    "stages",
]
