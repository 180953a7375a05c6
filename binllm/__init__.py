"""binllm: 1-bit post-training quantization of large language models, from one configuration."""

__version__ = "0.1.0"
