"""llama.cpp itself, as built into the wheel ``xllamacpp``: next-token probabilities and decoding speed of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from torch import Tensor

from binllm.errors import BinllmError


class Engine:
    """A loaded GGUF file on CPU.

    Attributes:
        vocabulary: Tokens.
    """

    def __init__(self, file: Path, vocabulary: int, threads: int = 1, context: int = 512):
        """Load a file; the optional extra ``llamacpp`` must be installed."""
        engine: Any = import_module("xllamacpp")
        self.vocabulary = vocabulary
        params: Any = engine.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.warmup = context, 1, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers, params.verbosity = 0, 0
        self._server = engine.Server(params)

    def log_probabilities(self, ids: Sequence[int]) -> Tensor:
        """Teacher-forced: log-probabilities (tokens, vocabulary) of what follows each prefix of ids."""
        return torch.stack([self._next(ids[: end + 1]) for end in range(len(ids))])

    def _next(self, prefix: Sequence[int]) -> Tensor:
        # Half a character is not answered, nor is an end; the bias is on what is drawn and not on the probabilities.
        forced = {"logit_bias": [["a", 1000]], "temperature": 0}
        answer = self._complete(prompt=list(prefix), max_tokens=1, n_probs=self.vocabulary, **forced)
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        result = torch.full((self.vocabulary,), float("-inf"))
        result[torch.tensor([one["id"] for one in found])] = torch.tensor([one["logprob"] for one in found])
        return result

    def tokens_per_second(self, ids: Sequence[int], tokens: int) -> float:
        """Speed of decoding that many tokens after a prompt, as the engine times it, the prompt left out."""
        answer = self._complete(prompt=list(ids), max_tokens=tokens, temperature=0, ignore_eos=True)
        return answer["timings"]["predicted_per_second"]

    def tokenize(self, text: str) -> list[int]:
        """A text in the file's own tokens, without special ones."""
        body = json.dumps({"content": text, "add_special": False}).encode()
        with urlopen(Request(f"{self._server.listening_address}/tokenize", body)) as answer:
            return json.load(answer)["tokens"]

    def text(self, prompt: str, tokens: int) -> str:
        """The most probable continuation."""
        return self._complete(prompt=prompt, max_tokens=tokens, temperature=0)["choices"][0]["text"]

    def _complete(self, **request: Any) -> dict[str, Any]:
        answer = self._server.handle_completions(request)
        if "choices" not in answer:
            raise BinllmError(f"llama.cpp: {json.dumps(answer)}")
        return answer


def agreement(logits: Tensor, log_probabilities: Tensor) -> tuple[float, float]:
    """How well the engine agrees with torch, both (tokens, vocabulary).

    Returns:
        Median absolute error of the centred logits over their standard deviation, the spread; and the share of positions
        with the same top token.
    """
    wanted, found = (t.double() - t.double().mean(1, keepdim=True) for t in (logits, log_probabilities))
    error = (wanted - found).abs().median() / wanted.std()
    return float(error), float((wanted.argmax(1) == found.argmax(1)).double().mean())
