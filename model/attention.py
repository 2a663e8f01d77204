"""Causal attention and its executors; the only caller of the slot's rotate, rescore, score_mod, weigh and unrotate.

One `score_mod` serves every executor:
- `dense`: all T × T scores at once; the reference (float64 in the tests), and the fastest in bf16 on CPU at short T.
- `blocked`: the same by blocks of query rows; memory linear in T.
- `fused`: the fused causal kernel (scaled_dot_product_attention), where scores are not changed.
- `hankel`: the fused kernel with a bias of the distance alone: one table a head, seen through an overlapping strided
  view as the whole T × T mask, without its memory. For forward passes.
- `folded`: the fused kernel with a bias u(i) − u(j) in columns of q and k: no tensor of T × T, any kernel's speed.
- `flex`: FlexAttention, compiled, on CUDA.
`choose` picks by what the encoding needs, the device, the dtype and the length.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.encodings import PositionEncoding, ScoreMod, at_least_float32
from model.kernels import materialise

EXECUTORS = ("dense", "blocked", "fused", "hankel", "folded", "flex")
SINKS = ("dense", "blocked", "fused", "flex")  # those that know what a softmax's denominator is, or can add a key
BLOCK_SCORES = 1 << 24  # scores held at once by `blocked`: rows a block = BLOCK_SCORES / (B · H · T); on GPUs 4 times
FLEX_WIDTH = 16  # FlexAttention's narrowest head
# More scores than these, and compiling FlexAttention (seconds) is worth while: estimates, no measurement.
FLEX_TRAINING, FLEX_SCORING = 1 << 24, 1 << 30
FLEX_BLOCK = 128  # its blocks, rows and keys
# Its forward pass where a table is looked up, a block of which lies in shared memory, too.
FLEX_LOOKUP = {"fwd_BLOCK_M": 64, "fwd_BLOCK_N": 64, "fwd_num_stages": 2}
HANKEL_ROWS = 1024  # queries a block of `hankel`
BAND_ROWS, BAND_HANKEL_ROWS = 32, 128  # queries a block at least, where rows see a band of keys
FOLDED_LENGTH = 8192  # tokens up to which a bias beside q·k leaves the scores exact to about 1e-3
ALIGNED = 8  # fused kernels want widths that are multiples of it


def attention(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTK: Tensor,
    encoding: PositionEncoding,
    positions: Tensor,
    x_BTD: Tensor,
    layer: int,
    *,
    queries: int | None = None,
    executor: str | None = None,
    width: int | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """Causal attention with position encoding: (B, H, T, K), before the output projection.

    queries: only the last so many rows are wanted (decoding); (B, H, queries, K) comes back.
    executor: one of EXECUTORS, or None to choose. Raises ValueError for one that can't run this encoding.
    width: rows see keys of their own block of so many tokens alone, at the positions that those have in the whole. A
    block is attended by itself: what an encoding sums over the text, or counts, it sums and counts over the block.
    sink: by head (H,), a score that joins the softmax's denominator, as if of a key whose value is zero.
    """
    T = q_BHTK.shape[2]
    if width is not None and width < T:
        if queries is not None:
            raise ValueError(f"queries={queries}: decoding sees all that lies before; leave width={width} out")
        axis, content = min(positions.ndim - 1, 1), (q_BHTK, k_BHTK, v_BHTK)
        blocks = []
        for first in range(0, T, width):
            last = min(first + width, T)
            own = [t[:, :, first:last] for t in content]
            placed = positions.narrow(axis, first, last - first)
            settings = {"executor": executor, "sink": sink}
            blocks.append(attention(*own, encoding, placed, x_BTD[:, first:last], layer, **settings))
        return torch.cat(blocks, dim=2)
    scale, claims = q_BHTK.shape[-1] ** -0.5, encoding.at(layer)
    q_BHTK, k_BHTK, v_BHTK = encoding.rotate(q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer)
    mod = encoding.score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer)
    first = 0 if queries is None else q_BHTK.shape[2] - queries
    executor = executor or choose(claims, mod, q_BHTK, first, sink is not None)
    if not torch.compiler.is_compiling() and (used := _recorder.get()) is not None:
        used.add(executor)
    if executor not in EXECUTORS:
        raise ValueError(f"executor={executor!r}: must be one of {', '.join(EXECUTORS)}")
    if executor in ("dense", "blocked"):
        given = (q_BHTK, k_BHTK, v_BHTK, mod, claims, scale, sink)
        if _skips(claims, T):
            rows = functools.partial(_band_rows, *given)
        else:
            rows = functools.partial(_rows, *given, encoding, positions, x_BTD, layer)
        # rows(first, last): those rows of the output
        out_BHTK = rows(first, T) if executor == "dense" else _blocked(rows, v_BHTK, first, _keys(claims, T))
    else:
        _require_whole_rows_unused(claims, executor, first)
        if sink is not None and executor not in SINKS:
            raise ValueError(f"executor={executor!r} can't be used: its kernel has no place for a sink; use dense")
        out_BHTK = _KERNELS[executor](q_BHTK, k_BHTK, v_BHTK, mod, claims, scale, sink)
    if first:
        positions, x_BTD = positions.narrow(min(positions.ndim - 1, 1), first, queries), x_BTD[:, first:]
    return encoding.unrotate(out_BHTK, positions, x_BTD, layer)


_recorder: ContextVar[set[str] | None] = ContextVar("recorder", default=None)


@contextmanager
def record_executors() -> Iterator[set[str]]:
    """Collects the names of the executors that attention uses inside the block."""
    used: set[str] = set()
    token = _recorder.set(used)
    try:
        yield used
    finally:
        _recorder.reset(token)


def choose(encoding: PositionEncoding, mod: ScoreMod | None, q_BHTK: Tensor, first: int = 0, sink: bool = False) -> str:
    """The executor for this encoding, device, dtype and length: on the CPU by measurement (docs/speed.md)."""
    B, H, T, _ = q_BHTK.shape
    scores = B * H * T * _keys(encoding, T)
    small, training = _block_scores(q_BHTK) >= scores, torch.is_grad_enabled()
    if encoding.rescores or first:
        return "dense" if small else "blocked"
    if q_BHTK.is_cuda:
        if mod is None:
            return "fused"
        wide = min(q_BHTK.shape[-1], encoding.shape.head_dim) >= FLEX_WIDTH
        if wide and scores > (FLEX_TRAINING if training else FLEX_SCORING):
            folds = training and encoding.separable_bias and T <= FOLDED_LENGTH and not sink
            return "folded" if folds else "flex"
        return "dense" if small else "blocked"
    if mod is None:  # the fused kernel's backward in bf16 is slow on CPU at short lengths
        return "dense" if training and q_BHTK.dtype == torch.bfloat16 and T <= 512 else "fused"
    if encoding.distance_bias and not (training or sink) and T >= 256 and not _skips(encoding, T):
        return "hankel"
    return "dense" if small else "blocked"


def _skips(encoding: PositionEncoding, length: int) -> bool:
    """Whether what lies outside of a window is left out: from four windows on, where it saves time (docs/speed.md)."""
    return encoding.band is not None and not encoding.rescores and length >= 4 * encoding.band


def _keys(encoding: PositionEncoding, length: int) -> int:
    """Keys that a row is scored with."""
    return min(length, encoding.band + max(encoding.band, BAND_ROWS)) if _skips(encoding, length) else length


def _require_whole_rows_unused(encoding: PositionEncoding, executor: str, first: int) -> None:
    if encoding.rescores or first:
        why = f"{type(encoding).__name__} needs whole rows of scores" if encoding.rescores else "decoding is by rows"
        raise ValueError(f"executor={executor!r} can't be used: {why}; use dense or blocked")


def _rows(
    q_BHTK, k_BHTK, v_BHTK, mod, claims, scale, sink, encoding, positions, x_BTD, layer, first: int, last: int
) -> Tensor:
    """Rows first..last−1 of the attention's output, with their scores written out: (B, H, last − first, K)."""
    T = k_BHTK.shape[2]
    rows_Q = torch.arange(first, last, device=q_BHTK.device)
    columns_T = torch.arange(T, device=q_BHTK.device)
    visible_QT = columns_T <= rows_Q[:, None]
    with torch.autocast(q_BHTK.device.type, enabled=False):
        scores_BHQT = (q_BHTK[:, :, first:last] * scale) @ k_BHTK.transpose(-1, -2)
        if not claims.rescores and (mod is None or claims.distance_bias):
            # The mask as a sum, the bias in the same sum: 1.4 times as fast in bf16 on CPU as filling it in.
            line = _bias_line(mod, claims, T, scores_BHQT)[..., T - last : 2 * T - 1 - first]
            bias = materialise(line.unfold(-1, T, 1).flip(-2))  # (Q, T) or (H, Q, T)
            scores_BHQT = scores_BHQT + bias
            weights_BHQT = torch.softmax(scores_BHQT, dim=-1)
        else:
            if claims.rescores:
                content = (q_BHTK, k_BHTK, positions, x_BTD, layer)
                scores_BHQT = encoding.rescore(scores_BHQT, visible_QT, rows_Q, *content)
            if mod is not None:
                b = torch.arange(q_BHTK.shape[0], device=q_BHTK.device)[:, None, None, None]
                h = torch.arange(q_BHTK.shape[1], device=q_BHTK.device)[:, None, None]
                scores_BHQT = mod(scores_BHQT, b, h, rows_Q[:, None], columns_T)
            weights_BHQT = encoding.weigh(scores_BHQT, visible_QT, rows_Q, layer)
        out_BHQK = weights_BHQT.to(v_BHTK.dtype) @ v_BHTK
        return out_BHQK if sink is None else _beside(sink, out_BHQK, _log_sum(scores_BHQT, weights_BHQT))


