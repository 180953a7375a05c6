"""Where the YAML files of the configuration are."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).resolve().parent / "conf"  # a link to the top-level folder in a checkout, a copy in a wheel
