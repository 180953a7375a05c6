"""How good a model is."""

from binllm.evaluation.config import EvaluationConfig
from binllm.evaluation.perplexity import Perplexity, evaluation_tokens, perplexity
from binllm.evaluation.zero_shot_config import SEVEN, TASKS, ZeroShotConfig

__all__ = ["SEVEN", "TASKS", "EvaluationConfig", "Perplexity", "ZeroShotConfig", "evaluation_tokens", "perplexity"]
