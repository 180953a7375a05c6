"""The typed root of ``conf/``: every key of a run, its type, and which class each group is built from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from binllm.data import DatasetConfig
from binllm.diagnostics import DiagnosticsConfig
from binllm.errors import BinllmError, bad_value, unknown_key
from binllm.evaluation import EvaluationConfig, ZeroShotConfig
from binllm.kernels import KernelConfig
from binllm.models import ModelConfig
from binllm.plan import Calibration
from binllm.registry import group_of, options, structured
from binllm.tracking.config import TrackerConfig


@dataclass
class Paths:
    """Folders.

    Attributes:
        results: Where run folders are made.
    """

    results: str = "results"


@dataclass
class RunConfig:
    """One run. Groups are ``Any`` here and get their types from the option that is chosen (a frozen dataclass as a
    field's type would make OmegaConf's node read-only).

    Attributes:
        method: Name of the preset.
        seed: Seed of the calibration draw; 0 takes the first sequences.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        threads: Threads of torch; null leaves its own choice.
        streaming: Read the model's weights block by block when they are needed, for models larger than memory (hub and
            folder only); the result is the same to the bit.
        plugins: Python files that register a user's own algorithms.
    """

    method: str = "none"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    streaming: bool = False
    plugins: list[str] = field(default_factory=list)
    model: Any = MISSING
    dataset: Any = MISSING
    objective: Any = MISSING
    elsewhere: Any = MISSING
    binarization: Any = MISSING
    solver: Any = MISSING
    asymmetric: Any = MISSING
    kernel: Any = MISSING
    calibration: Calibration = field(default_factory=Calibration)
    evaluation: Any = MISSING
    diagnostics: Any = MISSING
    zero_shot: Any = MISSING
    tracker: Any = MISSING
    paths: Paths = field(default_factory=Paths)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise bad_value("seed", self.seed, "a whole number of at least 0")
        if self.threads is not None and self.threads < 1:
            raise bad_value("threads", self.threads, "a whole number of at least 1, or null")


GROUPS = [one.name for one in fields(RunConfig) if one.default is MISSING]


def publish() -> None:
    """Put the root and the fixed groups into Hydra's store; algorithms put themselves there when imported."""
    store = ConfigStore.instance()
    store.store(name="schema_run", node=structured(RunConfig))
    groups = {
        "model": ModelConfig,
        "dataset": DatasetConfig,
        "kernel": KernelConfig,
        "evaluation": EvaluationConfig,
        "diagnostics": DiagnosticsConfig,
        "zero_shot": ZeroShotConfig,
        "tracker": TrackerConfig,
    }
    for group, node in groups.items():
        store.store(group=group, name=f"schema_{group}", node=structured(node))


def build(config: Any) -> Any:
    """The objects a composed configuration (or a part of it) stands for; runs their checks.

    Raises:
        BinllmError: A value is not allowed, or a key was added that nothing reads.
    """
    _check_keys(config, "")
    if OmegaConf.get_type(config) is RunConfig:
        _check_elsewhere(config)
    return OmegaConf.to_object(config)


def _check_elsewhere(config: DictConfig) -> None:
    """Build the other layers' objective by itself: an objective does not know under which key it was written."""
    try:
        OmegaConf.to_object(config.elsewhere)
    except BinllmError as error:
        raise BinllmError(str(error).replace("objective.", "elsewhere.", 1)) from error


def _check_keys(node: DictConfig, prefix: str) -> None:
    """Refuse what Hydra lets through: ``+new.key=1``, and a group that was given a value instead of an option."""
    kind = OmegaConf.get_type(node)
    if not is_dataclass(kind):
        return
    names = [one.name for one in fields(kind)]
    for key in map(str, node):
        if key not in names:
            raise BinllmError(unknown_key(prefix + key, names))
        value = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(value, DictConfig):
            _check_keys(value, f"{prefix}{key}.")
        if kind is RunConfig and key in GROUPS and value is None:  # deleted by ~key
            raise bad_value(key, "null", options(group_of(key)))
        if kind is RunConfig and key in GROUPS and not is_dataclass(OmegaConf.get_type(node, key)):
            raise bad_value(
                key, value, "an option with a schema: a registered name, or YAML that inherits schema_<name>"
            )


publish()
