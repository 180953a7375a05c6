"""Keep transformers from printing while a model is loaded; exceptions pass unchanged."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from logging import CRITICAL

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging


@contextlib.contextmanager
def quiet(downloads: bool = False) -> Iterator[None]:
    """Silence log lines below errors, warnings and progress bars of transformers, and restore all of it.

    Args:
        downloads: Keep the download bars of the hub: a silent minute-long download looks like a hang.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    if downloads and hub_bars:
        enable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (enable_progress_bars if hub_bars else disable_progress_bars)()
