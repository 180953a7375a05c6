"""Make the runs of the ablations, or find them done: ``python -m experiments.ablations.run RESULTS``.

``--print`` shows the commands and runs nothing. A sweep that fails stops no other one; the exit code says that one did.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INTERRUPTED = 130

# The sweeps, cut to what decides the claims and what plots need; nothing means the whole sweep of the overlay.
SWEEPS = {
    "amp": "",
    "target": "",
    "roles": "objective.roles=[q],[k],[v],[o],[last],[o,last],[all]",
    "alpha": "objective.alpha=0,0.25,0.5,1",
    "shrinkage": "objective.shrinkage=0,0.1,0.3,1",
    "block_size": "binarization.block_size=64,128,256",
    "calibration_size": "dataset.sequences=4,8,16",
    "period": "",
    "iterations": "solver.iterations=1,5,15",
}
MODELS = ("stories260k", "smollm2")
SMOLLM2: tuple[str, ...] = ("model=smollm2", "seed=0,1,2")
STORIES: tuple[str, ...] = ("model=stories260k", "seed=0,1,2,3,4")


def commands(model: str, results: Path) -> list[list[str]]:
    """The arguments of ``binllm`` for every sweep of a model."""
    if model == "smollm2":
        words = SMOLLM2
        last = [("ablation/corpus", *words, "dataset=c4_sample_a,wikitext2"), ("table1", *words)]
    else:  # too narrow for the methods of the tables
        words = ("dataset=tinystories", *STORIES)
        last = [("ablation/corpus_stories", *STORIES)]
    sweeps = [*((f"ablation/{name}", *words, cut) for name, cut in SWEEPS.items()), *last]
    ends = (f"paths.results={results}", "tracker=files")
    return [[f"experiment={name}", *(word for word in words if word), *ends] for name, *words in sweeps]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every sweep; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the runs of the ablations on the small models.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="folder for run folders")
    parser.add_argument("--model", choices=MODELS, action="append", help="one model only; both by default")
    parser.add_argument("--print", action="store_true", help="show the commands and run nothing")
    options = parser.parse_args(arguments)
    code = 0
    for model in options.model or MODELS:
        for command in commands(model, options.results):
            print(shlex.join(["binllm", *command]), flush=True)
            if options.print:
                continue
            done = subprocess.run([sys.executable, "-m", "binllm", *command], check=False).returncode
            if done in (INTERRUPTED, -2):
                return INTERRUPTED
            code = code or done
    return code


if __name__ == "__main__":
    sys.exit(main())
