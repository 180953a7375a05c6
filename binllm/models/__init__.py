"""Models: where they come from, and which linear layers they have."""

from binllm.models.config import Attention, Dtype, Family, ModelConfig, Source, resolve
from binllm.models.families import Role, decoder_blocks, last_layer, layer_roles, linear_layers, stages
from binllm.models.loading import LoadedModel, check_context, load_model
from binllm.models.on_demand import device_of, is_streamed, resident, to_device

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
    "device_of",
    "is_streamed",
    "last_layer",
    "layer_roles",
    "linear_layers",
    "load_model",
    "resident",
    "resolve",
    "stages",
    "to_device",
]