def _beside(sink_H: Tensor, out_BHQK: Tensor, log_sum_BHQ: Tensor) -> Tensor:
    """Attention's output with the sink in the softmax's denominator, of which the logarithm without it is given."""
    return out_BHQK * torch.sigmoid(log_sum_BHQ - sink_H[:, None])[..., None].to(out_BHQK.dtype)


def _log_sum(scores: Tensor, weights: Tensor) -> Tensor:
    """The logarithm of a softmax's denominator, from its largest weight and the score of that: in bf16, too, exact to
    the digits of that weight, where a sum of bf16 would not be. (..., T) to (...), at least in float32."""
    largest = weights.argmax(-1, keepdim=True)
    score, weight = (t.gather(-1, largest)[..., 0] for t in (scores, weights))
    return at_least_float32(score) - at_least_float32(weight).log()


def _band_rows(q_BHTK, k_BHTK, v_BHTK, mod, claims, scale, sink, first: int, last: int) -> Tensor:
    """`_rows` where a row sees a band of W keys: in blocks of N rows, each of which is given its own keys and the
    W − 1 before them, S in all. Scores are (B, H, blocks, N, S)."""
    B, H, T, _ = k_BHTK.shape
    rows, before = last - first, claims.band - 1
    blocks = max(1, rows // max(claims.band, BAND_ROWS))
    N = math.ceil(rows / blocks)
    spare = blocks * N - rows
    start = first - before  # the first key, which may lie before the text
    q_BHMNK = F.pad(q_BHTK[:, :, first:last], (0, 0, 0, spare)).unflatten(2, (blocks, N))
    k_BHMSK, v_BHMSK = (
        _overlapping(F.pad(t[:, :, max(start, 0) : last], (0, 0, max(-start, 0), spare)), blocks, N, before)
        for t in (k_BHTK, v_BHTK)
    )
    device = q_BHTK.device
    block_M11 = N * torch.arange(blocks, device=device)[:, None, None] + first
    i_MN1 = block_M11 + torch.arange(N, device=device)[:, None]
    j_M1S = block_M11 - before + torch.arange(before + N, device=device)
    with torch.autocast(device.type, enabled=False):
        scores = (q_BHMNK * scale) @ k_BHMSK.mT
        if claims.distance_bias:
            hidden = claims.band  # what stands in the table at W
            distance_NS = before + torch.arange(N, device=device)[:, None] - torch.arange(before + N, device=device)
            distance_NS = distance_NS.masked_fill(distance_NS < 0, hidden).clamp_max(hidden)
            table_HW = F.pad(_distance_table(mod, H, claims.band, scores), (0, 1), value=float("-inf"))
            bias_HMNS = table_HW.to(scores.dtype)[:, None, distance_NS].expand(-1, blocks, -1, -1)
            if start < 0:
                bias_HMNS = bias_HMNS.masked_fill(j_M1S < 0, float("-inf"))
            scores = scores + bias_HMNS
        else:
            b = torch.arange(B, device=device)[:, None, None, None]
            h = torch.arange(H, device=device)[:, None, None]
            places = zip(scores.unbind(2), i_MN1.clamp_max(T - 1), j_M1S.clamp(0, T - 1)[:, 0], strict=True)
            scores = torch.stack([mod(block, b, h, i_N1, j_S) for block, i_N1, j_S in places], dim=2)
            hidden = (j_M1S > i_MN1) | (j_M1S < 0) | (i_MN1 - j_M1S > before)
            scores = scores.masked_fill(hidden, float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        out_BHNK = (weights.to(v_BHTK.dtype) @ v_BHMSK).flatten(2, 3)[:, :, :rows]
        return out_BHNK if sink is None else _beside(sink, out_BHNK, _log_sum(scores, weights).flatten(2)[..., :rows])


def _overlapping(x_BHTK: Tensor, blocks: int, N: int, before: int) -> Tensor:
    """Blocks of N rows of x, which has `before` rows more in front, no more than N, each with as many before it: (B, H,
    blocks, before + N, K). In two pieces, since the gradient of an unfolded view is slow."""
    if blocks == 1:
        return x_BHTK[:, :, None]
    previous, own = (x.unflatten(2, (blocks, N)) for x in (x_BHTK[:, :, : blocks * N], x_BHTK[:, :, before:]))
    return torch.cat([previous[:, :, :, :before], own], dim=3)


def _bias_line(mod: ScoreMod | None, encoding: PositionEncoding, length: int, like: Tensor) -> Tensor:
    """What is added to a score by distance: length − 1 ... 0, then −∞ for the future, (2·length − 1,), or with heads
    (H, 2·length − 1). Read from length − 1 − i on, it is what is added to the keys of query i: a view, no gather."""
    if mod is None:
        table = torch.zeros(length, dtype=like.dtype, device=like.device)
    else:
        table = _distance_table(mod, encoding.shape.num_heads, length, like).to(like.dtype)
    return F.pad(table.flip(-1), (0, length - 1), value=float("-inf"))


def _blocked(rows, v_BHTK: Tensor, first: int, seen: int) -> Tensor:
    """`rows` by blocks of query rows, each of which has so many scores. In training each block's scores are computed
    again in the backward pass."""
    B, H, T, _ = v_BHTK.shape
    step = max(1, _block_scores(v_BHTK) // (B * H * seen))
    blocks = [(start, min(start + step, T)) for start in range(first, T, step)]
    if torch.is_grad_enabled():
        return torch.cat(
            [checkpoint(rows, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks], dim=2
        )
    out_BHTK = torch.empty_like(v_BHTK[:, :, first:])  # filled in: results kept between scores would splinter the heap
    for start, end in blocks:
        out_BHTK[:, :, start - first : end - first] = rows(start, end)
    return out_BHTK


def _block_scores(x: Tensor) -> int:
    return 4 * BLOCK_SCORES if x.is_cuda else BLOCK_SCORES


def _fused(q_BHTK, k_BHTK, v_BHTK, mod, encoding, scale, sink) -> Tensor:
    if mod is not None:
        raise ValueError(f"executor='fused' can't be used: {type(encoding).__name__} changes the scores; use dense")
    if sink is not None:
        return _kernel(*_behind_sink(sink / scale, q_BHTK, k_BHTK, v_BHTK), is_causal=True, scale=scale)[:, :, 1:]
    return _kernel(q_BHTK, k_BHTK, v_BHTK, is_causal=True, scale=scale)


def _behind_sink(product_H: Tensor, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v with a row in front: a key whose product with every query is given, by head, and whose value is zero.
    For that each query has a column of ones; the query in front is nobody's."""
    B, _, _, K = k_BHTK.shape
    spare = -(K + 1) % ALIGNED
    q_BHTK = F.pad(F.pad(q_BHTK, (0, 1), value=1.0), (0, spare, 1, 0))
    front_H1K = F.pad(product_H[:, None, None], (K, spare)).to(k_BHTK.dtype)
    k_BHTK = torch.cat([front_H1K.expand(B, -1, -1, -1), F.pad(k_BHTK, (0, 1 + spare))], dim=2)
    return q_BHTK, k_BHTK, F.pad(v_BHTK, (0, 0, 1, 0))


def _kernel(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, **settings) -> Tensor:
    """Torch's fused kernel. It wants v as wide as q and k, or else writes out T × T scores: where an encoding has
    widened those, v is padded."""
    width = v_BHTK.shape[-1]
    if q_BHTK.shape[-1] > width:
        v_BHTK = F.pad(v_BHTK, (0, q_BHTK.shape[-1] - width))
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, **settings)[..., :width]


def _distance_table(mod: ScoreMod, num_heads: int, length: int, like: Tensor) -> Tensor:
    """The bias of a `distance_bias` encoding by head and distance 0..length−1, (H, length), out of its score_mod; at
    least in float32, on the device of `like`."""
    zero = torch.zeros(1, dtype=torch.long, device=like.device)
    heads_H1 = torch.arange(num_heads, device=like.device)[:, None]
    distances_T = torch.arange(length, device=like.device)
    dtype = torch.promote_types(like.dtype, torch.float32)
    score = torch.zeros((num_heads, length), dtype=dtype, device=like.device)
    return mod(score, zero, heads_H1, distances_T, zero)


def _hankel(q_BHTK, k_BHTK, v_BHTK, mod, encoding, scale, sink) -> Tensor:
    """The fused kernel, its float mask a view of one table: with the queries in reverse order, mask[r, j] = bias at
    distance (last − 1 − r) − j depends on r + j alone, so row r is the table read from r on; −inf beyond the diagonal.
    A long text is cut by heads and blocks of queries, whose keys are those before their end and within the bias's
    reach; where rows see a band of keys, every text by blocks."""
    if mod is None or not encoding.distance_bias:
        raise ValueError(
            f"executor='hankel' can't be used: {type(encoding).__name__}'s scores have no bias of the distance alone"
        )
    _, H, T, _ = q_BHTK.shape
    line_HN = _bias_line(mod, encoding, T, q_BHTK).expand(H, -1)
    if encoding.band is not None:
        step, before = max(encoding.band, BAND_HANKEL_ROWS), encoding.band - 1
        starts = [(max(0, first - before), first, min(first + step, T)) for first in range(0, T, step)]
        return torch.cat([_hankel_rows(line_HN, q_BHTK, k_BHTK, v_BHTK, scale, *block) for block in starts], dim=2)
    if T <= HANKEL_ROWS:
        return _hankel_rows(line_HN, q_BHTK, k_BHTK, v_BHTK, scale, 0, 0, T)
    heads = zip(*(part.split(1, dim=-3) for part in (line_HN[:, None], q_BHTK, k_BHTK, v_BHTK)), strict=True)
    out = []
    for line, *content in heads:
        reach = _reach(line[0, 0, :T].flip(0), *content[:2], scale)
        blocks = [(max(0, first - reach), first, min(first + HANKEL_ROWS, T)) for first in range(0, T, HANKEL_ROWS)]
        out.append(torch.cat([_hankel_rows(line[0], *content, scale, *block) for block in blocks], dim=2))
    return torch.cat(out, dim=1)


def _hankel_rows(line_HN, q_BHTK, k_BHTK, v_BHTK, scale, start: int, first: int, last: int) -> Tensor:
    """Rows first..last−1 of the output, from the keys start..last−1."""
    B, _, T, _ = q_BHTK.shape
    mask_HQT = line_HN[:, T - last + start : T + last - first - 1].unfold(-1, last - start, 1)
    seen = (k_BHTK[:, :, start:last], v_BHTK[:, :, start:last])
    queries = q_BHTK[:, :, first:last].flip(2)
    return _kernel(queries, *seen, attn_mask=mask_HQT.expand(B, -1, -1, -1), scale=scale).flip(2)


def _reach(bias_T: Tensor, q_B1TK: Tensor, k_B1TK: Tensor, scale: float) -> int:
    """The distance beyond which all keys together weigh less than rounding leaves of the query's own: no score q·k is
    further from zero than the norms allow, so that a bias which falls far enough (ALiBi's) decides alone."""
    bound = scale * q_B1TK.norm(dim=-1).amax() * k_B1TK.norm(dim=-1).amax()
    weightless = math.log(torch.finfo(bias_T.dtype).eps / len(bias_T))
    weighs_T = ~(bias_T - bias_T[0] + 2 * bound <= weightless)  # also where a score is NaN
    return int(weighs_T.nonzero().amax())


def _folded(q_BHTK, k_BHTK, v_BHTK, mod, encoding, scale, sink) -> Tensor:
    """score = q·k − u(j), since softmax doesn't see u(i): one more product, q' = (q, 1) with k' = (k, −u / scale). In
    bf16 u takes three columns, each the rest that rounding took from those before, so that float32's digits are kept;
    gradients come by the first."""
    if mod is None or not encoding.separable_bias:
        raise ValueError(
            f"executor='folded' can't be used: {type(encoding).__name__}'s scores have no bias u(i) − u(j)"
        )
    B, H, T, K = q_BHTK.shape
    b, h, j = (torch.arange(size, device=q_BHTK.device) for size in (B, H, T))
    zeros = torch.zeros((B, H, T), dtype=torch.promote_types(q_BHTK.dtype, torch.float32), device=q_BHTK.device)
    with torch.autocast(q_BHTK.device.type, enabled=False):
        rest_BHT = mod(zeros, b[:, None, None], h[:, None], j[:1], j) / scale
    pieces = [rest_BHT.to(q_BHTK.dtype)]
    while len(pieces) < math.ceil(24 / _digits(q_BHTK.dtype)):
        rest_BHT = (rest_BHT - pieces[-1].to(rest_BHT.dtype)).detach()
        pieces.append(rest_BHT.to(q_BHTK.dtype))
    spare = -(K + len(pieces)) % ALIGNED
    q_BHTK = F.pad(F.pad(q_BHTK, (0, len(pieces)), value=1.0), (0, spare))
    k_BHTK = F.pad(torch.cat([k_BHTK, torch.stack(pieces, dim=-1)], dim=-1), (0, spare))
    return _kernel(q_BHTK, k_BHTK, v_BHTK, is_causal=True, scale=scale)


def _digits(dtype: torch.dtype) -> int:
    """Binary digits of a number: 8 of bf16, 24 of float32."""
    return 1 - round(math.log2(torch.finfo(dtype).eps))


def _flex(q_BHTK, k_BHTK, v_BHTK, mod, encoding, scale, sink) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    length = q_BHTK.shape[2]
    options = None
    if mod is not None and encoding.distance_bias:  # looked up, and not computed anew for every pair
        options = FLEX_LOOKUP
        table_HN = _distance_table(mod, q_BHTK.shape[1], length, q_BHTK)
        mod = lambda score, b, h, i, j: score + table_HN[h, (i - j).clamp_min(0)]  # noqa: E731
    run = _compiled_flex() if q_BHTK.is_cuda and not torch.compiler.is_compiling() else flex_attention
    blocks = _causal_blocks(length, q_BHTK.device, encoding.band)
    settings = {"score_mod": mod, "block_mask": blocks, "scale": scale, "kernel_options": options}
    if sink is None:
        return run(q_BHTK, k_BHTK, v_BHTK, **settings)
    out_BHTK, log_sum_BHT = run(q_BHTK, k_BHTK, v_BHTK, return_lse=True, **settings)
    return _beside(sink, out_BHTK, log_sum_BHT)


@functools.cache
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@functools.cache
def _causal(band: int | None):
    """FlexAttention's mask: the past, or a band of it."""
    return (lambda b, h, i, j: i >= j) if band is None else lambda b, h, i, j: (i >= j) & (i - j < band)


@functools.lru_cache(maxsize=8)
def _causal_blocks(length: int, device: torch.device, band: int | None = None):
    """The block mask of causal attention: a partial block on the diagonal, full ones before it; of a window also
    partial ones where it ends, and none before."""
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask

    if length % FLEX_BLOCK:
        return create_block_mask(_causal(band), None, None, length, length, device=str(device))
    blocks = length // FLEX_BLOCK  # written down, since create_block_mask would look at all T × T pairs
    row_N = torch.arange(blocks, dtype=torch.int32, device=device)
    full = blocks if band is None else max(0, band // FLEX_BLOCK - 1)  # blocks before a row's own that it sees whole
    reached = blocks if band is None else (band - 2) // FLEX_BLOCK + 1  # and those of which it sees some
    number_N, reached_N = row_N.clamp_max(full), row_N.clamp_max(reached)
    back_NN = row_N  # the places of a list: how many blocks back, the nearest first
    whole_NN = (row_N[:, None] - 1 - back_NN) % blocks
    partial_NN = torch.where(back_NN == 0, row_N[:, None], (row_N[:, None] - number_N[:, None] - back_NN) % blocks)
    return BlockMask.from_kv_blocks(
        (1 + reached_N - number_N)[None, None],
        partial_NN[None, None],
        number_N[None, None],
        whole_NN[None, None],
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=_causal(band),
        seq_lengths=(length, length),
    )


_KERNELS = {"fused": _fused, "hankel": _hankel, "folded": _folded, "flex": _flex}
