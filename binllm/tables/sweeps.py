"""What an experiment's overlay sweeps over, and the configuration that a run of each setting has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from binllm.configuration import compose_run
from binllm.errors import BinllmError
from binllm.tables.claims import Claim
from binllm.tracking.runs import NO_NUMBERS
from binllm.tracking.settings import flatten
from binllm.yaml_folder import CONF

# What a person chooses about a run of an experiment: model, text, windows, machine. Runs that differ in it are not compared.
FREE = ("model", "dataset", "evaluation", "device", "threads", "kernel", "calibration.batch", "calibration.storage")
LEFT_OUT = (*NO_NUMBERS, "seed", "experiment", "protocol")


@dataclass(frozen=True)
class Setting:
    """One value that an experiment sweeps over.

    Attributes:
        label: As tables name it: ``agree``, ``o+last``.
        wanted: What a run of it has in its configuration, dotted keys and text; nothing that a person chooses.
    """

    label: str
    wanted: Mapping[str, str]


@dataclass(frozen=True)
class Experiment:
    """A claim with its settings.

    Attributes:
        claim: What it tests.
        settings: In the order of the sweep.
        varied: The keys in which they differ.
    """

    claim: Claim
    settings: Sequence[Setting]
    varied: frozenset[str]

    def setting_of(self, settings: Mapping[str, Any]) -> Setting | None:
        """The setting that a run's configuration is of; None for a run of something else."""
        held = texts(settings)
        return next((one for one in self.settings if _agrees(one.wanted, held, self.varied)), None)

    def protocol_of(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """What a person chose besides the setting."""
        return {key: text for key, text in texts(settings).items() if _free(key) and key not in self.varied}


def sweep(claim: Claim) -> list[str]:
    """The values of the sweep, as the command line has them: ``[o,last]``, ``0.25``.

    Raises:
        BinllmError: The overlay does not sweep what its header says.
    """
    file = CONF / "experiment" / f"{claim.experiment}.yaml"
    values = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params") or {}
    if claim.varies not in values:
        raise BinllmError(f"{file}: sweeps {', '.join(map(str, values))}, and its header says {claim.varies}")
    override = OverridesParser.create().parse_override(f"{claim.varies}={values[claim.varies]}")
    return list(override.sweep_string_iterator())


def label_of(value: str) -> str:
    """The name of a value: ``[o,last]`` is ``o+last``."""
    return value.strip("[]").replace(",", "+")


def labels(claim: Claim) -> dict[str, str]:
    """The settings of the sweep by their names, with the values as the command line has them.

    Raises:
        BinllmError: The header names a setting that the overlay does not sweep.
    """
    known = {label_of(value): value for value in sweep(claim)}
    named = {claim.reference} | {name for one in claim.expected for name in (one.lower, one.higher)}
    if named - known.keys():
        missing = ", ".join(sorted(named - known.keys()))
        raise BinllmError(f"experiment {claim.experiment}: its header names {missing}, which it does not sweep")
    return known


@cache
def experiment_of(claim: Claim) -> Experiment:
    """Compose the settings of a claim's experiment; a second call is free.

    Raises:
        BinllmError: As `labels`, or an overlay does not compose.
    """
    composed = {label: _composed(claim, value) for label, value in labels(claim).items()}
    first, *others = composed.values()
    keys = {key for one in composed.values() for key in one}
    varied = frozenset(key for key in keys if any(one.get(key) != first.get(key) for one in others))
    kept = {
        label: {key: text for key, text in one.items() if key in varied or not _free(key)}
        for label, one in composed.items()
    }
    return Experiment(claim, [Setting(label, wanted) for label, wanted in kept.items()], varied)


def texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """A configuration with dotted keys as text, without what changes no number and without the seed."""
    return {key: str(value) for key, value in settings.items() if key.split(".")[0] not in LEFT_OUT}


def compose_setting(claim: Claim, value: str, *overrides: str) -> DictConfig:
    """The configuration of one job of a sweep; of one seed.

    Composing takes a quarter of a second, so a single key is set in what was composed before.

    Args:
        claim: The experiment's.
        value: Of what it varies, as `sweep` has it.
        overrides: What is given to binllm besides the experiment.
    """
    chosen = f"{claim.varies}={value}"
    if "." not in claim.varies:
        return _compose(f"experiment={claim.experiment}", *overrides, chosen)
    composed = _compose(f"experiment={claim.experiment}", *overrides).copy()
    OmegaConf.update(composed, claim.varies, OverridesParser.create().parse_override(chosen).value())
    return composed


def _composed(claim: Claim, value: str) -> dict[str, str]:
    composed = compose_setting(claim, value)
    written = OmegaConf.create(OmegaConf.to_yaml(composed, resolve=True))  # what YAML makes of it, as in the folder
    return texts(flatten(OmegaConf.to_container(written)))


@cache
def _compose(*overrides: str) -> DictConfig:
    return compose_run(overrides)


def _agrees(wanted: Mapping[str, str], held: Mapping[str, str], varied: frozenset[str]) -> bool:
    keys = {key for key in held if key in varied or not _free(key)}
    return keys == wanted.keys() and all(held[key] == text for key, text in wanted.items())


def _free(key: str) -> bool:
    return key in FREE or key.split(".")[0] in FREE
