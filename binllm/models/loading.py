"""From a model's configuration to the model and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from binllm.errors import bad_value
from binllm.models.config import Family, ModelConfig, Place, Source, resolve
from binllm.models.folder import check_architecture, check_folder, one_line, shards
from binllm.models.gguf import converted_gguf, file_hash
from binllm.models.llama2c import load_llama2c, load_llama2c_tokenizer
from binllm.models.quiet import quiet
from binllm.models.random import random_model
from binllm.models.streaming import empty_model, stream_weights, unlike_the_files

ASSETS = Path(__file__).parent / "assets"
TINY_TOKENIZER = ASSETS / "stories260K_tok512.bin"


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be quantized or measured.

    Attributes:
        model: On the CPU, in evaluation mode, no parameter wants a gradient; every parameter owns its memory, or is on
            the meta device and read when it is needed (`binllm.models.on_demand`).
        tokenizer: Its tokenizer.
        origin: Where it came from, with a content hash or commit where there is one; for provenance.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: str


def load_model(config: ModelConfig, streaming: bool = False) -> LoadedModel:
    """Load a causal language model; nothing is written but the cache of converted GGUF files.

    A non-null ``model.id`` means the hub, also when the source is gguf or llama2c (see `resolve`).

    Args:
        config: Which model, which type; the folder, file or hub id must exist.
        streaming: Load no weights now: they are read block by block when they are needed (hub and folder only).

    Returns:
        The model and its tokenizer.

    Raises:
        BinllmError: The place is missing, unreachable, cut, damaged or not a causal language model; a weight is not
            finite (the tensor is named; with ``streaming`` only when it is read); or it cannot be streamed.
    """
    place = resolve(config)
    if streaming and place.source not in _STREAMED:
        raise bad_value("streaming", True, f"false when the model is read from {place.source.name}")
    with quiet(downloads=place.source is Source.hub):
        model, tokenizer, origin = (_STREAMED if streaming else _READERS)[place.source](place, config)
    _settle(model, getattr(torch, config.dtype.value), place)
    return LoadedModel(model, tokenizer, origin)


def check_context(model: PreTrainedModel, length: int, key: str) -> None:
    """Refuse sequences that are longer than the context a model was made for.

    Args:
        model: Any model; one that names no longest context passes.
        length: Tokens of a sequence.
        key: Configuration key of the length, to name in the error.

    Raises:
        BinllmError: The sequence is too long.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise bad_value(key, length, f"at most {longest}, the context of the model")


