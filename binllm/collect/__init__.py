"""Run folders to tidy tables."""

from binllm.collect.command import collect

__all__ = ["collect"]
