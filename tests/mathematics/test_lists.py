"""Every registered algorithm and every option of an enumeration is under the laws."""

from __future__ import annotations

import pytest
from helpers import ALL_SOLVERS, BINARIZATIONS, OBJECTIVES, PUBLISHED, SOLVERS

from binllm.quadratic import AmpRule
from binllm.registry import REGISTRY
from binllm.solvers import Feedback
from binllm.statistics import TokenWeights


@pytest.mark.parametrize(
    ("group", "listed"),
    [
        ("objective", OBJECTIVES),
        ("binarization", BINARIZATIONS | {k: b for k, (b, _) in PUBLISHED.items()}),
        ("solver", ALL_SOLVERS | {k: s for k, (_, s) in PUBLISHED.items()}),
    ],
)
def test_every_registered_class_is_listed(group: str, listed: dict) -> None:
    registered = {cls for cls in REGISTRY[group].values() if cls.__module__.startswith("binllm.")}
    assert registered == {type(algorithm) for algorithm in listed.values()}


def test_every_option_of_an_enumeration_is_listed() -> None:
    assert {getattr(o, "amp_rule", AmpRule.off) for o in OBJECTIVES.values()} == set(AmpRule)
    assert {o.token_weights for o in OBJECTIVES.values()} == set(TokenWeights)
    assert {s.feedback for s in SOLVERS.values()} == set(Feedback)
