"""What a sweep will do: its runs, what is there of each, what the rest costs. Nothing is run."""

from binllm.planning.command import plan

__all__ = ["plan"]
