"""Which of some runs differ in one choice only: the lines of the ablation plots, found from the configurations."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from binllm.report.comparison import Subject
from binllm.tracking.runs import NO_NUMBERS

LEFT_OUT = (*NO_NUMBERS, "seed", "threads", "device", "evaluation", "kernel")


@dataclass(frozen=True)
class Ablation:
    """Runs that agree in all but one choice, and the seed.

    Attributes:
        key: The key, or a group whose options differ in several keys.
        values: Each value with its runs, which differ in seed only; numbers ascending.
    """

    key: str
    values: Sequence[tuple[Any, Sequence[Subject]]]

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value, _ in self.values)


def ablations(subjects: Sequence[Subject]) -> list[Ablation]:
    """Every choice in which runs differ while the rest of their configuration is the same.

    Returns:
        Those of single keys and those of whole groups (``objective``, ``dataset``), in order of the keys.
    """
    return [one for key in _choices(subjects) for one in _lines(key, subjects)]


def _settings(subject: Subject) -> dict[str, Any]:
    return {key: value for key, value in subject.run.settings.items() if key.split(".")[0] not in LEFT_OUT}


def _choices(subjects: Sequence[Subject]) -> Iterator[str]:
    """Keys that have several values, and before them their groups if the groups' names differ."""
    values: dict[str, set[str]] = defaultdict(set)
    for subject in subjects:
        for key, value in _settings(subject).items():
            values[key].add(str(value))
    several = [key for key, found in values.items() if len(found) > 1]
    groups = [key.removesuffix(".name") for key in several if key.endswith(".name")]
    yield from (*groups, *(key for key in several if not key.endswith(".name")))


def _lines(choice: str, subjects: Sequence[Subject]) -> Iterator[Ablation]:
    alike: dict[str, dict[str, list[Subject]]] = defaultdict(lambda: defaultdict(list))
    for subject in subjects:
        settings = _settings(subject)
        rest = {key: value for key, value in settings.items() if key != choice and not key.startswith(f"{choice}.")}
        alike[json.dumps(rest, sort_keys=True, default=str)][_identity(settings, choice)].append(subject)
    for found in alike.values():
        values = [(_value(group[0], choice), group) for group in found.values()]
        if len({str(value) for value, _ in values}) == len(values) > 1:
            line = Ablation(choice, values)
            yield Ablation(choice, sorted(values, key=lambda pair: pair[0])) if line.numeric else line


def _identity(settings: dict[str, Any], choice: str) -> str:
    own = {key: value for key, value in settings.items() if key == choice or key.startswith(f"{choice}.")}
    return json.dumps(own, sort_keys=True, default=str)


def _value(subject: Subject, choice: str) -> Any:
    settings = subject.run.settings
    value = settings.get(choice, settings.get(f"{choice}.name"))
    return ", ".join(map(str, value)) if isinstance(value, list) else value
