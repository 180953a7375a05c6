"""What text is and how it becomes tokens: the typed form of ``conf/dataset/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from binllm.errors import bad_value


class Bos(Enum):
    """Where the beginning-of-sequence token stands.

    none: nowhere. document: before every document; the documents are then tokenised one by one, not joined.
    sequence: at the start of every sequence, as its first token; the sequence keeps its length.
    """

    none = "none"
    document = "document"
    sequence = "sequence"


@dataclass(frozen=True)
class TextConfig:
    """Which text, and how its documents become one string of tokens.

    Attributes:
        name: Short name of the configuration.
        corpus: A corpus of `binllm.data.CORPORA`, or ``text`` for the local file `path`.
        split: Split of the corpus; not looked at for a local file.
        path: Local ``.txt`` (one document) or ``.jsonl`` file (one a line), ``.gz`` or ``.xz`` may follow.
        field: Field that holds the text; null means the corpus's own, for local files ``text``.
        documents: Read at most this many documents; null means the split's own limit, mostly none.
        join: What stands between two documents; null means the corpus's own convention.
        bos: Where the beginning-of-sequence token stands.
    """

    name: str = MISSING
    corpus: str = MISSING
    split: str = MISSING
    path: str | None = None
    field: str | None = None
    documents: int | None = None
    join: str | None = None
    bos: Bos = Bos.none


@dataclass(frozen=True)
class DatasetConfig(TextConfig):
    """Calibration text, and the text that its runs are evaluated on unless told otherwise.

    Attributes:
        sequences: Number of calibration sequences.
        length: Tokens of one sequence.
        evaluation_corpus: As `corpus`, for evaluation.
        evaluation_split: As `split`, for evaluation.
        evaluation_bos: As `bos`, for evaluation.
    """

    corpus: str = "c4_sample_a"
    split: str = "train"
    sequences: int = 16
    length: int = 512
    evaluation_corpus: str = "wikitext2"
    evaluation_split: str = "test"
    evaluation_bos: Bos = Bos.none

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            BinllmError: A count is below 1, or a sequence is shorter than 2 tokens.
        """
        for field, least in (("sequences", 1), ("length", 2), ("documents", 1)):
            number = getattr(self, field)
            if number is not None and number < least:
                raise bad_value(f"dataset.{field}", number, f"a number of at least {least}")
