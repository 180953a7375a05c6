"""The table of diagnostics as series over the blocks and as a few numbers of a whole run."""

from __future__ import annotations

import pandas as pd

PREFIX = "diagnostics"


def block_series(table: pd.DataFrame) -> list[dict[str, float]]:
    """One row a block for a tracker.

    Args:
        table: As `read_diagnostics` returns it.

    Returns:
        ``block/index`` and ``diagnostics/<group>/<name>`` for the whole block, or with ``/<role>`` for a layer. A series
        over heads, ranks or sequences counts with its mean.
    """
    keys = ["block", "metric", "role"]
    means = table.groupby(keys, sort=False)["value"].mean()
    rows: dict[int, dict[str, float]] = {}
    for (block, metric, role), value in means.items():  # pyright: ignore[reportGeneralTypeIssues] a MultiIndex
        name = "/".join((PREFIX, str(metric), *([str(role)] if role else [])))
        rows.setdefault(int(block), {"block/index": int(block)})[name] = float(value)
    return list(rows.values())


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """What a run says as a whole.

    Args:
        table: As `read_diagnostics` returns it.

    Returns:
        By metric the mean over blocks, of the whole blocks' values where there are any and of the layers' otherwise; and the
        rank correlations of `proxy_correlations`.
    """
    found: dict[str, float] = {}
    for metric, rows in table.groupby("metric"):
        whole = rows[rows["layer"] == ""]
        chosen = whole if len(whole) else rows
        found[str(metric)] = float(chosen.groupby("block")["value"].mean().mean())
    return found | proxy_correlations(table)


def proxy_correlations(table: pd.DataFrame) -> dict[str, float]:
    """How well token similarity predicts attention: rank correlation over the blocks with the heads' mean KL (Spearman).

    Args:
        table: As `read_diagnostics` returns it, of one run.

    Returns:
        ``proxy_rank_correlation`` for the similarity of what enters the block, ``last_layer_rank_correlation`` for the
        output of the last layer of the block before, which is what attention matrix preservation keeps. Empty without
        attention; one is left out where fewer than three blocks have both, or a series is constant.
    """
    kl = _by_block(table, "attention/kl")
    candidates = {
        "attention/proxy_rank_correlation": _by_block(table, "attention/proxy_output_error"),
        "attention/last_layer_rank_correlation": _last_layers(table),
    }
    found: dict[str, float] = {}
    for name, proxy in candidates.items():
        both = pd.concat([proxy, kl], axis=1, join="inner").rank()
        if len(both) >= 3 and (both.nunique() > 1).all():
            found[name] = float(both.iloc[:, 0].corr(both.iloc[:, 1]))
    return found


def _by_block(table: pd.DataFrame, metric: str) -> pd.Series:
    return table[table["metric"] == metric].groupby("block")["value"].mean()


def _last_layers(table: pd.DataFrame) -> pd.Series:
    """Token-similarity error of the last layer of every block, under the index of the next block."""
    layers = table[(table["metric"] == "tokens/output_error") & (table["layer"] != "")]
    last = layers.groupby("block")["value"].last()
    return last.set_axis(last.index + 1)
