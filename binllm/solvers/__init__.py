"""Solvers: a quadratic to a code. Importing this registers the options."""

from binllm.solvers.alternating import Alternating
from binllm.solvers.arb import Arb
from binllm.solvers.base import Feedback, Solution, Solver, Status
from binllm.solvers.closed_form import ClosedForm
from binllm.solvers.gptq import Gptq
from binllm.solvers.layer import solve
from binllm.solvers.rounding import Rounding

__all__ = ["Alternating", "Arb", "ClosedForm", "Feedback", "Gptq", "Rounding", "Solution", "Solver", "Status", "solve"]
