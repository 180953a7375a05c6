"""The corpora by name: what they are, where they are read from, and how papers join their documents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from binllm.data import readers
from binllm.data.config import TextConfig
from binllm.errors import bad_value


@dataclass(frozen=True)
class Split:
    """One split of a corpus.

    Attributes:
        read: Gives the documents in order, from the field it is told.
        join: What stands between two documents.
        field: Field that holds the text.
        limit: Documents that are read when the user does not say; None means all.
    """

    read: Callable[[str, int | None], Iterator[str]]
    join: str
    field: str = "text"
    limit: int | None = None


@dataclass(frozen=True)
class Documents:
    """Text that was read: the documents, what joins them, and a label that says exactly what they are."""

    texts: list[str]
    join: str
    label: str


_C4 = "allenai/c4"
_WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1")
_PTB = ("ptb-text-only/ptb_text_only", "penn_treebank")


def _wikitext_hub(split: str) -> Split:
    return Split(partial(readers.hub, _WIKITEXT, split), "\n\n")


def _ptb(split: str) -> Split:
    return Split(partial(readers.hub, _PTB, split, revision="refs/convert/parquet"), " ", field="sentence")


def _c4(split: str, file: str, join: str, limit: int) -> Split:
    return Split(partial(readers.hub, (_C4,), split, data_files={split: file}), join, limit=limit)


CORPORA: dict[str, dict[str, Split]] = {
    "wikitext2": {
        "valid": Split(partial(readers.wikitext_rows, "wikitext2_raw_valid.txt.xz"), "\n\n"),
        "test": Split(partial(readers.wikitext_rows, "wikitext2_raw_test.txt.xz"), "\n\n"),
    },
    "c4_sample_a": {"train": Split(partial(readers.embedded_jsonl, "c4_sample_a.jsonl.xz"), "\n")},
    "tinystories": {
        "train": Split(partial(readers.stories, "tinystories_sample.txt.xz", False), "\n\n"),
        "heldout": Split(partial(readers.stories, "tinystories_sample.txt.xz", True), "\n\n"),
    },
    # the files, the join and the limit of the validation split are those of GPTQ's perplexity on C4
    "c4": {
        "train": _c4("train", "en/c4-train.00000-of-01024.json.gz", "\n", 10_000),
        "validation": _c4("validation", "en/c4-validation.00000-of-00008.json.gz", " ", 1_100),
    },
    "wikitext2_hub": {split: _wikitext_hub(split) for split in ("train", "validation", "test")},
    "ptb": {split: _ptb(split) for split in ("train", "validation", "test")},
}
LOCAL = "text"


def load_documents(config: TextConfig, key: str) -> Documents:
    """Read the documents of a corpus or of a local file.

    Args:
        config: Which text.
        key: Configuration group that it belongs to, to name in errors.

    Returns:
        The documents, at least one, in the order of the source.

    Raises:
        BinllmError: Unknown corpus or split; a file that is missing, empty, damaged or without the field; or
            a hub that cannot be reached.
    """
    is_local = config.corpus == LOCAL
    split, label = _local(config, key) if is_local else _known(config, key)
    limit = config.documents if config.documents is not None else split.limit
    texts = list(islice(split.read(config.field or split.field, limit), limit))
    if not any(text.strip() for text in texts):
        raise bad_value(f"{key}.{'path' if is_local else 'corpus'}", label, "a text that is not empty")
    if is_local:
        label += ":" + hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    if config.documents is not None:
        label += f"/documents={config.documents}"
    if config.join is not None and config.join != split.join:
        label += f"/join={config.join!r}"
    return Documents(texts, split.join if config.join is None else config.join, label)


def _local(config: TextConfig, key: str) -> tuple[Split, str]:
    if config.path is None:
        raise bad_value(f"{key}.path", None, f"a local file when {key}.corpus is {LOCAL}")
    path = Path(config.path).expanduser()
    return Split(partial(readers.local, path, key), "\n"), f"{LOCAL}:{path.name}"


def _known(config: TextConfig, key: str) -> tuple[Split, str]:
    if config.path is not None:
        raise bad_value(f"{key}.path", config.path, f"null unless {key}.corpus is {LOCAL}")
    splits = CORPORA.get(config.corpus)
    if splits is None:
        raise bad_value(f"{key}.corpus", config.corpus, [*CORPORA, LOCAL])
    if config.split not in splits:
        raise bad_value(f"{key}.split", config.split, splits)
    return splits[config.split], f"{config.corpus}/{config.split}"
