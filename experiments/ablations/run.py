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
START = "from binllm.cli import main; main()"  # the command binllm of this checkout, whatever is installed

# what is given besides the experiment: the whole sweep of its overlay unless it is cut here
STORIES = {
    "ablation/amp": "",
    "ablation/target": "",
    "ablation/alpha": "",
    "ablation/roles": "",
    "ablation/calibration_size": "",
    "ablation/block_size": "",
    "ablation/shrinkage": "",
    "ablation/period": "",
    "ablation/iterations": "",
    "ablation/corpus_stories": "",
}
SMOLLM2 = {
    "ablation/amp": "",
    "ablation/target": "",
    "ablation/roles": "objective.roles=[q],[k],[v],[o],[last],[o,last],[all]",
    "ablation/alpha": "objective.alpha=0,0.25,0.5,1",
    "ablation/shrinkage": "objective.shrinkage=0,0.1,0.3,1",
    "ablation/block_size": "binarization.block_size=64,128,256",
    "ablation/calibration_size": "dataset.sequences=4,8,16",
    "ablation/corpus": "dataset=c4_sample_a,wikitext2",
    "ablation/period": "",
    "ablation/iterations": "solver.iterations=1,5,15",
}
MODELS = {
    "stories260k": (STORIES, ["model=stories260k", "seed=0,1,2,3,4"]),
    "smollm2": (SMOLLM2, ["model=smollm2", "protocol=light", "seed=0,1,2"]),
}


def commands(model: str, results: Path) -> list[list[str]]:
    """The arguments of ``binllm`` for every sweep of a model."""
    sweeps, common = MODELS[model]
    text = ["dataset=tinystories"] if model == "stories260k" else []
    return [
        [
            f"experiment={name}",
            *([] if name.startswith("ablation/corpus") else text),  # it sweeps the dataset
            *common,
            *([cut] if cut else []),
            f"paths.results={results}",
            "tracker=files",
        ]
        for name, cut in sweeps.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every sweep; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the runs of the ablations on the small models.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="folder for run folders")
    parser.add_argument("--model", choices=list(MODELS), action="append", help="one model only; both by default")
    parser.add_argument("--print", action="store_true", help="show the commands and run nothing")
    options = parser.parse_args(arguments)
    code = 0
    for model in options.model or MODELS:
        for command in commands(model, options.results):
            print(shlex.join(["binllm", *command]), flush=True)
            done = (
                0 if options.print else subprocess.run([sys.executable, "-c", START, *command], check=False).returncode
            )
            if done in (INTERRUPTED, -2):
                return INTERRUPTED
            code = code or done
    return code


if __name__ == "__main__":
    sys.exit(main())