def _load_random(place: Place, config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    model = random_model(Family[place.target], config.seed)
    model.set_attn_implementation(config.attention.value)
    return model, load_llama2c_tokenizer(TINY_TOKENIZER), f"random {place.target} seed={config.seed}"


def _load_llama2c(place: Place, config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    file = Path(place.target)
    if config.tokenizer is None:
        raise bad_value("model.tokenizer", None, "the llama2.c tokenizer file beside model.file")
    tokenizer = file.parent / config.tokenizer
    if not tokenizer.is_file():
        raise bad_value("model.tokenizer", tokenizer, "an existing file")
    model = load_llama2c(file)
    model.set_attn_implementation(config.attention.value)
    return model, load_llama2c_tokenizer(tokenizer), f"llama2c {file.name} sha256:{file_hash(file)}"


def _load_gguf(place: Place, config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    file = Path(place.target)
    with converted_gguf(file, place.key) as folder:
        model, tokenizer, _ = _load_folder(Place(Source.folder, str(folder), place.key), config)
    return model, tokenizer, f"gguf {file.name} sha256:{file_hash(file)}"


def _load_folder(
    place: Place, config: ModelConfig, streaming: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    check_folder(Path(place.target), place.key)
    model, tokenizer = _pretrained(place, config, {"local_files_only": True}, streaming)
    return model, tokenizer, f"folder {Path(place.target).resolve()}"


def _load_hub(
    place: Place, config: ModelConfig, streaming: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    where = {"revision": config.revision or "main", "local_files_only": config.local_files_only}
    try:
        head = AutoConfig.from_pretrained(place.target, trust_remote_code=config.trust_remote_code, **where)
    except Exception as error:  # network, authorisation, unknown id or unknown architecture
        wanted = f"the id of a causal language model on the hub, reachable from here ({one_line(error)})"
        if "trust_remote_code" in str(error):
            wanted = "a model without Python code of its own, or model.trust_remote_code=true"
        raise bad_value(place.key, place.target, wanted) from error
    check_architecture(head.to_dict(), place.key, place.target)
    model, tokenizer = _pretrained(place, config, where, streaming)
    return model, tokenizer, f"hub {place.target}@{getattr(head, '_commit_hash', None) or where['revision']}"


def _pretrained(
    place: Place, config: ModelConfig, where: dict[str, Any], streaming: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    common = where | {"trust_remote_code": config.trust_remote_code}
    try:
        model, absent = (_streamed if streaming else _whole)(place, config, common)
    except Exception as error:  # whatever transformers meets in a user's files is a fault of these files
        wanted = f"a causal language model in safetensors ({one_line(error)})"
        if "trust_remote_code" in str(error):
            wanted = "a model without Python code of its own, or model.trust_remote_code=true"
        raise bad_value(place.key, place.target, wanted) from error
    if absent:
        names = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        wanted = f"a whole model; {len(absent)} tensors are missing or misshapen: {names}"
        raise bad_value(place.key, place.target, wanted)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.target, **common)
    except Exception as error:
        raise bad_value(place.key, place.target, f"a model with a tokenizer ({one_line(error)})") from error
    return model, tokenizer


def _whole(place: Place, config: ModelConfig, common: dict[str, Any]) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the tensors that its files do not hold: transformers has filled them with random numbers."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        place.target,
        dtype=getattr(torch, config.dtype.value),
        attn_implementation=config.attention.value,
        use_safetensors=True,
        output_loading_info=True,
        **common,
    )
    model, info = loaded
    return model, sorted(info["missing_keys"]) + sorted(str(item[0]) for item in info["mismatched_keys"])


def _streamed(place: Place, config: ModelConfig, common: dict[str, Any]) -> tuple[PreTrainedModel, list[str]]:
    """The model without its weights, and the tensors that its files do not hold under its own names for them."""
    folder = Path(place.target)
    if not folder.is_dir():
        where = {key: common[key] for key in ("revision", "local_files_only")}
        folder = Path(snapshot_download(place.target, allow_patterns=["*.json", "model*.safetensors", "*.py"], **where))
        check_folder(folder, place.key)
    files = shards(folder, place.key)
    model = empty_model(folder, getattr(torch, config.dtype.value), config.attention.value, config.trust_remote_code)
    absent = unlike_the_files(model, files)
    if not absent:
        stream_weights(model, files)
    return model, absent


@torch.no_grad()
def _settle(model: PreTrainedModel, dtype: torch.dtype, place: Place) -> None:
    """Put the model in its final state in place; refuse weights that are not finite."""
    torch.nn.Module.to(model, dtype)
    model.requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue  # streamed, and checked when it is read
        finite = torch.isfinite(parameter)
        if not finite.all():
            wanted = f"finite weights; tensor {name} has {int((~finite).sum())} that are NaN or infinite"
            raise bad_value(place.key, place.target, wanted)
        # own, aligned memory: a file's mapping may lie at odd addresses, where kernels may round differently
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


_READERS = {
    Source.random: _load_random,
    Source.llama2c: _load_llama2c,
    Source.gguf: _load_gguf,
    Source.folder: _load_folder,
    Source.hub: _load_hub,
}
_STREAMED = {
    Source.folder: partial(_load_folder, streaming=True),
    Source.hub: partial(_load_hub, streaming=True),
}
