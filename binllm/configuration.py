"""Composing the configuration: where ``conf/`` is, and what the command line may say besides Hydra's grammar."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from binllm.errors import BinllmError, bad_value
from binllm.registry import load_plugin
from binllm.yaml_folder import CONF

LOCAL = {"model": "folder", "dataset": "text"}
OVERLAYS = {"method": ["~method"], "experiment": [], "protocol": [], "debug": []}  # what says "none"; most are none

PRIVATE = ("paths", "tracker", "plugins")  # groups that the command of a model card leaves out
QUOTES = "'\""


def rewrite(arguments: Sequence[str]) -> list[str]:
    """Translate what Hydra's grammar lacks.

    ``model=/a/local/folder`` becomes ``model=folder model.path=...``, ``dataset=/a/file.txt`` becomes
    ``dataset=text dataset.path=...``, ``elsewhere=name`` becomes ``objective@elsewhere=name``, ``method=null`` becomes
    ``~method``; files named by ``plugins=[...]`` are imported, so that what they register can be chosen.

    Args:
        arguments: Command line without the program's name.

    Returns:
        Arguments for Hydra.

    Raises:
        BinllmError: A plugin does not import, or a local path does not exist.
    """
    out: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "plugins":
            paths = OverridesParser.create().parse_override(argument).value()
            for path in paths if isinstance(paths, list) else [paths]:
                load_plugin(str(path))
        if key in LOCAL and value.startswith(("/", "./", "../", "~")):
            path = Path(value).expanduser().absolute()
            if not path.exists():
                raise bad_value(key, value, "a name of the group or an existing path")
            out += [f"{key}={LOCAL[key]}", f"{key}.path={_quoted(str(path))}"]
        elif key in OVERLAYS and value == "null":
            out += OVERLAYS[key]
        elif key == "elsewhere":
            out.append(f"objective@elsewhere={value}")
        elif argument == "~elsewhere":
            out.append("~objective@elsewhere")  # which is refused by its name
        else:
            out.append(argument)
    return out


def _quoted(text: str) -> str:
    """A string for Hydra's grammar, whatever characters it has."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def command_line() -> str | None:
    """The command of the running job as another person would type it; None where no command started it.

    Folders of results and trackers change nothing in a model and are left out, of local files only the name stays.
    """
    if not HydraConfig.initialized():
        return None
    said = []
    for override in HydraConfig.get().overrides.task:
        key, _, value = override.partition("=")
        if key.lstrip("+~").split(".")[0] not in PRIVATE:
            said.append(f"{key}={Path(value.strip(QUOTES)).name}" if key.endswith(".path") else override)
    return shlex.join(["binllm", *said])


def compose_run(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a run's configuration from Python, as the command line would.

    Args:
        overrides: Hydra overrides such as ``objective=weight_align``.

    Returns:
        The composed configuration, typed, not yet built.

    Raises:
        BinllmError: Unknown group, option or key, or a wrong type.
    """
    import binllm.schema  # noqa: F401  (publishes the typed root)
    from binllm.explain import COMPOSITION_ERRORS, explain

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=rewrite(overrides))
    except COMPOSITION_ERRORS as error:
        raise BinllmError(explain(error, overrides)) from error
