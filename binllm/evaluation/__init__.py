"""How good a model is."""

from binllm.evaluation.config import EvaluationConfig
from binllm.evaluation.perplexity import Perplexity, evaluation_tokens, perplexity

__all__ = ["EvaluationConfig", "Perplexity", "evaluation_tokens", "perplexity"]
