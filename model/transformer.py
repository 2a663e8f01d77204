"""A small pre-norm decoder-only transformer with a slot for the position encoding.

Embedding, blocks of (RMSNorm, causal attention, RMSNorm, MLP), RMSNorm, tied head. It owns the encoding and passes it
through `forward`, so that its parameters stand once in the state_dict. In the manner of GPT-2 (Radford et al. 2019),
with RMSNorm (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467) and no biases.

Shapes in names: B batch, T tokens, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.block import PLAIN, Block, BlockOptions, Past, require_softmax
from model.encodings import PositionEncoding
from model.kernels import embedding

RESIDUAL_STD = 0.02


class Transformer(nn.Module):
    """tokens (B, T) to logits (B, T, V).

    trained_length: the length it is trained for, tokens; the encoding's context, or more after a second stage.

    For one seed the backbone's initial weights are the same under every encoding, and with and without each option of
    the blocks: the encoding is built with a generator of its own (`build_encoding`) and draws nothing here.
    """

    def __init__(
        self,
        vocab_size: int,
        encoding: PositionEncoding,
        *,
        mlp: str = "gelu",
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        options: BlockOptions = PLAIN,
        seed: int = 0,
    ):
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size={vocab_size}: a language model needs at least 2 tokens")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout={dropout}: must lie in [0, 1)")
        shape = encoding.shape
        hidden = int(mlp_ratio * shape.dim)
        if hidden < 1:
            raise ValueError(f"model.mlp_ratio={mlp_ratio}: leaves the MLP no width at dim={shape.dim}")
        self.shape, self.trained_length = shape, shape.context
        self.dropout = dropout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 2)  # even; encodings draw from odd seeds
            self.embedding = nn.Embedding(vocab_size, shape.dim)
            self.blocks = nn.ModuleList(Block(shape, hidden, mlp, dropout) for _ in range(shape.num_layers))
            self.norm = nn.RMSNorm(shape.dim)
            self._initialise()
            for block in self.blocks:  # drawn last: all the rest starts as without
                block.take(options)
        if options.sink:
            require_softmax(encoding)
        self.encoding = encoding

    def _initialise(self) -> None:
        """Normal: embeddings and projections keep the size of what they read, with a deviation of fan-in^(−1/2), the
        embedding width^(−1/2); projections into the residual stream start small, at 0.02 / √(2 · layers) (GPT-2).

        GPT-2's 0.02 for all suits a width of 768. At 128, rope's loss after 400,000 tokens was 4.64 so, and 4.37 thus.
        """
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                small = name.endswith(("out.weight", "down.weight"))
                std = RESIDUAL_STD / (2 * self.shape.num_layers) ** 0.5 if small else weight.shape[1] ** -0.5
                nn.init.normal_(weight, std=std)

    def hidden(
        self,
        tokens_BT: Tensor,
        past: Past | None = None,
        encoding: PositionEncoding | None = None,
        width: int | None = None,
        last: int | None = None,
    ) -> Tensor:
        """The last norm's output (B, T, D); with `past`, of the new tokens alone.

        encoding: takes the place of the model's own for this call (a length extension). Raises ValueError past its
        max_length. width: attention stays within blocks of so many tokens (see `attention`).
        last: only the last so many rows are wanted, without `past` and `width`: the last block computes no others.
        """
        encoding = encoding or self.encoding
        new = tokens_BT.shape[1]
        if past is not None:
            if not encoding.prefix_consistent:
                name = type(encoding).__name__
                raise ValueError(f"{name} can't decode token by token: its early rows change with the length")
            if past.tokens_BT is not None:
                tokens_BT = torch.cat([past.tokens_BT, tokens_BT], dim=1)
            past.tokens_BT = tokens_BT
        encoding.check_length(tokens_BT.shape[1])
        positions = encoding.positions(tokens_BT)
        x_BTD = encoding.embed(embedding(tokens_BT, self.embedding.weight), positions)[:, -new:]
        if self.dropout:
            x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            wanted = last if layer == len(self.blocks) - 1 else None
            x_BTD = block(x_BTD, encoding, positions, layer, past, width, last=wanted)
        return self.norm(x_BTD)

    def forward(
        self,
        tokens_BT: Tensor,
        past: Past | None = None,
        encoding: PositionEncoding | None = None,
        width: int | None = None,
    ) -> Tensor:
        """Logits of the next token at every position: (B, T, V); see `hidden`."""
        return F.linear(self.hidden(tokens_BT, past, encoding, width), self.embedding.weight)

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can replay a pass: as its encoding, with all that it holds, claims."""
        return all(part.capturable for part in self.encoding.modules() if isinstance(part, PositionEncoding))

    @property
    def sees(self) -> list[int | None]:
        """How many keys a row sees in each layer, itself included; None: all before it."""
        return [self.encoding.at(layer).sees for layer in range(self.shape.num_layers)]

    @property
    def shifts(self) -> int:
        """How many tokens back a token shift looks, in each layer; 0 without one."""
        return getattr(self.blocks[0].shift, "before", 0)

    def count_parameters(self) -> dict[str, int]:
        """Parameters: `total`, `embedding` (the tied table), `encoding` (the slot's own), `backbone` (the rest)."""
        total = sum(p.numel() for p in self.parameters())
        embedding = self.embedding.weight.numel()
        encoding = sum(p.numel() for p in self.encoding.parameters())
        return {
            "total": total,
            "embedding": embedding,
            "encoding": encoding,
            "backbone": total - embedding - encoding,
        }
