"""Where a result comes from: code, libraries, machine, inputs."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch

from binllm.tracking.records import Provenance

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("binllm", "torch", "transformers", "hydra-core", "numpy", "safetensors")
HASHED_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json")


def collect(
    *,
    device: torch.device | str,
    seeds: dict[str, int],
    calibration_hash: str,
    checkpoint_hash: str | None = None,
) -> Provenance:
    """Describe the code, the machine and the inputs of a run.

    Args:
        device: Where the run computes.
        seeds: Every seed by name.
        calibration_hash: Hash of the calibration token ids.
        checkpoint_hash: What `hash_folder` returned; None before the checkpoint is written.

    Returns:
        The description.
    """
    commit, dirty = git_state(PACKAGE)
    return Provenance(
        git_commit=commit,
        git_dirty=dirty,
        versions=library_versions(),
        platform=platform.platform(),
        cpu=cpu_model(),
        device=device_name(device),
        threads=torch.get_num_threads(),
        seeds=seeds,
        calibration_hash=calibration_hash,
        checkpoint_hash=checkpoint_hash,
    )


def library_versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of the libraries that every number depends on, and of `more`."""
    return {"python": platform.python_version(), **{name: _version(name) for name in (*LIBRARIES, *more)}}


def git_state(package: Path) -> tuple[str | None, bool | None]:
    """Return commit and dirty flag of the checkout that a package folder lies in.

    Args:
        package: The package's folder. It counts as a checkout only at the top of the work tree: an
            environment inside somebody's repository is an installed wheel, not a checkout.

    Returns:
        Commit, and whether the package or ``conf`` differs from it (new files included); (None, None) for a
        wheel, a tree without a commit, or a machine without git.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent:
        return None, None
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    changes = _git(package.parent, "status", "--porcelain", "--", package.name, "conf")
    if commit is None or changes is None:
        return None, None
    return commit, bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def cpu_model() -> str:
    """Return the CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: torch.device | str) -> str:
    """Return the name of a torch device: the GPU's, or the CPU's."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def hash_folder(path: Path) -> str:
    """Hash a checkpoint: names and contents of its safetensors files, their index and config.json, sorted by
    name.

    Args:
        path: The checkpoint folder.

    Returns:
        SHA-256, 64 hexadecimal digits. The folder's own name, times and other files do not matter.

    Raises:
        OSError: A file cannot be read.
    """
    total = hashlib.sha256()
    for file in sorted({file for pattern in HASHED_FILES for file in path.glob(pattern)}):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.name}\0{content}\n".encode())
    return total.hexdigest()
