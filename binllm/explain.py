"""Errors of Hydra and OmegaConf as one line: configuration key, value, what is allowed, the nearest name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from binllm.errors import BinllmError, bad_value, unknown_key
from binllm.registry import group_of, options
from binllm.yaml_folder import CONF

# What composing a configuration raises for a user's mistake. Hydra uses ValueError for some of them.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)

SCHEMA = "schema_"  # options of this prefix are types for YAML files to inherit, not for people to choose

EXPECTED = {
    r"could not be converted to Integer": "a whole number",
    r"could not be converted to Float": "a number",
    r"is not a valid bool|could not be converted to Bool": "true or false",
    r"is not Optional|Incompatible value 'None'": "a value other than null",
    r"is not a ListConfig": "a list such as [a,b]",
}


def explain(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """Make one line of an error and its causes.

    Args:
        error: What composing or building a configuration raised.
        arguments: The command line, which says what Hydra's text leaves out.

    Returns:
        One line without the program's name; it begins with the YAML file, if a mistake is in one.
    """
    chain = list(_causes(error))
    file = re.match(r"In '(.*?)': ", str(error))
    where = f"{file.group(1)}.yaml: " if file and file.group(1) != "config" else ""
    for one in chain:
        if isinstance(one, BinllmError):
            return str(one)
        if isinstance(one, MissingConfigException) and one.missing_cfg_file:
            return where + _unknown_option(one, arguments)
        if isinstance(one, OverrideParseException):
            return f"{one.override}: allowed is key=value ({_one_line(one).split(' See http')[0]})"
        if isinstance(one, (ConfigAttributeError, ConfigKeyError)) and one.full_key:
            return where + unknown_key(one.full_key, _names(one.object_type))
        if isinstance(one, ValidationError) and one.full_key:
            return where + _wrong_value(one)
        if isinstance(one, ValueError) and str(one).startswith("Config group override must be"):
            return _no_option(arguments)
    return _by_text("; ".join(dict.fromkeys(_one_line(one) for one in chain)), where)


def _by_text(text: str, where: str) -> str:
    """What only the text tells."""
    if override := re.match(r"(?:In '.*?': )?Could not override '(.*?)'\.", text):
        return where + unknown_key(override.group(1), [*_groups(), "objective@elsewhere"])
    if option := re.match(r"In .*? \w+ is not a subclass of \w+\. value: ([^;]*)", text):
        allowed = "allowed are keys with values; an option is chosen in defaults, 'override /group: name'"
        return f"{where}{option.group(1)}: {allowed}"
    if in_file := re.match(r"In '.*?': \w+ raised while composing config: (.*)", text):
        return where + in_file.group(1)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)' 1\.", text):
        return f"{ambiguous.group(1)}: several values need -m, a sweep; a list is written [a,b]"
    return text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """As Python prints them; for what is wrong in a file Hydra names the error, but not as a cause."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _no_option(arguments: Sequence[str]) -> str:
    """A group was given null: by what the user typed, because Hydra does not say which."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        key = key.rpartition("@")[2]
        if value == "null" and (CONF / group_of(key)).is_dir():
            return str(bad_value(key, value, options(group_of(key))))
    return "a group takes the name of one option; binllm --help lists them"


def _unknown_option(error: MissingConfigException, arguments: Sequence[str]) -> str:
    path = str(error.missing_cfg_file)
    own = (CONF / path.split("/")[0]).is_dir()  # an option may lie in a folder of its group: experiment=ablation/amp
    group, _, name = path.partition("/") if own else path.rpartition("/")
    if name.startswith(SCHEMA):
        stored = (one.removesuffix(".yaml") for one in ConfigStore.instance().repo.get(group, {}))
        return str(bad_value(group, name, {one for one in stored if one.startswith(SCHEMA)}))
    known = options(group) | {option for option in error.options or [] if not option.startswith(SCHEMA)}
    words = (argument.partition("=") for argument in arguments)
    said = [key.rpartition("@")[2] for key, _, value in words if name in value.split(",")]
    key = "elsewhere" if "elsewhere" in said and group not in said else group
    return str(bad_value(key, name, known)) if known else f"{group}: no such group or option ({name})"


def _groups() -> list[str]:
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def _names(kind: Any) -> list[str]:
    """Keys of a part of the configuration; at the top also the groups that choose without being a key."""
    if not dataclasses.is_dataclass(kind):
        return []
    names = [field.name for field in dataclasses.fields(kind)]
    if getattr(kind, "__name__", "") == "RunConfig":
        names += [group for group in _groups() if group not in names]
    return names


def _wrong_value(error: OmegaConfBaseException) -> str:
    key, value, text = str(error.full_key), error.value, _one_line(error)
    if value == {}:  # what Hydra makes of a.b=1 where a is no group
        return f"{key}: allowed is a single value; there are no keys below it"
    kind = get_type_hints(error.object_type).get(key.rpartition(".")[2]) if value is None else None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return str(bad_value(key, "null", kind.__members__))
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
