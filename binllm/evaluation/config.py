"""What is measured and on which text: the typed form of ``conf/evaluation/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass

from binllm.data.config import Bos, TextConfig
from binllm.errors import bad_value


@dataclass(frozen=True)
class EvaluationConfig(TextConfig):
    """Perplexity over windows of a text.

    Attributes:
        windows: Use the first so many windows; null means all whole windows of the text.
        window: Tokens of a window.
        stride: Tokens of text from one window's start to the next one's; null means no overlap.
        batch: Windows in one forward pass; the shape is the same in every pass.
    """

    corpus: str = "wikitext2"
    split: str = "test"
    windows: int | None = None
    window: int = 512
    stride: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            BinllmError: A number is too small, or the stride leaves gaps between windows.
        """
        for field, least in (("windows", 1), ("window", 2), ("stride", 1), ("batch", 1), ("documents", 1)):
            number = getattr(self, field)
            if number is not None and number < least:
                raise bad_value(f"evaluation.{field}", number, f"a number of at least {least}")
        longest = self.window - (self.bos is Bos.sequence)
        if self.stride is not None and self.stride > longest:
            raise bad_value("evaluation.stride", self.stride, f"at most {longest}, the text in one window")
