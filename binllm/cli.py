"""The command ``binllm``: one run, or with ``-m`` a sweep of runs."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

from binllm import __version__
from binllm.errors import BinllmError

MISTAKE, FAULT, INTERRUPTED = 2, 1, 130  # exit codes: the input's, the program's, the user's own wish


def main() -> None:
    """Entry point. A mistake in the input is one line on stderr and exit code 2; an interruption is 130."""
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            from binllm.help import help_text

            print(help_text())
        elif "--version" in sys.argv[1:]:
            print(f"binllm {__version__}")
        else:
            sys.exit(_start(sys.argv[1:]))
    except KeyboardInterrupt:
        print("binllm: interrupted; the same command resumes after the last finished block", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _start(arguments: Sequence[str]) -> int:
    """Hand the command line to Hydra; returns the exit code. Imports are here because they take seconds."""
    from omegaconf import OmegaConf

    from binllm.configuration import rewrite
    from binllm.explain import COMPOSITION_ERRORS, explain

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here unwrapped instead of as Hydra's own report
    with tempfile.TemporaryDirectory(prefix="binllm-") as scratch:
        OmegaConf.register_new_resolver("binllm.scratch", lambda: scratch, replace=True)
        try:
            sys.argv[1:] = rewrite(arguments)
            return _run_jobs()
        except (BinllmError, *COMPOSITION_ERRORS) as error:
            return _report(explain(error))


def _run_jobs() -> int:
    """Run every job that Hydra makes of the command line: a job that fails stops no other one."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from binllm.assist import assist
    from binllm.configuration import CONF
    from binllm.distributed import joined
    from binllm.errors import bad_value
    from binllm.explain import explain
    from binllm.pipeline import run
    from binllm.tracking.tables import print_results

    codes: list[int] = []

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def job(config: DictConfig) -> None:
        own = HydraConfig.get()
        label = f"[{own.job.override_dirname}] " if own.mode is RunMode.MULTIRUN else ""
        try:
            if ranks.size > 1 and own.mode is RunMode.MULTIRUN:
                raise bad_value("hydra.mode", "MULTIRUN", "RUN under torchrun: one run at a time")
            if ranks.leads:
                print_results(run(config, ranks))
            else:
                assist(config, ranks)
            codes.append(0)
        except (BinllmError, OmegaConfBaseException) as error:
            codes.append(_report(label + explain(error)))
        except Exception:
            traceback.print_exc()
            print(f"binllm: {label}stopped by the error above, a fault of the program", file=sys.stderr)
            codes.append(FAULT)

    with joined() as ranks:
        job()
    failed = len(codes) - codes.count(0)
    if failed and len(codes) > 1:
        print(f"binllm: {failed} of {len(codes)} runs failed", file=sys.stderr)
    return max(codes, default=0)


def _report(message: str) -> int:
    print(f"binllm: error: {message}", file=sys.stderr)
    return MISTAKE
