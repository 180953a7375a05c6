"""The sizes of a decoder, and larger ones that are multiples of 128 and compute the same function.

Zero-padding an RMSNorm model is exact. With width d' > d, the new channels of the residual stream stay zero: their columns
of the embedding are zero and so are their rows of `o` and `down`. The mean square over d' channels is d/d' of that over d:

    x / sqrt(mean_d x² + eps) * w  =  x / sqrt(mean_d' x² + (d/d') eps) * sqrt(d/d') w.

New key/value groups have zero rows in q, k and v, so their heads give zeros to `o`; new rows of gate and up are zero, and
silu(0) * 0 = 0 reaches `down`. Everything is appended behind the old, so blocks of 128 columns stay blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from binllm.llamacpp.matrix import BLOCK


@dataclass(frozen=True)
class Geometry:
    """Sizes of a decoder with grouped-query attention and a gated feed-forward part.

    Attributes:
        hidden: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key/value heads.
        head: Width of a head.
        intermediate: Width of the feed-forward part.
    """

    hidden: int
    heads: int
    kv_heads: int
    head: int
    intermediate: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Geometry:
        """The sizes in a LLaMA-like configuration."""
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(config.hidden_size, heads, config.num_key_value_heads, head, config.intermediate_size)

    def padded(self) -> Geometry:
        """The smallest sizes that are not smaller and give every linear layer a multiple of 128 inputs."""
        group, kv_heads = self.heads // self.kv_heads, self.kv_heads
        while kv_heads * group * self.head % BLOCK:
            kv_heads += 1
        return replace(
            self,
            hidden=_up(self.hidden),
            heads=kv_heads * group,
            kv_heads=kv_heads,
            intermediate=_up(self.intermediate),
        )

    def shape(self, piece: str) -> tuple[int, int]:
        """(n_out, n_in) of a block's matrix: q, k, v, o, gate, up or down."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        return {
            "q": (q, self.hidden),
            "k": (kv, self.hidden),
            "v": (kv, self.hidden),
            "o": (self.hidden, q),
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }[piece]


def _up(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
