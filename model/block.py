"""A block of the transformer: causal attention and an MLP, each behind a norm, and what models in use change of it.

The options of `BlockOptions` are off by default, and off they change no bit. They are no position encodings, but change
what one does, and so stand beside the slot: each crosses with every encoding.

Shapes in names: B batch, T tokens, D width, H heads, K head width, E = 3 · D (q, k and v side by side).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import attention
from model.encodings import PositionEncoding, Shape, at_least_float32
from model.kernels import gelu

CANON_TOKENS = 4  # of Canon's convolution: a token and the three before it


@dataclass(frozen=True)
class BlockOptions:
    """qk_norm: RMSNorm of each head's q and k, with one learned scale a coordinate, before they are rotated (Henry et
        al. 2020, https://arxiv.org/abs/2010.04245; in this form Qwen 3 and Gemma 3).
    sink: a learned score a head that joins the softmax's denominator, so that a row may attend to nothing; it starts at
        zero (gpt-oss; Miller 2023's "off by one" is one fixed at zero).
    output_gate: what attention puts out times σ(W x), of the block's normalised input x: one gate a "head", or one an
        "element" (Qiu et al. 2025, "Gated Attention", https://arxiv.org/abs/2505.06708).
    token_shift: "kv" mixes each k and v with that of the token before, α · before + (1 − α) · own, with α = σ(w · x) a
        head, of k and of v (Lin et al. 2025, FoX, https://arxiv.org/abs/2503.02130; GRAPE,
        https://arxiv.org/abs/2512.07805); "canon" adds a causal convolution of four tokens, a channel each, to q, k and
        v (Allen-Zhu 2025, Canon-B, "Physics of Language Models: Part 4.1"). Both tell a token where it stands among
        its neighbours: with them NoPE is not without positions.
    Raises ValueError for another kind.
    """

    qk_norm: bool = False
    sink: bool = False
    output_gate: str | None = None
    token_shift: str | None = None

    GATES = ("head", "element")
    SHIFTS = ("kv", "canon")

    def __post_init__(self):
        for name, kinds in {"output_gate": self.GATES, "token_shift": self.SHIFTS}.items():
            if (value := getattr(self, name)) not in (None, *kinds):
                raise ValueError(f"model.{name}={value!r}: must be {' or '.join(kinds)}, or null")


PLAIN = BlockOptions()


class MLP(nn.Module):
    """Position-wise feed-forward layer: "gelu", "relu2" (squared ReLU, Primer) or "swiglu" (Shazeer 2020)."""

    KINDS = ("gelu", "relu2", "swiglu")

    def __init__(self, dim: int, hidden: int, kind: str):
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"model.mlp={kind!r}: must be one of {', '.join(self.KINDS)}")
        self.kind = kind
        self.up = nn.Linear(dim, hidden * (2 if kind == "swiglu" else 1), bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        up = self.up(x_BTD)
        if self.kind == "gelu":
            return self.down(gelu(up))
        if self.kind == "relu2":
            return self.down(F.relu(up).square())
        gate, up = up.chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class HeadNorm(nn.RMSNorm):
    """RMSNorm of each head's q or k, (..., K) to as much, computed in float32 at least whatever they are held in."""

    def forward(self, x: Tensor) -> Tensor:
        weight = at_least_float32(self.weight)
        return F.rms_norm(at_least_float32(x), self.normalized_shape, weight, self.eps).to(x.dtype)


class KVShift(nn.Module):
    """(B, T, E) to as much: k and v of a token mixed with those of the token before, by head; none is before the first.

    before: how many tokens back it looks.
    """

    before = 1

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.share = nn.Linear(dim, 2 * num_heads, bias=False)
        nn.init.normal_(self.share.weight, std=dim**-0.5)

    def forward(self, qkv_BTE: Tensor, x_BTD: Tensor) -> Tensor:
        q_BTD, kv_BTF = qkv_BTE.split([x_BTD.shape[-1], 2 * x_BTD.shape[-1]], dim=-1)
        kv_BTGK = kv_BTF.unflatten(-1, (2 * self.num_heads, -1))  # the heads of k, then those of v
        before_BTGK = F.pad(kv_BTGK, (0, 0, 0, 0, 1, -1))
        share_BTG1 = torch.sigmoid(self.share(x_BTD))[..., None].to(kv_BTGK.dtype)
        return torch.cat([q_BTD, torch.lerp(kv_BTGK, before_BTGK, share_BTG1).flatten(-2)], dim=-1)


class Canon(nn.Module):
    """(B, T, E) to as much: to each channel a sum is added, with learned weights, of its own last four values.

    before: how many tokens back it looks.
    """

    before = CANON_TOKENS - 1

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * dim, 1, CANON_TOKENS))
        nn.init.uniform_(self.weight, -(CANON_TOKENS**-0.5), CANON_TOKENS**-0.5)

    def forward(self, qkv_BTE: Tensor, x_BTD: Tensor) -> Tensor:
        padded_BET = F.pad(qkv_BTE.mT, (self.before, 0))
        return qkv_BTE + F.conv1d(padded_BET, self.weight, groups=len(self.weight)).mT


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, shape: Shape, hidden: int, mlp: str, dropout: float):
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = shape.num_heads, shape.head_dim, dropout
        self.attention_norm = nn.RMSNorm(shape.dim)
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim, bias=False)
        self.out = nn.Linear(shape.dim, shape.dim, bias=False)
        self.mlp_norm = nn.RMSNorm(shape.dim)
        self.mlp = MLP(shape.dim, hidden, mlp)
        self.q_norm = self.k_norm = self.gate = self.shift = None
        self.register_parameter("sink", None)

    def take(self, options: BlockOptions) -> None:
        """Gives the block what the options ask for, with initial weights of its own."""
        dim, heads = self.num_heads * self.head_dim, self.num_heads
        if options.qk_norm:
            self.q_norm, self.k_norm = HeadNorm(self.head_dim), HeadNorm(self.head_dim)
        if options.sink:
            self.sink = nn.Parameter(torch.zeros(heads))
        if options.output_gate:
            self.gate = nn.Linear(dim, heads if options.output_gate == "head" else dim, bias=False)
            nn.init.normal_(self.gate.weight, std=dim**-0.5)
        if options.token_shift:
            self.shift = KVShift(dim, heads) if options.token_shift == "kv" else Canon(dim)

    def forward(self, x_BTD: Tensor, *where, last: int | None = None) -> Tensor:
        """(B, T, D) to as much, or to the last so many rows alone. where: as `attend` takes it after its input."""
        h_BTD = self.attend(self.attention_norm(x_BTD), *where, last=last)
        x_BTD = x_BTD[:, -(last or 0) :] + self._drop(h_BTD)
        return x_BTD + self._drop(self.mlp(self.mlp_norm(x_BTD)))

    def attend(
        self,
        h_BTD: Tensor,
        encoding: PositionEncoding,
        positions: Tensor,
        layer: int,
        past: Past | None = None,
        width: int | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Attention of the normalised input (B, T, D), projections and all: as much, or the last so many rows."""
        gate_BTG = None if self.gate is None else torch.sigmoid(self.gate(h_BTD[:, -(last or 0) :]))
        q, k, v = self._projected(h_BTD, layer, past, width)
        if past is not None:
            last = h_BTD.shape[1]
            q, k, v, h_BTD = past.append(layer, q, k, v, h_BTD)
        a_BHTK = attention(q, k, v, encoding, positions, h_BTD, layer, queries=last, width=width, sink=self.sink)
        if gate_BTG is not None:  # one a head, or one a coordinate
            a_BHTK = a_BHTK * gate_BTG.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).to(a_BHTK.dtype)
        return self.out(a_BHTK.transpose(1, 2).flatten(-2))

    def _projected(self, h_BTD: Tensor, layer: int, past: Past | None, width: int | None) -> tuple[Tensor, ...]:
        """q, k and v of the input's rows, (B, H, T, K) each, before they are rotated."""
        if self.shift is None:
            qkv_BTE = self.qkv(h_BTD)
        elif width is not None:  # a block of text is shifted by itself, as it is attended
            blocks = h_BTD.split(width, dim=1)
            qkv_BTE = torch.cat([self.shift(self.qkv(block), block) for block in blocks], dim=1)
        else:
            seen_BSD = h_BTD if past is None else past.before(layer, self.shift.before, h_BTD)
            qkv_BTE = self.shift(self.qkv(seen_BSD), seen_BSD)[:, -h_BTD.shape[1] :]
        parts = qkv_BTE.chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for t in parts)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return F.dropout(x_BTD, self.dropout, self.training) if self.dropout else x_BTD


