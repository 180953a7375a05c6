"""Check a model folder before transformers reads it, so that a fault names the file."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from binllm.errors import BinllmError, bad_value

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def one_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's text, or its type's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:limit] if lines else type(error).__name__


def check_folder(folder: Path, key: str) -> None:
    """Check that a folder holds a whole causal language model in safetensors.

    Only headers are read: a shard's header says how long the shard must be.

    Args:
        folder: The model folder.
        key: Configuration key to name in errors.

    Raises:
        BinllmError: It is empty or without configuration or safetensors, a shard is missing or cut, or its
            configuration names another kind of model.
    """
    if not any(folder.iterdir()):
        raise bad_value(key, folder, "a model folder; this one is empty")
    check_architecture(_read_json(folder, "config.json", key), key, str(folder))
    files = shards(folder, key)
    if not files:
        raise bad_value(key, folder, "a folder with *.safetensors (pickled weights are never read)")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BinllmError(
                f"{key} = {folder}: {file.name} is missing, cut or damaged ({one_line(error)})"
            ) from error


def shards(folder: Path, key: str) -> list[Path]:
    """The safetensors files that transformers reads in a model folder: the single one, or those that its index names.

    Raises:
        BinllmError: The index cannot be read.
    """
    names = {path.name for path in folder.glob("*.safetensors")}
    if _SINGLE in names:
        names = {_SINGLE}
    elif (folder / _INDEX).exists():
        names = set(_read_json(folder, _INDEX, key).get("weight_map", {}).values())
    return [folder / name for name in sorted(names)]


def check_architecture(config: dict, key: str, target: str) -> None:
    """Check that a configuration (the content of config.json) is that of a causal language model.

    Raises:
        BinllmError: It names no model type, or architectures none of which is a causal language model.
    """
    if not config.get("model_type") and "auto_map" not in config:
        raise bad_value(key, target, "a causal language model; its config.json has no model_type")
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    names = config.get("architectures") or []
    own_code = "AutoModelForCausalLM" in (config.get("auto_map") or {})
    if names and not own_code and not causal.intersection(names):
        raise bad_value(key, target, f"a causal language model; this one is {', '.join(names)}")


def _read_json(folder: Path, name: str, key: str) -> dict:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise bad_value(key, folder, f"a model folder; this one has no readable {name}") from error
    except ValueError as error:
        raise BinllmError(f"{key} = {folder}: {name} is not valid JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise BinllmError(f"{key} = {folder}: {name} does not hold a JSON object")
    return content
