"""The command ``binllm``: one run, or with ``-m`` a sweep of runs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from binllm import __version__
from binllm.errors import FAULT, INTERRUPTED, MISTAKE, BinllmError

if TYPE_CHECKING:
    from binllm.launching import CommandLine


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
    from binllm.explain import COMPOSITION_ERRORS, explain
    from binllm.launching import SHOWS, parsed

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here unwrapped instead of as Hydra's own report
    try:
        with parsed(arguments) as said:
            if any(getattr(said.options, name) for name in SHOWS):
                return _show(arguments)
            return _run_jobs(said)
    except (BinllmError, *COMPOSITION_ERRORS) as error:
        return _report(explain(error, arguments))


def _show(arguments: Sequence[str]) -> int:
    """What Hydra shows by itself, for example ``--cfg job``."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from binllm.configuration import rewrite
    from binllm.yaml_folder import CONF

    GlobalHydra.instance().clear()
    sys.argv[1:] = rewrite(arguments)
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(lambda config: None)()
    return 0


def _run_jobs(said: CommandLine) -> int:
    """Run every job that Hydra makes of the command line: a job that fails stops no other one."""
    from binllm.explain import COMPOSITION_ERRORS
    from binllm.jobs import Outcome, job

    try:
        outcomes: list[Outcome] = [done.return_value for done in said.launch(job)]
    except (BinllmError, *COMPOSITION_ERRORS):
        raise
    except Exception:  # for example a process that the system killed
        traceback.print_exc()
        print("binllm: the launcher gave up; the same command finishes what is missing", file=sys.stderr)
        return FAULT
    for outcome in outcomes:
        outcome.tell()
    failed = [outcome for outcome in outcomes if outcome.code]
    if failed and len(outcomes) > 1:
        print(f"binllm: {len(failed)} of {len(outcomes)} runs failed", file=sys.stderr)
    return max((outcome.code for outcome in outcomes), default=0)


def _report(message: str) -> int:
    print(f"binllm: error: {message}", file=sys.stderr)
    return MISTAKE
