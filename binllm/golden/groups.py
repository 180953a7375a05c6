"""The published numbering of the groups of a partition, and that of the cells of `Cells`."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from binllm.binarization.partition import PLAIN
from binllm.errors import bad_value
from binllm.golden.files import Case

BILLM = (0, 1, 2)  # the cell of each published index: small, large, salient
ARB = (2, 1, 0)  # salient, large, small
ARB_CGB = (3, 2, 1, 0)  # salient large, salient small, large, small


def published_order(case: Case, billm: bool, grouped: bool) -> tuple[int, ...]:
    """This project's cell of each published index, as the case describes them or as the repository has them.

    Args:
        case: Its description may say what the indices mean, as in ``0 = salient columns (order 2), 1 = large (order 1)``.
        billm: Whether it is from BiLLM and not from ARB-LLM.
        grouped: Whether the salient entries are in two groups (CGB).

    Raises:
        BinllmError: A description that is not understood.
    """
    usual = BILLM if billm else ARB_CGB if grouped else ARB
    if "groups" not in case.about:
        return usual
    text = case.argument("groups", str)
    found = dict(re.findall(r"(\d+)\s*=\s*((?:\([^)]*\)|[^,(])+)", text))
    words = [found.get(str(index), "") for index in range(len(found))]
    order = tuple(_cell(each, grouped) for each in words)
    if sorted(order) == sorted(usual):
        return order
    if not grouped and sorted(_cell(each, True) for each in words) == sorted(ARB_CGB):
        return usual  # BiLLM's method has no CGB, although it may be asked for, and described
    raise bad_value("groups", text, "each index with small, large, salient, salient small or salient large")


def _cell(words: str, grouped: bool) -> int:
    if "salient" in words:
        return PLAIN + int(grouped and "large" in words)
    return {(True, False): 0, (False, True): 1}.get(("small" in words, "large" in words), -1)


def as_published(cell: Tensor, order: tuple[int, ...]) -> Tensor:
    """Published indices (n_out, n_in) uint8 of cells (n_out, n_in)."""
    index = torch.empty(len(order), dtype=torch.uint8)
    index[list(order)] = torch.arange(len(order), dtype=torch.uint8)
    return index[cell.long()]
