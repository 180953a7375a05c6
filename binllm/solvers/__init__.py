"""Solvers: a quadratic to a code. Importing this registers the options."""

from binllm.solvers.alternating import Alternating
from binllm.solvers.base import Feedback, Solution, Solver, Status
from binllm.solvers.closed_form import ClosedForm
from binllm.solvers.layer import solve

__all__ = ["Alternating", "ClosedForm", "Feedback", "Solution", "Solver", "Status", "solve"]
