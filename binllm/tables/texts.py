"""Names of texts for people, from the definition of a perplexity; only the published splits get the published names."""

from __future__ import annotations

import re
from collections.abc import Mapping

PUBLISHED = {
    "c4/validation": "C4",
    "wikitext2/test": "WikiText-2",
    "wikitext2_hub/test": "WikiText-2",
    "ptb/test": "PTB",
}
COLUMNS = {"c4": "C4", "wikitext2": "WikiText-2", "ptb": "PTB"}  # the published tables' columns
VARIED = "(varied)"  # what stands for a value that an experiment varies
OWN = {"tinystories/heldout": "TinyStories, held out", "wikitext2/valid": "WikiText-2 valid"}


def text_of(definition: str) -> str:
    """The text that a perplexity was measured on.

    ``c4/validation/...`` is C4; ``c4_sample_a/train/...`` is another text than any published one and called C4 sample a,
    and so is a local file of that name.
    """
    corpus = definition.split("/window=")[0]
    sample = re.search(r"c4_(?:\w+_)?sample_([a-z])", corpus)
    if sample:
        return f"C4 sample {sample.group(1)}"
    local = re.match(r"text:(.*?)(?::[0-9a-f]{12})?(?:/|$)", corpus)
    if local:
        return f"file {local.group(1)}"
    return PUBLISHED.get(corpus) or OWN.get(corpus) or corpus


def windows_of(definition: str) -> str:
    """How the text was cut: ``20 windows of 512``."""
    found = dict(re.findall(r"/(windows|window|bos)=(\w+)", definition))
    count = found.get("windows", "all")
    return f"{count} windows of {found.get('window', '?')} tokens"


def protocol_of(settings: Mapping[str, str]) -> str:
    """The calibration in words."""
    corpus = f"{settings.get('dataset.corpus', '?')}/{settings.get('dataset.split', '?')}".replace(
        f"{VARIED}/{VARIED}", VARIED
    )
    return f"{settings.get('dataset.sequences', '?')} x {settings.get('dataset.length', '?')} tokens of {corpus}"
