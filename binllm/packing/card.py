"""The model card of a checkpoint, README.md: what it is made of, how, what it costs, how good it is, and a warning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from binllm.packing.accounting import BitsAccount, checkpoint_bits
from binllm.packing.headers import CARD_FILE
from binllm.tracking.atomic import write_text

HUB_IDS = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Hub ids of the base models of presets that take their weights from elsewhere."""

WARNING = """\
> **Quality.** At one sign bit per weight a model loses much of what it knew: it may be wrong, incoherent or biased in
> ways that its base model is not. Measure it on your own task before you use it for anything. Nothing about its safety
> has been evaluated, and whatever holds for the base model (licence, intended use, limits) holds here too."""

USE = """```python
import binllm  # registers the format with transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
```"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Perplexity before and after.

    Attributes:
        definition: Which text, windows and convention.
        full_precision: Of the base model.
        quantized: Of the checkpoint, loaded again.
    """

    definition: str
    full_precision: float
    quantized: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says besides what the files say; None is left out.

    Attributes:
        base_model: Hub id or name of the model that was quantized.
        command: That made the checkpoint.
        measured: Its quality.
    """

    base_model: str | None = None
    command: str | None = None
    measured: Measured | None = None


def write_card(folder: Path, card: Card) -> None:
    """Write the card of a complete checkpoint, whole or not at all.

    Args:
        folder: The checkpoint.
        card: What its files do not say.

    Raises:
        OSError: It cannot be written.
    """
    write_text(folder / CARD_FILE, card_text(card, checkpoint_bits(folder)))


def card_text(card: Card, bits: BitsAccount) -> str:
    """The card in Markdown, equal for equal input."""
    base = card.base_model and HUB_IDS.get(card.base_model, card.base_model)
    front = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [binllm, 1-bit, quantized]"]
    front += [f"base_model: {base}", "base_model_relation: quantized"] if base else []
    title = f"{base}, quantized to 1 bit" if base else "A language model quantized to 1 bit"
    made = f"\nMade by `{card.command}`.\n" if card.command else ""
    quality = [_quality(card.measured)] if card.measured else ["Not measured."]
    parts = [
        "---",
        *front,
        "---",
        "",
        f"# {title}",
        made,
        WARNING,
        "",
        "## Use",
        "",
        USE,
        "",
        "## Size",
        "",
        _size(bits),
    ]
    return "\n".join([*parts, "", "## Quality", "", *quality, ""])


def _size(bits: BitsAccount) -> str:
    rows = (
        ("sign planes and levels (payload)", bits.payload, "quantized weight", bits.payload_bytes),
        ("linear layers, with all scales, masks and indices", bits.linear, "quantized weight", bits.linear_bytes),
        ("whole model, with embeddings and norms", bits.model, "parameter", bits.model_bytes),
    )
    lines = [f"| {what} | {number:.3f} per {unit} | {size:,} |" for what, number, unit, size in rows]
    counted = f"{bits.quantized_weights:,} of {bits.parameters:,} parameters are quantized"
    tail = f"{counted}; the literature would print {bits.nominal:.3f} bits (signs alone)."
    return "\n".join(["| what | bits | bytes |", "| --- | ---: | ---: |", *lines, "", tail])


def _quality(measured: Measured) -> str:
    return "\n".join(
        [
            "| | perplexity |",
            "| --- | ---: |",
            f"| full precision | {measured.full_precision:,.2f} |",
            f"| this model | {measured.quantized:,.2f} |",
            "",
            f"Definition: `{measured.definition}`.",
        ]
    )
