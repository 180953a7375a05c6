"""A run in a few numbers: what the sentences of the diagnosis are decided by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd

from binllm.report.comparison import Subject
from binllm.report.metrics import BLOCK_LOSS

WEIGHT, NAIVE = f"{BLOCK_LOSS}weight_align", f"{BLOCK_LOSS}output_align"


def facts(subject: Subject) -> Mapping[str, float]:
    """The numbers of a run, by name; what was not measured, or is no finite number, is left out.

    Returns:
        ``perplexity_ratio``: quantized over full precision. ``inherited_share``: inherited over inherited and new error,
        median over the last third of the blocks. ``drift``: of the stream after the last block. ``drift_growth``: mean
        drift of the last third of the blocks over that of the first. ``error_gap``: output over conditioned error of
        the last layer of a block, median over blocks. ``conditioned_similarity``, ``output_energy``: of that layer,
        likewise. ``token_similarity``: cosine of a token in the two streams, mean over tokens, in the block where it is
        least. ``massive``: largest over mean magnitude of X, in the block where it is most. ``log_variance`` (nats²): of
        the error spectrum, median over blocks. ``rank_ratio``: effective rank of X̂ over that of X, likewise.
        ``cosine_gain``: mean cosine between tokens of X̂ minus that of X, likewise.
        ``total_variation``: of attention, likewise. ``naive_wins``: share of layers whose block loss is lower under naive
        output than under weight alignment.
        ``amp_refused``: share of the changes that attention matrix preservation held back.
    """
    run = subject.run
    last = subject.last_layer
    error, conditioned = (_median(subject, f"stream/{name}", last) for name in ("output_error", "conditioned_error"))
    inherited, new, drift = (
        _median(subject, name, "") for name in ("accumulation/inherited", "accumulation/new", "stream/drift")
    )
    third = max(1, len(drift) // 3)
    found = {
        "perplexity_ratio": run.quantized.perplexity / run.full_precision.perplexity,
        "inherited_share": (inherited / (inherited + new)).iloc[-third:].median(),
        "drift": drift.iloc[-1] if len(drift) else math.nan,
        "drift_growth": drift.iloc[-third:].mean() / drift.iloc[:third].mean(),
        "error_gap": (error / conditioned).median(),
        "conditioned_similarity": _median(subject, "stream/conditioned_similarity", last).median(),
        "output_energy": _median(subject, "stream/output_energy", last).median(),
        "token_similarity": _median(subject, "stream/output_similarity", "").min(),
        "massive": _stream(subject, "massive", "x").max(),
        "log_variance": _median(subject, "anisotropy/error_log_variance", "").median(),
        "rank_ratio": (_stream(subject, "effective_rank", "x_hat") / _stream(subject, "effective_rank", "x")).median(),
        "cosine_gain": (_stream(subject, "mean_cosine", "x_hat") - _stream(subject, "mean_cosine", "x")).median(),
        "total_variation": _median(subject, "attention/total_variation", "").median(),
        "naive_wins": naive_wins(subject),
        "amp_refused": _amp_refused(subject),
    }
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _median(subject: Subject, metric: str, layer: str) -> pd.Series:
    """The median of each block, by its index; empty if the metric was not measured."""
    rows = subject.metric(metric, layer).dropna(subset="value")
    return cast(pd.Series, rows.groupby("block")["value"].median())


def _stream(subject: Subject, name: str, stream: str) -> pd.Series:
    return _median(subject, f"anisotropy/{name}_{stream}", "")


def loss_ratios(subject: Subject) -> pd.DataFrame:
    """Median block loss under naive output alignment over that under weight alignment; (blocks, layers)."""
    weight, naive = (
        subject.metric(name).groupby(["block", "layer"], sort=False)["value"].median() for name in (WEIGHT, NAIVE)
    )
    return cast(pd.DataFrame, (naive / weight).unstack("layer"))


def naive_wins(subject: Subject) -> float:
    """Share of the layers in which naive output alignment has the lower block loss; not a number without block losses."""
    ratios = loss_ratios(subject).to_numpy()
    ratios = ratios[np.isfinite(ratios)]
    return float((ratios < 1).mean()) if len(ratios) else math.nan


def _amp_refused(subject: Subject) -> float:
    accepted = sum(one.amp_accepted for one in subject.layers)
    rejected = sum(one.amp_rejected for one in subject.layers)
    return rejected / (accepted + rejected) if accepted + rejected else math.nan
