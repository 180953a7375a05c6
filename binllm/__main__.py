"""``python -m binllm`` is the command ``binllm``; ``torchrun --nproc-per-node=2 -m binllm`` shares a run among processes."""

from binllm.cli import main

if __name__ == "__main__":  # a worker process imports this file again, under another name
    main()
