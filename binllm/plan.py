"""What is done to each layer: the objects that a configuration stands for, and nothing of configuration itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import torch

from binllm.asymmetric import Asymmetric, AsymmetricRule
from binllm.binarization import Binarization
from binllm.errors import bad_value
from binllm.objectives import ALL, LAST, Objective, WeightAlign, applies_to, reads_reference
from binllm.quadratic import AmpRule, Problem
from binllm.registry import REGISTRY
from binllm.solvers import Gptq, Solver
from binllm.statistics import Statistics
from binllm.streams import Storage


class Granularity(Enum):
    """``block``: one pass measures the inputs of all layers of a block. ``group``: layers are measured again after
    q,k,v, after o, and after gate,up, so that each sees the inputs which the quantized model will really give it."""

    block = "block"
    group = "group"


class Precision(Enum):
    """Arithmetic of a part of the work; moments are measured in float64 whatever it is."""

    float32 = "float32"
    float64 = "float64"


@dataclass(frozen=True)
class Calibration:
    """How the calibration tokens go through the model.

    Attributes:
        batch: Sequences in one forward pass.
        granularity: See `Granularity`.
        storage: Where the activations live.
        correct_bias: Add the mean output error to a linear layer's bias, where it has one.
        fit_dtype: Arithmetic of fits inside blocks of columns.
        feedback_dtype: That of the metric's factor and of error feedback between blocks; float32 in published code.
        head: Quantize the output layer (``lm_head``) as well; embeddings and norms always stay as they are.
    """

    batch: int = 4
    granularity: Granularity = Granularity.group
    storage: Storage = Storage.memory
    correct_bias: bool = False
    fit_dtype: Precision = Precision.float32
    feedback_dtype: Precision = Precision.float64
    head: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise bad_value("calibration.batch", self.batch, "a whole number of at least 1")


@dataclass(frozen=True)
class Plan:
    """Objective x binarization x solver x roles.

    Attributes:
        objective: For the layers named by its ``roles``.
        elsewhere: For all other layers.
        binarization: What a quantized weight may be.
        solver: How it is found.
        calibration: How the model's inputs are measured.
        asymmetric: Asymmetric calibration.
    """

    objective: Objective
    binarization: Binarization
    solver: Solver
    elsewhere: Objective = field(default_factory=WeightAlign)
    calibration: Calibration = field(default_factory=Calibration)
    asymmetric: Asymmetric = field(default_factory=Asymmetric)

    def __post_init__(self) -> None:
        kind, name = self.binarization.block, type(self.binarization).__name__.lower()
        if not issubclass(kind, self.solver.blocks):
            fitting = sorted(one for one, solver in REGISTRY["solver"].items() if issubclass(kind, solver.blocks))
            raise bad_value("solver", self.solver.name, f"a solver that fits binarization {name}: {', '.join(fitting)}")

        for key, objective in (("objective", self.objective), ("elsewhere", self.elsewhere)):
            if self.asymmetric.rule is AsymmetricRule.qep and reads_reference(objective):
                raise bad_value(
                    "asymmetric.rule", "qep", f"none or gptaq with {key} {objective.name}, which sees the drift itself"
                )
            rule = getattr(objective, "amp_rule", AmpRule.off)
            if rule is not AmpRule.off and not getattr(self.solver, "masks_updates", False):
                raise bad_value(
                    f"{key}.amp_rule", rule.value, f"off with solver {self.solver.name}, whose updates it cannot mask"
                )

    def remark(self) -> str | None:
        """What a user should know before a run: an option that will do nothing. None if there is none."""
        columns = isinstance(self.solver, Gptq)  # which feeds errors back inside a block, too
        if self.asymmetric.rule is not AsymmetricRule.gptaq or self.binarization.block_size is not None or columns:
            return None
        return (
            f"asymmetric=gptaq changes nothing here: with binarization.block_size null a row is one block, solver "
            f"{self.solver.name} fits it whole, and no later columns are left to be corrected"
        )

    def objective_of(self, role: str, is_last: bool) -> Objective:
        """The objective of a layer."""
        return self.objective if applies_to(self.objective, role, is_last) else self.elsewhere

    def check_roles(self, roles: list[str]) -> None:
        """Refuse role names that no layer of the model has.

        Args:
            roles: The model's roles.

        Raises:
            BinllmError: The objective names another role.
        """
        for role in self.objective.roles:
            if role not in (ALL, LAST, *roles):
                raise bad_value("objective.roles", role, (ALL, LAST, *roles))

    def reads_cross(self, objective: Objective) -> bool:
        """Whether C is measured for a layer with this objective."""
        return reads_reference(objective) or self.asymmetric.rule is not AsymmetricRule.none

    def problem(self, objective: Objective, weight: torch.Tensor, statistics: Statistics) -> Problem:
        """What the solver gets for one layer; weight (n_out, n_in) of any dtype.

        Raises:
            ValueError: The weight or a moment has NaN or infinite entries.
        """
        weight = weight.double()
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("the weight has NaN or infinite entries")
        if not statistics.finite():
            raise ValueError("the moments of the input have NaN or infinite entries")
        weight = self.asymmetric.corrected(weight, statistics)
        quadratic = objective.quadratic(weight, statistics)
        feedback = quadratic.metric if objective.aligns_outputs else statistics.gram
        amp, drift = objective.amp(weight, statistics), self.asymmetric.drift(statistics)
        return Problem(weight, quadratic, feedback, amp, drift)
