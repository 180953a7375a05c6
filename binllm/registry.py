"""Name to class to Hydra schema, in one step.

An algorithm is a frozen dataclass: its fields are its options, ``__post_init__`` checks them. Registering it makes it
a typed option of its configuration group, so an unknown key or a wrong type fails when the configuration is composed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from binllm.errors import BinllmError, bad_value
from binllm.yaml_folder import CONF

T = TypeVar("T", bound=type)

REGISTRY: dict[str, dict[str, type]] = {}
PLUGINS: dict[str, Path] = {}  # files of imported plugins by the names of their modules


def structured(cls: type) -> Any:
    """The typed node of a dataclass; OmegaConf would make that of a frozen one read-only, which Hydra cannot merge into."""
    node = OmegaConf.structured(cls)
    _unlock(node)
    return node


def _unlock(node: Any) -> None:
    OmegaConf.set_readonly(node, None)
    for key in node:
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _unlock(node[key])


def register(group: str, name: str) -> Callable[[T], T]:
    """Register a dataclass as option ``name`` of the configuration group ``group``.

    A YAML file in ``conf/`` inherits the types through ``defaults: [schema_<name>]``. A class from outside the package
    is selectable as ``group=name`` without one.

    Args:
        group: Configuration group, for example ``objective``.
        name: Name of the option.

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        BinllmError: Another class already has this name.
    """

    def decorate(cls: T) -> T:
        known = REGISTRY.setdefault(group, {})
        if name in known and known[name].__qualname__ != cls.__qualname__:
            raise BinllmError(f"{group}={name} is registered twice: {known[name].__qualname__}, {cls.__qualname__}")
        known[name] = cls
        store = ConfigStore.instance()
        store.store(group=group, name=f"schema_{name}", node=structured(cls))
        if not cls.__module__.startswith("binllm."):  # a user's own class has no YAML file
            store.store(group=group, name=name, node=structured(cls))
        return cls

    return decorate


def group_of(key: str) -> str:
    """The configuration group whose options a key of a run takes."""
    return "objective" if key == "elsewhere" else key


def options(group: str) -> set[str]:
    """What may be chosen in a group: its YAML files, and classes of users' own, which need none."""
    folder = CONF / group
    files = {file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml")}
    own = {name for name, kind in REGISTRY.get(group, {}).items() if not kind.__module__.startswith("binllm.")}
    return files | own


def version_of(algorithm: Any) -> int | str:
    """What a run's identity says of an algorithm besides its options.

    Returns:
        The class's ``version``, raised when its numbers change; for a user's own class the hash of its file instead,
        which changes by itself.
    """
    kind = type(algorithm)
    if kind.__module__.startswith("binllm."):
        return kind.version
    file = Path(inspect.getfile(kind))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_plugin(path: str) -> None:
    """Import a user's Python file, so that what it registers can be chosen by name.

    Args:
        path: A ``.py`` file outside the package.

    Raises:
        BinllmError: The file is missing or does not import.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise bad_value("plugins", path, "an existing .py file")
    name = f"plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise bad_value("plugins", path, "an importable .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BinllmError:
        raise
    except Exception as error:
        raise BinllmError(f"plugins = {path}: the file does not import ({type(error).__name__}: {error})") from error
    PLUGINS[name] = file.resolve()
