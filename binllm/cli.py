"""The command ``binllm``: one run, or with ``-m`` a sweep of runs."""

from __future__ import annotations

import os
import re
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import binllm.schema  # noqa: F401  (publishes the typed root)
from binllm.configuration import CONF, rewrite
from binllm.errors import BinllmError
from binllm.pipeline import run
from binllm.tracking.tables import print_results


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(config: DictConfig) -> None:
    print_results(run(config))


def main() -> None:
    """Entry point. A mistake in the input is one line on stderr and exit code 2; an interruption is 130."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here unwrapped instead of as Hydra's own report
    try:
        sys.argv[1:] = rewrite(sys.argv[1:])
        _hydra_main()
    except BinllmError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except KeyboardInterrupt:
        print("binllm: interrupted; the same command resumes after the last finished block", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    print(f"binllm: error: {message}", file=sys.stderr)
    sys.exit(2)


def explain(error: BaseException) -> str:
    """Make one line of an error of Hydra or OmegaConf: what it said, its cause, and the nearest names."""
    causes: list[str] = []
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, BinllmError):
            return str(current)
        lines = [line.strip() for line in str(current).splitlines() if line.strip()]
        causes += [line for line in lines if not re.match(r"(object_type|reference_type|sub_object)", line)]
        current = current.__cause__
    return _with_nearest("; ".join(dict.fromkeys(causes)))


def _with_nearest(text: str) -> str:
    import difflib

    text = re.sub(r"\s+", " ", text)
    text = re.sub(r";? ?Set the environment variable HYDRA_FULL_ERROR.*$", "", text)
    missing = re.search(r"Could not find '([\w@]+)/([^']+)'(?:.*?Available options in '[^']*': (.*))?", text)
    if missing:
        group, name = missing.group(1), missing.group(2)
        options = re.findall(r"[\w.-]+", missing.group(3) or "")
        options = [o for o in options if not o.startswith("schema_") and "/" not in o]
        near = difflib.get_close_matches(name, options, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{group} = {name}: allowed are {', '.join(options)}{hint}" if options else text
    return text
