"""Twins: a small OPT model, the same with RMSNorm in the place of LayerNorm, trained alike, and the first one re-expressed.

The trained ones begin with the same weights and see the same batches: text that stories260K tells, and its next-token
distribution as the target, which says more per token than the token alone. All randomness is of generators seeded here.

The re-expressed twin is the same function as the first one, with RMSNorm: LayerNorm is RMSNorm of ``x - mean(x)``, and if
everything that is added to the residual stream has mean zero over its features, there is no mean to take off. The two differ
in what is quantized, weights that were centred before, and in what becomes of errors, of which LayerNorm removes the mean.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

NORMS = ("layernorm", "rmsnorm")  # that are trained
WINDOW = 128  # tokens of a training sequence, and of the windows that are measured
WIDTH, BLOCKS, HEADS = 128, 4, 4
BATCH, RATE, WARMUP = 4, 3e-3, 100  # sequences a step, highest learning rate, steps until it is reached
BOS = 1


def twin(norm: str, seed: int) -> OPTForCausalLM:
    """One of the twins, untrained, in float32.

    Args:
        norm: ``layernorm``: OPT as it is. ``rmsnorm``: every LayerNorm replaced; its bias goes, nothing else changes.
        seed: Of the weights: those of twins are equal.
    """
    shape: Any = {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 4 * WIDTH, "num_hidden_layers": BLOCKS}
    tokens: Any = {"vocab_size": 512, "bos_token_id": BOS, "eos_token_id": 2, "pad_token_id": 0}
    config = OPTConfig(**shape, **tokens, num_attention_heads=HEADS, max_position_embeddings=WINDOW, dropout=0.0)
    with torch.random.fork_rng(devices=[]):  # what the constructor draws is replaced below
        model = OPTForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            spread = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
            into_residual = name.endswith(("out_proj.weight", "fc2.weight"))
            spread *= (2 * BLOCKS) ** -0.5 if into_residual else 1.0
            parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    if norm == "rmsnorm":
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.LayerNorm):
                model.set_submodule(name, nn.RMSNorm(list(module.normalized_shape), eps=module.eps))
    return model.eval()


class BiasedRms(nn.Module):
    """RMSNorm with the weight and the bias of a LayerNorm."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps) + self.bias


@torch.no_grad()
def reexpressed(model: OPTForCausalLM) -> OPTForCausalLM:
    """An OPT model as the same function with RMSNorm; the model stays as it is.

    Embeddings and the layers that write into the residual stream lose their mean over its features, every LayerNorm becomes
    `BiasedRms`. The output layer keeps the embeddings as they were.
    """
    result = copy.deepcopy(model)
    result.lm_head.weight = nn.Parameter(result.lm_head.weight.clone(), requires_grad=False)  # tied no longer
    for name, module in list(result.named_modules()):
        if isinstance(module, nn.Embedding):
            module.weight -= module.weight.mean(1, keepdim=True)
        elif isinstance(module, nn.Linear) and name.endswith(("out_proj", "fc2")):
            module.weight -= module.weight.mean(0)
            module.bias.copy_(module.bias - module.bias.mean())
        elif isinstance(module, nn.LayerNorm):
            result.set_submodule(name, BiasedRms(module))
    return result


@torch.no_grad()
def told(teacher: PreTrainedModel, rows: int, length: int, seed: int) -> Tensor:
    """Stories that a model tells at temperature 1, one after the other: (rows · length,) int64."""
    generator = torch.Generator().manual_seed(seed)
    ids, cache = torch.full((rows, 1), BOS), None
    for _ in range(length - 1):
        out = teacher(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        ids = torch.cat([ids, torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=generator)], dim=1)
    return ids.flatten()


def train(
    model: OPTForCausalLM,
    teacher: PreTrainedModel,
    text: Tensor,
    steps: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> float:
    """Train a twin in place: AdamW, linear warm-up, cosine decay to zero.

    Args:
        model: The twin.
        teacher: Gives the distribution of every next token.
        text: Token ids (tokens,).
        steps: Batches.
        seed: Of the windows' places; twins get the same.
        progress: Called with (steps done, steps).

    Returns:
        The loss of the last tenth of the steps: cross-entropy to the teacher's distribution, nats.
    """
    generator = torch.Generator().manual_seed(seed)
    decayed = [one for one in model.parameters() if one.dim() == 2]
    others = [one for one in model.parameters() if one.dim() != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer, losses = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95)), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        starts = torch.randint(len(text) - WINDOW + 1, (BATCH,), generator=generator)
        ids = text[starts[:, None] + torch.arange(WINDOW)]
        with torch.no_grad():
            wanted = teacher(input_ids=ids, use_cache=False).logits.softmax(-1)
        found = model(input_ids=ids, use_cache=False).logits
        loss = cross_entropy(found.flatten(0, 1), wanted.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, steps)
    model.requires_grad_(False)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)
