"""Put the table of the ablations into a document: ``python -m experiments.ablations.readme TABLE DOCUMENT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from binllm.errors import BinllmError
from binllm.tracking.atomic import write_text
from experiments.common.markdown import replace_between

MARKERS = ("<!-- ablations -->", "<!-- /ablations -->")


def main(arguments: Sequence[str] | None = None) -> int:
    """Replace what is between the markers; returns the exit code."""
    parser = argparse.ArgumentParser(description="Put the table of the ablations into a document.")
    parser.add_argument("table", type=Path, help="ratios.md, as binllm-tools tables writes it")
    parser.add_argument("document", type=Path, help=f"with the lines {MARKERS[0]} and {MARKERS[1]}")
    options = parser.parse_args(arguments)
    try:
        table = options.table.read_text(encoding="utf-8")
        write_text(options.document, replace_between(options.document, MARKERS, table))
    except (BinllmError, OSError) as error:
        print(f"readme: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
