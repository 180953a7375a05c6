"""Which texts a command line names, each with the split and the windows of the published protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from binllm.data import CORPORA
from binllm.data.corpora import LOCAL
from binllm.errors import bad_value
from binllm.evaluation.config import EvaluationConfig

# corpus: split, number of windows (None: all). C4's 256 windows are those of GPTQ's and BiLLM's code.
PUBLISHED: dict[str, tuple[str, int | None]] = {
    "wikitext2": ("test", None),
    "wikitext2_hub": ("test", None),
    "ptb": ("test", None),
    "c4": ("validation", 256),
    "c4_sample_a": ("train", None),
    "tinystories": ("heldout", None),
}


def texts_of(config: EvaluationConfig, names: Sequence[str]) -> list[EvaluationConfig]:
    """One configuration a text.

    Args:
        config: Gives windows, batch and BOS policy; a number of windows in it wins over the published one.
        names: ``corpus``, ``corpus/split`` or the path of a ``.txt`` or ``.jsonl`` file.

    Raises:
        BinllmError: Neither a corpus nor an existing file.
    """
    return [_text_of(config, name) for name in names]


def _text_of(config: EvaluationConfig, name: str) -> EvaluationConfig:
    corpus, _, split = name.partition("/")
    if corpus in PUBLISHED and not Path(name).is_file():
        usual, windows = PUBLISHED[corpus]
        if split and split not in CORPORA[corpus]:
            raise bad_value("--texts", name, [f"{corpus}/{one}" for one in CORPORA[corpus]])
        chosen, count = split or usual, config.windows or (windows if split in ("", usual) else None)
        return replace(config, corpus=corpus, split=chosen, path=None, windows=count)
    if not Path(name).expanduser().is_file():
        raise bad_value("--texts", name, [*PUBLISHED, "the path of an existing .txt or .jsonl file"])
    return replace(config, corpus=LOCAL, split="all", path=name)
