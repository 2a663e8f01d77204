"""What a user would pick instead, for the benchmark alone: each peer as tokens (B, T) to logits (B, T, V).

`nanogpt` is nanoGPT's recipe written afresh: a GPT-2 block with LayerNorm and biases off, learned positions, GELU, tied
head, scaled_dot_product_attention. The others are the packages' own models at the same sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """What all contestants share. context: tokens; batch: windows a step."""

    dim: int
    num_layers: int
    num_heads: int
    vocab_size: int
    context: int
    batch: int


class NanoBlock(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.num_heads = sizes.num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(sizes.dim, bias=False), nn.LayerNorm(sizes.dim, bias=False)
        self.qkv = nn.Linear(sizes.dim, 3 * sizes.dim, bias=False)
        self.out = nn.Linear(sizes.dim, sizes.dim, bias=False)
        self.up = nn.Linear(sizes.dim, 4 * sizes.dim, bias=False)
        self.down = nn.Linear(4 * sizes.dim, sizes.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class NanoGPT(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.tokens = nn.Embedding(sizes.vocab_size, sizes.dim)
        self.positions = nn.Embedding(sizes.context, sizes.dim)
        self.blocks = nn.ModuleList(NanoBlock(sizes) for _ in range(sizes.num_layers))
        self.norm = nn.LayerNorm(sizes.dim, bias=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def x_transformer(sizes: Sizes, **attention) -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    return TransformerWrapper(
        num_tokens=sizes.vocab_size,
        max_seq_len=sizes.context,
        use_abs_pos_emb=not attention.keys() & {"rotary_pos_emb", "alibi_pos_bias"},
        tie_embedding=True,
        attn_layers=Decoder(dim=sizes.dim, depth=sizes.num_layers, heads=sizes.num_heads, **attention),
    )


class Logits(nn.Module):
    """A transformers model whose output is the logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits


def gpt2(sizes: Sizes) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=sizes.vocab_size,
        n_positions=sizes.context,
        n_embd=sizes.dim,
        n_layer=sizes.num_layers,
        n_head=sizes.num_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return Logits(GPT2LMHeadModel(config))


def llama(sizes: Sizes) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.dim,
        intermediate_size=8 * sizes.dim // 3,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=True,
    )
    return Logits(LlamaForCausalLM(config))


PEERS: dict[str, Callable[[Sizes], nn.Module]] = {
    "nanogpt": NanoGPT,
    "x-transformers learned, sdpa": lambda sizes: x_transformer(sizes, attn_flash=True),
    "x-transformers rotary, sdpa": lambda sizes: x_transformer(sizes, attn_flash=True, rotary_pos_emb=True),
    "x-transformers rotary, manual": lambda sizes: x_transformer(sizes, rotary_pos_emb=True),
    "x-transformers alibi, manual": lambda sizes: x_transformer(sizes, alibi_pos_bias=True),
    "transformers gpt2": gpt2,
    "transformers llama": llama,
}
