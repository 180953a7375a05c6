"""The diagnosis in words: numbers on one side or the other of a stated threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What counts as much. A page that shows a sentence shows the threshold beside it.
USABLE = 1.5  # times the perplexity of full precision
INHERITED = 0.5  # share of the error
GROWTH = 2.0  # times the drift of the first third of the blocks
GAP = 2.0  # times the error on the inputs that a layer gets
OWN = 0.9  # cosine of what a layer's weights make of its inputs before and after
KEPT = 0.8  # cosine of a token before and after
MASSIVE = 1000.0  # times the mean magnitude
ENERGY = 0.8  # share of the output's energy
ANISOTROPIC = 1.0  # nats², a typical factor of e between directions
COLLAPSED = 0.8  # times the effective rank of full precision
ALIKE = 0.05  # of the mean cosine between tokens
ATTENTION = 0.2  # total variation
MAJORITY = 0.5  # share of the layers, or of the changes
TIE = 1.05  # times the best perplexity, or the least drift


@dataclass(frozen=True)
class Rule:
    """One thing to be said of a run.

    Attributes:
        topic: What it is about.
        fact: The number, as in `binllm.report.facts`.
        threshold: Its limit.
        above: Said if the number is above the limit; ``{x}`` is the number.
        below: Said otherwise.
        quantity: The number in words, for the list of thresholds.
    """

    topic: str
    fact: str
    threshold: float
    above: str
    below: str
    quantity: str


@dataclass(frozen=True)
class Finding:
    """A sentence with what decided it.

    Attributes:
        topic: What it is about.
        sentence: In words.
        quantity: The number in words.
        value: The number.
        threshold: Its limit.
    """

    topic: str
    sentence: str
    quantity: str
    value: float
    threshold: float


RULES = (
    Rule(
        "result", "perplexity_ratio", USABLE,
        "Quantization costs much: perplexity is {x:.1f} times that of full precision.",
        "Quantization costs little: perplexity is {x:.2f} times that of full precision.",
        "perplexity over that of full precision",
    ),
    Rule(
        "accumulation", "inherited_share", INHERITED,
        "In late blocks most of the error ({x:.0%}) is inherited from earlier blocks, not made there.",
        "In late blocks most of the error is made in the block itself; {x:.0%} is inherited from earlier ones.",
        "inherited share of the error, last third of the blocks",
    ),
    Rule(
        "accumulation", "drift_growth", GROWTH,
        "The drift of the stream builds up with depth: late blocks have {x:.1f} times the drift of early ones.",
        "The drift of the stream hardly builds up with depth: late blocks have {x:.1f} times the drift of early ones.",
        "drift in the last third of the blocks over that in the first",
    ),
    Rule(
        "accumulation", "error_gap", GAP,
        "The drift of its inputs, not its own weights, decides the output of a block's last layer: against full precision "
        "its error is {x:.1f} times that on the inputs it gets.",
        "Against full precision the error of a block's last layer is only {x:.1f} times that on the inputs it gets: either "
        "they drift little, or the layer was fitted to make up for it.",
        "output error over activation-conditioned error of the last layer",
    ),
    Rule(
        "accumulation", "token_similarity", KEPT,
        "Tokens keep their direction: in the worst block their cosine with full precision is {x:.2f}.",
        "Tokens turn away from full precision: in the worst block their cosine with it is {x:.2f}.",
        "cosine of tokens with full precision, least of all blocks",
    ),
    Rule(
        "accumulation", "massive", MASSIVE,
        "Massive activations, {x:,.0f} times the mean magnitude, own drift, energy and moments in some block: the cosine of "
        "tokens says more there.",
        "No activation is massive: the largest is {x:,.0f} times the mean magnitude.",
        "largest over mean magnitude of full precision, most of all blocks",
    ),
    Rule(
        "anisotropic distortion", "conditioned_similarity", OWN,
        "The last layers of the blocks still do what their weights did: on the inputs they get, outputs have a cosine of "
        "{x:.2f}.",
        "The last layers of the blocks no longer do what their weights did: on the inputs they get, outputs have a cosine "
        "of {x:.2f}; they pass on what can be predicted of the true output, and drop the rest.",
        "cosine of the last layer's outputs with those of the true weights on the same inputs",
    ),
    Rule(
        "anisotropic distortion", "output_energy", ENERGY,
        "The last layers of the blocks keep the energy of their output ({x:.2f} of the true one).",
        "The last layers of the blocks lose energy: {x:.2f} of the true one is left.",
        "energy of the last layer's output over the true one",
    ),
    Rule(
        "anisotropic distortion", "log_variance", ANISOTROPIC,
        "The error is anisotropic: relative to the output it differs much between directions (variance of the logarithms "
        "{x:.2f}).",
        "The error is nearly isotropic: relative to the output it is alike in all directions (variance of the logarithms "
        "{x:.2f}).",
        "variance of the logarithms of the relative error spectrum, nats²",
    ),
    Rule(
        "representation", "rank_ratio", COLLAPSED,
        "The representation keeps its directions: its effective rank is {x:.2f} times that of full precision.",
        "The representation collapses to fewer directions: its effective rank is {x:.2f} times that of full precision.",
        "effective rank over that of full precision",
    ),
    Rule(
        "representation", "cosine_gain", ALIKE,
        "Tokens become more alike: their mean cosine is {x:.2f} above that of full precision.",
        "Tokens stay as different as they were: their mean cosine changes by {x:+.2f}.",
        "mean cosine between tokens minus that of full precision",
    ),
    Rule(
        "attention", "total_variation", ATTENTION,
        "Attention is disturbed: a query moves {x:.0%} of its attention to other tokens.",
        "Attention holds: a query moves {x:.0%} of its attention to other tokens.",
        "total variation of attention",
    ),
    Rule(
        "attention", "amp_refused", MAJORITY,
        "Attention matrix preservation acts by refusing: it held back {x:.0%} of the changes.",
        "Attention matrix preservation lets most changes pass: it held back {x:.0%} of them.",
        "share of changes held back",
    ),
    Rule(
        "selective alignment", "naive_wins", MAJORITY,
        "One layer at a time, naive output alignment beats weight alignment: it has the lower block loss in {x:.0%} of the "
        "layers.",
        "One layer at a time, weight alignment beats naive output alignment, which has the lower block loss in {x:.0%} of "
        "the layers only.",
        "share of layers with a lower block loss under naive output alignment",
    ),
)  # fmt: skip


def diagnose(facts: Mapping[str, float]) -> list[Finding]:
    """What the numbers of a run say, in the order of `RULES`; nothing is said of a number that is missing.

    Args:
        facts: As from `binllm.report.facts.facts`.
    """
    return [_finding(rule, facts[rule.fact]) for rule in RULES if rule.fact in facts]


def _finding(rule: Rule, value: float) -> Finding:
    sentence = (rule.above if value > rule.threshold else rule.below).format(x=value)
    return Finding(rule.topic, sentence, rule.quantity, value, rule.threshold)


@dataclass(frozen=True)
class Named:
    """A run in a comparison: label, perplexity, and the numbers of `diagnose`."""

    label: str
    perplexity: float
    facts: Mapping[str, float]


def compare(runs: Sequence[Named]) -> list[Finding]:
    """What two or more runs say together: which is best, and whether the one that drifts least is.

    Args:
        runs: Runs of one model, measured alike.
    """
    finite = sorted((run for run in runs if math.isfinite(run.perplexity)), key=lambda run: run.perplexity)
    if len(finite) < 2:
        return []
    best, second = finite[:2]
    ratio = second.perplexity / best.perplexity
    lowest, next_one = f"{best.perplexity:,.2f}", f"{second.perplexity:,.2f}"
    close = f"{best.label} and {second.label} are too near to call: perplexities {lowest} and {next_one}."
    clear = f"{best.label} has the lowest perplexity, {lowest}; {second.label} follows with {next_one}."
    found = [Finding("best run", clear if ratio > TIE else close, "second over best perplexity", ratio, TIE)]
    drifting = [run for run in finite if "drift" in run.facts]
    return found + (_drift(drifting) if len(drifting) > 1 else [])


def _drift(runs: Sequence[Named]) -> list[Finding]:
    """Runs by ascending perplexity, all with a drift."""
    best, least = runs[0], min(runs, key=lambda run: run.facts["drift"])
    ratio = best.facts["drift"] / least.facts["drift"] if least.facts["drift"] > 0 else math.inf
    agree = f"Least drift goes with the lowest perplexity: {best.label} ends with a drift of {best.facts['drift']:.2f}."
    differ = (
        f"Least drift does not go with the lowest perplexity: {least.label} drifts least ({least.facts['drift']:.2f}, "
        f"perplexity {least.perplexity:,.2f}), {best.label} has the lowest perplexity ({best.perplexity:,.2f}, drift "
        f"{best.facts['drift']:.2f})."
    )
    return [Finding("drift", differ if ratio > TIE else agree, "drift of the best run over the least", ratio, TIE)]
