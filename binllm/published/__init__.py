"""Figures that papers print, as they print them: never measured here, and never mixed with what is."""

from binllm.published.load import AblationFigure, AccuracyFigure, PerplexityFigure, ablations, accuracies, perplexities

__all__ = ["AblationFigure", "AccuracyFigure", "PerplexityFigure", "ablations", "accuracies", "perplexities"]
