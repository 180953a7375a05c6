"""What an experiment claims, read from the header of its overlay in ``conf/experiment``.

The header is the comment lines ``# word: text`` below ``# @package``::

    # claim: one sentence
    # source: who says so
    # varies: the key or group that the sweep varies
    # reference: the setting that others are tested against
    # measures: perplexity (the default) or a phase's seconds, such as quantize_seconds; less is better
    # text: the corpus that it is measured on, where other runs are no test of the claim
    # expected: agree < off, paper < 1.25 * arb_rc_cgb
    # note: what a reader has to know besides
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from binllm.errors import BinllmError, bad_value
from binllm.yaml_folder import CONF

WORDS = ("claim", "source", "varies", "reference", "measures", "text", "expected", "note")
NEEDED = ("claim", "source", "varies", "reference", "expected")
PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class Expectation:
    """``lower < factor * higher``: what is measured at one setting is less than that at another one.

    Attributes:
        lower: Label of a setting.
        higher: Label of another one.
        factor: Of the second one; 1 mostly.
    """

    lower: str
    higher: str
    factor: float = 1.0

    def __str__(self) -> str:
        times = "" if self.factor == 1 else f"{self.factor:g} * "
        return f"{self.lower} < {times}{self.higher}"


@dataclass(frozen=True)
class Claim:
    """The header of an experiment; see the module.

    Attributes:
        experiment: Its name, such as ``ablation/amp``.
        text: The claim.
        source: Who says so.
        varies: Key or group that the sweep varies.
        reference: Label of the setting that others are tested against.
        expected: What should come out if the claim holds; all of it.
        measures: What is compared; less is better.
        note: Further text, empty for none.
        corpus: What it is measured on; empty for anything.
    """

    experiment: str
    text: str
    source: str
    varies: str
    reference: str
    expected: tuple[Expectation, ...]
    measures: str = PERPLEXITY
    note: str = ""
    corpus: str = ""

    @property
    def short(self) -> str:
        """The name as part of a file name, such as ``ablation_amp``."""
        return self.experiment.replace("/", "_")


def claims() -> list[Claim]:
    """The claims of all experiments whose overlay has one, by name.

    Raises:
        BinllmError: As `read_claim`.
    """
    folder = CONF / "experiment"
    names = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    found = (read_claim(name) for name in names)
    return [claim for claim in found if claim is not None]


def read_claim(experiment: str) -> Claim | None:
    """The claim of one experiment; None if its overlay makes none.

    Raises:
        BinllmError: There is no such overlay, or its header lacks a word or has one that cannot be read.
    """
    file: Path = CONF / "experiment" / f"{experiment}.yaml"
    if not file.is_file():
        raise bad_value("experiment", experiment, "an overlay in conf/experiment")
    lines = re.findall(rf"^# ({'|'.join(WORDS)}): (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    said = {word: text.strip() for word, text in lines}
    if "claim" not in said:
        return None
    missing = [word for word in NEEDED if word not in said]
    if missing:
        raise BinllmError(f"{file}: the header lacks {', '.join(missing)}")
    return Claim(
        experiment,
        said["claim"],
        said["source"],
        said["varies"],
        said["reference"],
        tuple(_expectation(part.strip(), file) for part in re.split(r",\s+", said["expected"])),
        said.get("measures", PERPLEXITY),
        said.get("note", ""),
        said.get("text", ""),
    )


def _expectation(text: str, file: Path) -> Expectation:
    found = re.fullmatch(r"(\S+) < (?:([\d.]+) \* )?(\S+)", text)
    if found is None:
        raise bad_value(f"{file}: expected", text, "a < b, or a < 1.25 * b; several with commas")
    return Expectation(found.group(1), found.group(3), float(found.group(2) or 1))
