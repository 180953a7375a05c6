"""The table of diagnostics as series over the blocks and as a few numbers of a whole run."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from binllm.diagnostics.table import Row

PREFIX = "diagnostics"
ENTERING, LAST_LAYER = "attention/proxy_rank_correlation", "attention/last_layer_rank_correlation"


class Key(NamedTuple):
    """What one number of a series over the blocks belongs to."""

    metric: str
    layer: str
    role: str
    block: int


def means(table: pd.DataFrame) -> dict[Key, float]:
    """One number for every metric of every layer and block: series over heads, ranks or sequences count with their mean."""
    values: dict[Key, list[float]] = {}
    for row in map(Row._make, table[list(Row._fields)].itertuples(index=False, name=None)):
        values.setdefault(Key(row.metric, row.layer, row.role, row.block), []).append(row.value)
    return {key: fmean(found) for key, found in values.items()}


def block_series(table: pd.DataFrame) -> list[dict[str, float]]:
    """One row a block for a tracker.

    Args:
        table: As `read_diagnostics` returns it.

    Returns:
        ``block/index`` and ``diagnostics/<group>/<name>`` for the whole block, or with ``/<role>`` for a layer; see `means`.
    """
    rows: dict[int, dict[str, float]] = {}
    for key, value in means(table).items():
        name = "/".join(part for part in (PREFIX, key.metric, key.role) if part)
        rows.setdefault(key.block, {"block/index": key.block})[name] = value
    return list(rows.values())


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """What a run says as a whole.

    Args:
        table: As `read_diagnostics` returns it.

    Returns:
        By metric the mean over blocks, of the whole blocks' values where there are any and of the layers' otherwise; and the
        rank correlations of `proxy_correlations`.
    """
    found = means(table)
    summary: dict[str, float] = {}
    for metric in dict.fromkeys(key.metric for key in found):
        of_metric = {key: value for key, value in found.items() if key.metric == metric}
        whole = [value for key, value in of_metric.items() if not key.layer]
        summary[metric] = fmean(whole or of_metric.values())
    return summary | proxy_correlations(table)


def proxy_correlations(table: pd.DataFrame) -> dict[str, float]:
    """How well token similarity predicts attention: rank correlation over the blocks with the heads' mean KL (Spearman).

    Args:
        table: As `read_diagnostics` returns it, of one run.

    Returns:
        ``attention/proxy_rank_correlation`` for the similarity of what enters the block, and
        ``attention/last_layer_rank_correlation`` for the output of the last layer of the block before, which is what
        attention matrix preservation keeps. One is left out where fewer than three blocks have both series, or one of the
        two is the same in all of them.
    """
    found = means(table)
    kl = {key.block: value for key, value in found.items() if key.metric == "attention/kl"}
    entering = {key.block: value for key, value in found.items() if key.metric == "attention/proxy_output_error"}
    # Layers stand in the order of the data, so the last one of a block overwrites the others.
    last = {key.block + 1: v for key, v in found.items() if key.metric == "tokens/output_error" and key.layer}
    candidates = {ENTERING: rank_correlation(entering, kl), LAST_LAYER: rank_correlation(last, kl)}
    return {name: value for name, value in candidates.items() if value is not None}


def rank_correlation(first: dict[int, float], second: dict[int, float]) -> float | None:
    """Spearman's rank correlation over the blocks that both have; None where it says nothing."""
    blocks = sorted(first.keys() & second.keys())
    ranks = [pd.Series([series[block] for block in blocks], dtype="float64").rank() for series in (first, second)]
    if len(blocks) < 3 or any(series.nunique() < 2 for series in ranks):
        return None
    return float(ranks[0].corr(ranks[1]))


def summary_table(tables: Iterable[pd.DataFrame]) -> list[tuple[str, list[float | None]]]:
    """Several runs side by side: (metric, its summary in every run; None where a run has not measured it)."""
    summaries = [summarise(table) for table in tables]
    metrics = dict.fromkeys(metric for summary in summaries for metric in summary)
    return [(metric, [summary.get(metric) for summary in summaries]) for metric in metrics]
