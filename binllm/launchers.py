"""Launchers of Hydra's plugins (``pip install 'binllm[launchers]'``) with defaults that suit runs of hours."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from binllm.errors import BinllmError
from binllm.parallel import usable_gpus

BASIC = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # runs the jobs in this process, one after the other
)
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"  # on this machine, several at a time
CPU_JOBS = 2  # joblib's at a time on a machine without a GPU

DEFAULTS = {
    # Jobs are long: handing out one at a time keeps all busy.
    "joblib": {"n_jobs": "${binllm.jobs:}", "pre_dispatch": "n_jobs", "batch_size": "1"},
    "submitit_local": {"timeout_min": 24 * 60},
    # A job that ran out of time is queued again and goes on after its last finished block. All nodes must see the folder.
    "submitit_slurm": {
        "submitit_folder": "${paths.results}/.submitit/%j",
        "timeout_min": 4 * 60,
        "max_num_timeout": 20,
        "cpus_per_task": 4,
    },
}


def publish_launchers() -> None:
    """Put our defaults over those of the plugins that are installed."""
    Plugins.instance()  # finds them
    OmegaConf.register_new_resolver("binllm.jobs", lambda: len(usable_gpus()) or CPU_JOBS, replace=True)
    store = ConfigStore.instance()
    for name in _installed():
        node = OmegaConf.merge(store.load(f"hydra/launcher/{name}.yaml").node, DEFAULTS[name])
        store.store(group="hydra/launcher", name=name, node=node, provider="binllm")


def _installed() -> list[str]:
    options = ConfigStore.instance().list("hydra/launcher")
    return [name for name in DEFAULTS if f"{name}.yaml" in options]


def check_installed(name: str) -> None:
    """Refuse a launcher whose package is missing.

    Raises:
        BinllmError: It is missing.
    """
    if name in DEFAULTS and name not in _installed():
        raise BinllmError(f"hydra/launcher = {name}: is not installed; pip install 'binllm[launchers]'")
