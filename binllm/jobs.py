"""One job of a command line, in this process or in one that a launcher started."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from binllm.assist import assist
from binllm.distributed import joined, launched
from binllm.errors import FAULT, MISTAKE, BinllmError, bad_value
from binllm.explain import explain
from binllm.launchers import BASIC, JOBLIB
from binllm.parallel import usable_gpus
from binllm.pipeline import run
from binllm.tracking.folder import RunPaths
from binllm.tracking.tables import print_results

_claimed: list[int] = []  # open lock files: a GPU is this process's own as long as it lives


@dataclass
class Outcome:
    """What became of a job; it travels between processes.

    Attributes:
        code: Exit code, 0 for a run that is complete.
        folder: Its run folder; None for a job that failed.
        error: Why it failed.
        told: Whether it has been printed.
    """

    code: int
    folder: Path | None = None
    error: str = ""
    told: bool = False

    def tell(self) -> None:
        """Print the run's tables, or the error on stderr; once."""
        if self.told:
            return
        if self.folder is not None:
            print_results(RunPaths(self.folder))
        else:
            print(self.error, file=sys.stderr)
        self.told = True


def job(config: DictConfig) -> Outcome:
    """Do a run, or say why not; a job that fails stops no other one."""
    own = HydraConfig.get()
    here = own.mode is not RunMode.MULTIRUN or own.launcher._target_ == BASIC
    label = f"[{own.job.override_dirname}] " if own.mode is RunMode.MULTIRUN else ""
    try:
        if own.mode is RunMode.MULTIRUN and launched():
            raise bad_value("hydra.mode", "MULTIRUN", "RUN under torchrun: one run at a time")
        with contextlib.nullcontext() if here else _among_others(own), joined() as ranks:
            if ranks.leads:
                outcome = Outcome(0, run(config, ranks).path)
            else:
                assist(config, ranks)
                outcome = Outcome(0, told=True)
    except (BinllmError, OmegaConfBaseException) as error:
        outcome = Outcome(MISTAKE, error=f"binllm: error: {label}{explain(error)}")
    except Exception:
        told = f"binllm: {label}stopped by the error above, a fault of the program"
        outcome = Outcome(FAULT, error=traceback.format_exc() + told)
    if here:
        outcome.tell()
    return outcome


@contextlib.contextmanager
def _among_others(own: HydraConf) -> Iterator[None]:
    """In a process that a launcher started: progress lines say whose they are, and joblib's share the GPUs."""
    if own.launcher._target_ == JOBLIB:
        claim_gpu(Path(own.sweep.dir))
    with contextlib.redirect_stderr(_Labelled(sys.stderr, f"[{own.job.num}] ")):
        yield


class _Labelled(io.TextIOBase):
    """A stream whose lines begin with a label; it is no terminal, so no bar is drawn on it."""

    def __init__(self, stream: TextIO, label: str):
        self._stream, self._label, self._rest = stream, label, ""

    def write(self, text: str, /) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._stream.write("".join(f"{self._label}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def claim_gpu(locks: Path) -> None:
    """Let this process see one GPU only, one that no other process of the sweep has; for its whole life.

    Nothing is done where there is one GPU or none.

    Args:
        locks: A folder that all jobs of the sweep share.

    Raises:
        BinllmError: More jobs go on at the same time than there are GPUs.
    """
    gpus = usable_gpus()
    if _claimed or len(gpus) < 2:
        return
    for gpu in gpus:
        handle = os.open(locks / f"gpu-{gpu}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        _claimed.append(handle)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        return
    raise BinllmError(f"hydra.launcher.n_jobs: allowed is at most {len(gpus)}, the number of GPUs")
