"""``python -m binllm`` is the command ``binllm``; ``torchrun --nproc-per-node=2 -m binllm`` shares a run among processes."""

from binllm.cli import main

main()
