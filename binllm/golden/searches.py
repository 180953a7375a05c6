"""Golden cases of the structural search: salient columns and magnitude groups of one block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from binllm.binarization import Target
from binllm.binarization.partition import PLAIN
from binllm.errors import bad_value
from binllm.golden.files import Case
from binllm.golden.groups import as_published, published_order
from binllm.golden.methods import Method
from binllm.golden.outcome import Difference, Outcome, relative

BILLM = "structural_guassian_distribution"
ARB = "structural_guassian_distribution_multip_alternating_group_x"
SPLIT = 1e-6  # relative; columns and groups are the same
FRACTION = 1e-6  # of the entries: what a float32 mean may be off by, less than one of them
UP_LIM = 30  # default of both functions


@dataclass(frozen=True)
class SearchCheck:
    """One search.

    Attributes:
        case: With the number of salient columns and the fractions of the groups, as far as recorded.
        method: What is searched for.
        target: The block, of which weight, inputs and the diagonal of the factor are read.
        order: See `published_order`.
        group: (n_out, width) uint8, published indices, or None.
        salient: Ascending indices of the salient columns, or None.
        split: Threshold of the plain entries, or None.
    """

    case: Case
    method: Method
    target: Target
    order: tuple[int, ...]
    group: Tensor | None
    salient: Tensor | None
    split: Tensor | None

    @classmethod
    def of(cls, case: Case) -> SearchCheck:
        """Read a case.

        Raises:
            BinllmError: An unknown function or option, or a missing tensor.
            Unjudged: A missing file, or an option that this project does not have.
        """
        name = case.argument("function", str).split("(")[0].strip()
        if name not in (BILLM, ARB):
            raise bad_value("function", name, (BILLM, ARB))
        method = Method.of(case, "metric", UP_LIM)
        order = published_order(case, name == BILLM, method.salient_groups == 2)
        group, salient, split = (case.output(what) for what in ("group", "salient_columns", "split"))
        return cls(case, method, _target(case, method), order, group, salient, split)

    def run(self) -> Outcome:
        """Entries in another group, columns that are salient in one only, the threshold, and the recorded scalars."""
        cell, split = self.method.partition(block_size=len(self.target.columns)).search(self.target)
        found = as_published(cell, self.order)
        differences = []
        if self.salient is not None:
            salient = torch.zeros(cell.shape[1], dtype=torch.bool)
            salient[self.salient.long()] = True
            differences.append(Difference("columns", int((salient != (cell[0] >= PLAIN)).sum()), 0))
        if self.group is not None:
            differences.append(Difference("groups", int((found != self.group).sum()), 0))
        if self.split is not None:
            differences.append(Difference("split", relative(split, float(self.split)), SPLIT))
        return Outcome([*differences, *self._recorded(cell, found)])

    def _recorded(self, cell: Tensor, found: Tensor) -> list[Difference]:
        """Differences from the recorded scalars of cells, and of the groups that they are."""
        differences = []
        for expected in self.case.scalars("n_salient").values():
            differences.append(Difference("number of columns", abs(int((cell[0] >= PLAIN).sum()) - expected), 0))
        recorded = torch.tensor(self.case.argument("fractions", list, []), dtype=torch.float64)
        if len(recorded):
            fractions = found.flatten().bincount(minlength=len(self.order)).double() / found.numel()
            differences.append(Difference("fractions of groups", float((fractions - recorded).abs().max()), FRACTION))
        return differences


def _target(case: Case, method: Method) -> Target:
    """What the search reads of a block; a metric that it does not look at may be missing."""
    weight, upper = case.tensor(case.argument("tmp", str)).float(), case.tensor(case.argument("H", str)).float()
    metric = torch.eye(weight.shape[1])
    if method.looks_at_inputs or "inp" in case.about:
        metric = case.tensor(case.about.get("inp")).float()
    return Target(
        columns=weight.T.contiguous(),
        metric=metric,
        inputs=metric,
        upper=upper,
        variance=lambda: upper.square().sum(0),
        limits=lambda: torch.stack(weight.aminmax(dim=1)),
    )
