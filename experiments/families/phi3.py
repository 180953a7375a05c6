"""A LLaMA model re-expressed in Phi-3's architecture: ``python -m experiments.families.phi3 OUT [OVERRIDE ...]``.

The two differ in what is one matrix: Phi-3 fuses q, k, v into ``qkv_proj`` and gate, up into ``gate_up_proj``, by rows. So
trained LLaMA weights are a trained Phi-3 model, measured without the network. OUT becomes a folder in transformers' layout,
with configuration, weights and tokenizer; overrides choose another model than SmolLM2 (``model=stories260k``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, Phi3Config, Phi3ForCausalLM, PreTrainedModel

from binllm.configuration import compose_run
from binllm.errors import BinllmError, bad_value
from binllm.models import load_model
from binllm.models.quiet import quiet
from binllm.schema import build
from binllm.tracking.atomic import replacing_folder

FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip


def as_phi3(model: PreTrainedModel) -> Phi3ForCausalLM:
    """Re-express a LLaMA model: the same function, up to the order in which a matrix of another height is multiplied.

    Args:
        model: A LLaMA model without biases, with heads of width hidden / heads and plain rotary embeddings.

    Returns:
        The Phi-3 model, of the same dtype and with the same attention implementation; memory is its own.

    Raises:
        BinllmError: The model is no LLaMA, or has what Phi-3 lacks.
    """
    config = model.config
    if not isinstance(config, LlamaConfig):
        raise bad_value("model", config.model_type, "a model of type llama")
    if config.attention_bias or config.mlp_bias:
        raise bad_value("model", "biases in its linear layers", "none, as in Phi-3")
    if config.head_dim != config.hidden_size // config.num_attention_heads:
        raise bad_value("model", f"heads of width {config.head_dim}", "hidden size / heads, as in Phi-3")
    if (kind := (config.rope_parameters or {}).get("rope_type")) != "default":
        raise bad_value("model", f"rotary embeddings of type {kind}", "default")
    # A sliding window or the default padding token 32000 would not be the model's own.
    shape = {name: getattr(config, name) for name in KEPT}
    made = Phi3Config(**shape, sliding_window=None, original_max_position_embeddings=config.max_position_embeddings)
    kept = {"dtype": model.dtype, "attn_implementation": config._attn_implementation}
    with quiet():
        phi3 = Phi3ForCausalLM.from_pretrained(None, config=made, state_dict=fused(model.state_dict()), **kept)
    return phi3.requires_grad_(False).eval()


def fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a LLaMA model under Phi-3's names: parts of a fused matrix one above the other."""
    result = dict(state)
    for whole, parts in FUSED.items():
        for name in (name for name in state if parts[0] in name):
            rows = [result.pop(name.replace(parts[0], part)) for part in parts]
            result[name.replace(parts[0], whole)] = torch.cat(rows)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit code."""
    parser = argparse.ArgumentParser(description="Re-express a LLaMA model in Phi-3's architecture.")
    parser.add_argument("out", type=Path, help="folder to write; replaced if it is there")
    parser.add_argument("overrides", nargs="*", help="what binllm takes, such as model=stories260k")
    options = parser.parse_args(arguments)
    try:
        loaded = load_model(build(compose_run(options.overrides)).model)
        phi3 = as_phi3(loaded.model)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with quiet(), replacing_folder(options.out) as folder:
            phi3.save_pretrained(folder)
            loaded.tokenizer.save_pretrained(folder)
    except (BinllmError, OSError) as error:
        print(f"phi3: error: {error}", file=sys.stderr)
        return 2
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
