"""Text: corpora, token streams, calibration sequences."""

from binllm.data.calibration import CalibrationTokens, calibration_tokens
from binllm.data.config import Bos, DatasetConfig, TextConfig
from binllm.data.corpora import CORPORA, Documents, load_documents
from binllm.data.tokens import TokenStream, token_stream

__all__ = [
    "CORPORA",
    "Bos",
    "CalibrationTokens",
    "DatasetConfig",
    "Documents",
    "TextConfig",
    "TokenStream",
    "calibration_tokens",
    "load_documents",
    "token_stream",
]
