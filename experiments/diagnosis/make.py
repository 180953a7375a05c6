"""Figures and report of the diagnosis from its runs: ``python -m experiments.diagnosis.make RESULTS [OVERRIDE ...]``.

The runs are those of ``binllm experiment=block_loss`` and ``binllm experiment=diagnosis``, found by their configuration;
overrides are those that were given to both. Weight alignment is taken from the first, which measures more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from binllm.configuration import compose_run
from binllm.errors import BinllmError
from binllm.figures.making import make_figures
from binllm.identity import identify
from binllm.report.comparison import read_comparison
from binllm.report.page import write_page

JOBS = (
    ("experiment=block_loss",),
    ("experiment=diagnosis", "objective=output_align"),
    ("experiment=diagnosis", "objective=output_error"),
    ("experiment=diagnosis", "objective=proposed"),
)
FIGURES = ("block_loss", "similarity", "attention", "drift", "shape", "spectra")


def folder_of(results: Path, overrides: Sequence[str]) -> Path:
    """Where ``binllm`` puts the run of some overrides.

    Raises:
        BinllmError: An override is not allowed.
    """
    return results / identify(compose_run(overrides)).name


def main(arguments: Sequence[str] | None = None) -> int:
    """Write figures and page; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw the figures of the diagnosis and write its report.")
    parser.add_argument("results", type=Path, help="folder of run folders")
    parser.add_argument("overrides", nargs="*", help="what was given to binllm besides the experiment")
    parser.add_argument("--out", type=Path, default=Path("results/diagnosis"), help="folder for figures and page")
    options = parser.parse_args(arguments)
    try:
        folders = [folder_of(options.results, [*job, *options.overrides]) for job in JOBS]
        files, _ = make_figures(read_comparison(folders), options.out, FIGURES)
        write_page(folders, options.out / "report.html")
    except (BinllmError, OSError) as error:
        print(f"diagnosis: error: {error}", file=sys.stderr)
        return 2
    for path in (*files, options.out / "report.html"):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
