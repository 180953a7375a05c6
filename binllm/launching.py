"""A command line as Hydra takes it: which jobs it makes, composing one of them, launching them all."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from binllm.configuration import rewrite
from binllm.errors import BinllmError, bad_value
from binllm.launchers import check_installed, publish_launchers
from binllm.registry import PLUGINS, group_of
from binllm.yaml_folder import CONF

SHOWS = ("cfg", "info", "hydra_help", "shell_completion", "experimental_rerun")  # options that start no job of ours
BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"


class CommandLine:
    """What a user typed, in Hydra's hands.

    Attributes:
        options: Hydra's own options.
        overrides: The rest.
    """

    def __init__(self, hydra: Hydra, options: Namespace):
        self.options = options
        self.overrides: list[str] = options.overrides
        self._hydra = hydra
        self._name = options.config_name or "config"

    @cached_property
    def sweeps(self) -> bool:
        """Whether it is a sweep: by ``-m``, or by an experiment."""
        mode = self._hydra.get_mode(self._name, list(self.overrides))
        return bool(self.options.multirun) or mode is RunMode.MULTIRUN

    def launch(self, task: TaskFunction) -> list[JobReturn]:
        """Run every job by the launcher that the configuration names; with another one than ``basic`` in other processes.

        Args:
            task: Called with every job's configuration; a function of a module, returning what can be pickled.

        Returns:
            What became of the jobs, in their order.
        """
        overrides = [*self.overrides, f"hydra.mode={'MULTIRUN' if self.sweeps else 'RUN'}"]
        if not self.sweeps:
            return [self._hydra.run(self._name, task, overrides)]
        return list(chain.from_iterable(self._hydra.multirun(self._name, task, overrides) or ()))

    def jobs(self) -> list[list[str]]:
        """The overrides of every job, as Hydra's sweeper makes them; nothing is launched.

        Raises:
            BinllmError: The sweep has another sweeper, which chooses later jobs by the results of earlier ones.
        """
        hydra = self._sweep_config.hydra
        said: Any = OmegaConf.to_container(hydra.overrides.task)
        if not self.sweeps:
            return [said]
        if hydra.sweeper._target_ != BASIC_SWEEPER:
            raise bad_value("hydra/sweeper", hydra.sweeper._target_, "basic, whose jobs are known beforehand")
        params: Any = OmegaConf.to_container(hydra.sweeper.params) if hydra.sweeper.params else {}
        words = [f"{key}={value}" for key, value in params.items()] + said
        parser = OverridesParser.create(config_loader=self._hydra.config_loader)
        return BasicSweeper.split_arguments(parser.parse_overrides(words), max_batch_size=None)[0]

    def compose(self, job: Sequence[str]) -> DictConfig:
        """The configuration of one of the `jobs`, as the job itself gets it."""
        config = self._hydra.config_loader.load_sweep_config(self._sweep_config, list(job))
        with read_write(config), open_dict(config):
            del config["hydra"]
        return config

    @cached_property
    def _sweep_config(self) -> DictConfig:
        overrides = [*self.overrides, "hydra.mode=MULTIRUN"]
        return self._hydra.compose_config(self._name, overrides, RunMode.MULTIRUN, with_log_configuration=False)


class _Hydra(Hydra):
    """Hydra, whose sweeps leave the keys of options to the jobs.

    What a sweep starts from has none of the options that are swept: ``-m solver=arb,rounding solver.iterations=5`` would be
    refused there for a key that every job has.
    """

    def compose_config(
        self, config_name: str | None, overrides: list[str], run_mode: Any, *args: Any, **kw: Any
    ) -> DictConfig:
        later = [word for word in overrides if _is_key_of_option(word)] if run_mode is RunMode.MULTIRUN else []
        config = super().compose_config(
            config_name, [word for word in overrides if word not in later], run_mode, *args, **kw
        )
        said = [*config.hydra.overrides.task, *later]
        config.hydra.overrides.task = [word for word in overrides if word in said]
        return config


def _is_key_of_option(word: str) -> bool:
    first, dot, _ = word.partition("=")[0].lstrip("+").partition(".")
    return bool(dot) and (CONF / group_of(first)).is_dir()


@contextmanager
def parsed(arguments: Sequence[str]) -> Iterator[CommandLine]:
    """Hand a command line to Hydra, whose state belongs to the process: one at a time.

    Args:
        arguments: Without the program's name; see `rewrite`.

    Yields:
        The command line; its scratch folder ends with it.

    Raises:
        BinllmError: An option is unknown, a plugin does not import, a local path does not exist, or the launcher is not
            installed.
    """
    import binllm.schema  # noqa: F401  (publishes the typed root)

    version.setbase("1.3")
    options = _parser().parse_intermixed_args(rewrite(arguments))
    search_path = create_config_search_path(options.config_path or str(CONF))
    if options.config_dir:
        own = f"file://{Path(options.config_dir).absolute()}"
        search_path.prepend(provider="command-line", path=own, anchor=SearchPathQuery(provider="schema"))
    with tempfile.TemporaryDirectory(prefix="binllm-") as scratch:
        OmegaConf.register_new_resolver("binllm.scratch", lambda: scratch, replace=True)
        publish_launchers()
        for override in options.overrides:
            key, _, name = override.partition("=")
            if key == "hydra/launcher":
                check_installed(name)
        GlobalHydra.instance().clear()
        try:
            with _shared_plugins(Path(scratch)):
                yield CommandLine(_Hydra.create_main_hydra2("binllm", search_path), options)
        finally:
            GlobalHydra.instance().clear()


def _parser() -> ArgumentParser:
    """Hydra's, with errors of one line."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise BinllmError(f"{message}; see binllm --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


@contextmanager
def _shared_plugins(scratch: Path) -> Iterator[None]:
    """Let other processes import the user's plugins by the names that they have here."""
    for name, file in PLUGINS.items():
        (scratch / f"{name}.py").symlink_to(file)
    before = os.environ.get("PYTHONPATH")
    sys.path.append(str(scratch))  # which joblib's processes copy
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [before, str(scratch)]))  # for submitit's
    try:
        yield
    finally:
        sys.path.remove(str(scratch))
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
