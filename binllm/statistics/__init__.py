"""What a layer's inputs look like: second moments of the two streams."""

from binllm.statistics.moments import Moments, Statistics, TokenWeights

__all__ = ["Moments", "Statistics", "TokenWeights"]
