"""Errors of Hydra and OmegaConf as one line: configuration key, value, what is allowed, the nearest name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from binllm.errors import BinllmError, bad_value, unknown_key
from binllm.yaml_folder import CONF

# What composing a configuration raises for a user's mistake. Hydra uses ValueError for some of them.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)

SCHEMA = "schema_"  # options of this prefix are types for YAML files to inherit, not for people to choose

EXPECTED = {
    r"could not be converted to Integer": "a whole number",
    r"could not be converted to Float": "a number",
    r"is not a valid bool|could not be converted to Bool": "true or false",
    r"is not Optional": "a value other than null",
    r"is not a ListConfig": "a list such as [a,b]",
}


def explain(error: BaseException) -> str:
    """Make one line of an error and its causes.

    Args:
        error: What composing or building a configuration raised.

    Returns:
        One line without the program's name.
    """
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, BinllmError):
            return str(one)
        if isinstance(one, MissingConfigException) and one.missing_cfg_file:
            return _unknown_option(one)
        if isinstance(one, OverrideParseException):
            return f"{one.override}: allowed is key=value ({_one_line(one).split(' See http')[0]})"
        if isinstance(one, (ConfigAttributeError, ConfigKeyError)) and one.full_key:
            return unknown_key(one.full_key, _names(one.object_type))
        if isinstance(one, ValidationError) and one.full_key:
            return _wrong_value(one)
        if isinstance(one, ValueError) and str(one).startswith("Config group override must be"):
            return "a group takes the name of one option; binllm --help lists them"
    in_file = re.match(r"In '(.*?)': \w+ raised while composing config:\s*(.*)\s*full_key: (\S+)", str(error))
    if in_file:
        return f"{in_file.group(1)}.yaml, key {in_file.group(3)}: {in_file.group(2)}"
    text = "; ".join(dict.fromkeys(_one_line(one) for one in chain))
    ambiguous = re.match(r"Ambiguous value for argument '(.*?)' 1\.", text)
    return f"{ambiguous.group(1)}: several values need -m, a sweep; a list is written [a,b]" if ambiguous else text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _unknown_option(error: MissingConfigException) -> str:
    path = str(error.missing_cfg_file)
    own = (CONF / path.split("/")[0]).is_dir()  # an option may lie in a folder of its group: experiment=ablation/amp
    group, _, name = path.partition("/") if own else path.rpartition("/")
    files = (file.relative_to(CONF / group).with_suffix("").as_posix() for file in (CONF / group).rglob("*.yaml"))
    options = {*files, *(option for option in error.options or [] if not option.startswith(SCHEMA))}
    return str(bad_value(group, name, options)) if options else f"{group}: no such group or option ({name})"


def _names(kind: Any) -> list[str]:
    """Keys of a part of the configuration; at the top also the groups that choose without being a key."""
    if not dataclasses.is_dataclass(kind):
        return []
    names = [field.name for field in dataclasses.fields(kind)]
    if getattr(kind, "__name__", "") == "RunConfig":
        names += sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in names)
    return names


def _wrong_value(error: OmegaConfBaseException) -> str:
    key, value, text = str(error.full_key), error.value, _one_line(error)
    choices = re.search(r"expected one of \[(.*?)\]", text)
    if choices:
        return str(bad_value(key, value, choices.group(1).split(", ")))
    for pattern, wanted in EXPECTED.items():
        if re.search(pattern, text):
            return str(bad_value(key, "null" if value is None else value, wanted))
    return f"{key} = {value}: {text}"


def _one_line(error: BaseException) -> str:
    """The message without OmegaConf's notes about types and Hydra's advice to add keys."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = r"full_key:|object_type|reference_type|sub_object|To append to your"
    return " ".join(line for line in lines if line and not re.match(noise, line)) or type(error).__name__
