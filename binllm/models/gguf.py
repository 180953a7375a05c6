"""GGUF files: converted once to safetensors, then read from the user's cache.

Parsing a GGUF file in Python takes transformers about 18 s for SmolLM2-135M (its 49,152 tokens and merges are
read three times, entry by entry); the copy loads in about a second. The copy is float32, hence exact, and its
key is the hash of the file's bytes. The cache is ``$BINLLM_CACHE``, or ``binllm`` in ``$XDG_CACHE_HOME`` or
``~/.cache``; it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from binllm.errors import BinllmError, bad_value
from binllm.models.folder import check_folder, one_line

_VERSION = 1  # of the converted copies; raised when the conversion changes


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """The folder for copies that can be made again; it need not exist."""
    own = os.environ.get("BINLLM_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "binllm"


@contextlib.contextmanager
def converted_gguf(file: Path, key: str) -> Iterator[Path]:
    """Give a folder with the model of a GGUF file in safetensors and its tokenizer.

    The folder is the cached one; where the cache cannot be written it is a temporary one, removed at the end.

    Args:
        file: The GGUF file.
        key: Configuration key to name in errors.

    Yields:
        The folder, whole and readable.

    Raises:
        BinllmError: The file is no GGUF file, is cut or damaged, or holds no causal language model.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise bad_value(key, file, "a GGUF file (it does not start with GGUF)")
    target = _place_of(file)
    if _is_whole(target):
        yield target
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="tmp-", dir=target.parent))
    except OSError:
        scratch = Path(tempfile.mkdtemp(prefix="binllm-"))
    try:
        _convert(file, scratch, key)
        yield _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cached_copy(file: Path) -> Path | None:
    """The folder of a GGUF file that was converted before; None for another one."""
    target = _place_of(file)
    return target if _is_whole(target) else None


def _place_of(file: Path) -> Path:
    return cache_folder() / "models" / f"gguf-v{_VERSION}-{file_hash(file)[:32]}"


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        check_folder(folder, "cache")
    except BinllmError:
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def _publish(scratch: Path, target: Path) -> Path:
    """Move the copy into the cache in one step; another process may have been faster, or the disk full."""
    try:
        scratch.rename(target)
    except OSError:
        return target if _is_whole(target) else scratch
    return target


def _convert(file: Path, folder: Path, key: str) -> None:
    # One bar of the conversion heeds no switch; redirecting hides no error, for errors are raised.
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise bad_value(key, file, f"readable with gguf and accelerate installed: {one_line(error)}") from error
    except Exception as error:  # the reader fails in many ways on damaged bytes: numpy, struct, unicode, index
        wanted = f"a whole GGUF file of a causal language model; this one is cut or damaged ({one_line(error)})"
        raise bad_value(key, file, wanted) from error
    # Its weights are plain by now, but transformers refuses to save a model that still says it is GGUF.
    del model.config.quantization_config
    model.hf_quantizer = None
    try:
        model.save_pretrained(folder, max_shard_size="2GB")
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise BinllmError(f"BINLLM_CACHE: cannot write the converted model to {folder}: {one_line(error)}") from error
