"""Which run a configuration is: the name of its folder, from a hash of all that determines the run's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from binllm.plan import Precision
from binllm.registry import version_of
from binllm.schema import RunConfig, build
from binllm.tracking.naming import LEAVE_OUT, config_hash, run_name

ALGORITHMS = ("objective", "elsewhere", "binarization", "solver", "asymmetric")  # groups that make a `Plan`


@dataclass(frozen=True)
class Identity:
    """Which run a configuration is.

    Attributes:
        config: As built.
        resolved: As plain values.
        digest: Hash of all that determines the run's files. A group that is not used leaves no mark.
    """

    config: RunConfig
    resolved: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """Of the run folder."""
        return run_name(model_name(self.config), self.config.objective.name, self.digest)


def identify(composed: Any) -> Identity:
    """Build a composed configuration and name its run.

    Raises:
        BinllmError: A value is not allowed.
    """
    config: RunConfig = build(composed)
    resolved: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    versions = {group: version_of(getattr(config, group)) for group in (*ALGORITHMS, "diagnostics")}
    unused = () if config.diagnostics.metrics else ("diagnostics", "versions.diagnostics")
    if config.calibration.feedback_dtype is Precision.float64:
        unused += ("calibration.feedback_dtype",)  # runs that had no such choice were in float64, too
    return Identity(config, resolved, config_hash(resolved | {"versions": versions}, leave_out=LEAVE_OUT + unused))


def model_name(config: RunConfig) -> str:
    """The short name of the model, or the last part of the id or path that replaces it."""
    place = config.model.id or config.model.path
    return place.rstrip("/").rsplit("/", 1)[-1] if place else config.model.name