@dataclass
class Past:
    """What decoding keeps of the tokens before: their ids, and each layer's q, k, v (before `rotate`) and input.

    Turned keys are not kept: any encoding decodes that is `prefix_consistent`, also those that look at the content.
    """

    tokens_BT: Tensor | None = None
    layers: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def append(self, layer: int, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """All q, k, v (B, H, T, K) and inputs (B, T, D) of this layer so far, the new ones last."""
        new = (q, k, v, x)
        if layer in self.layers:
            new = tuple(torch.cat(pair, dim=-2) for pair in zip(self.layers[layer], new, strict=True))
        self.layers[layer] = new
        return new

    def before(self, layer: int, tokens: int, x_BTD: Tensor) -> Tensor:
        """This layer's new inputs, with those of so many tokens before them in front, or of as many as there are."""
        return torch.cat([self.layers[layer][-1][:, -tokens:], x_BTD], dim=1) if layer in self.layers else x_BTD


def require_softmax(encoding: PositionEncoding) -> None:
    """Raises ValueError where an encoding's weights are not the softmax of its scores: a sink has no denominator to
    join."""
    H, T = encoding.shape.num_heads, 3
    scores = torch.arange(H * T * T, dtype=torch.float32).view(1, H, T, T).sin()
    rows = torch.arange(T)
    visible = rows <= rows[:, None]
    wanted = PositionEncoding.weigh(encoding, scores, visible, rows, 0)
    for layer in range(encoding.shape.num_layers):
        if encoding.at(layer).rescores and not torch.allclose(encoding.weigh(scores, visible, rows, layer), wanted):
            name = type(encoding.at(layer)).__name__
            raise ValueError(f"model.sink=true: {name} weighs without a softmax, which a sink could join: leave it out")
