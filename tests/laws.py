"""The laws that every encoding obeys, each a function that raises AssertionError where an encoding breaks it.

tests/test_laws.py holds every file of conf/encoding to them, tests/test_planted_faults.py shows each of them failing on
an encoding that is broken on purpose. A law takes `build(shape, seed=0, **settings) -> PositionEncoding`.

All is float64 unless a law says otherwise, at sizes of which no two are equal (4 pairs and 4 tokens once hid a crash),
at lengths beyond the training context where the encoding is defined there. Learned parameters are moved off their
initial values first (`perturb`): much is zero at the start, and a law about zeros says nothing.

Shapes in names: B batch, T tokens, D model width, H heads, K head width.
"""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import model.attention
from conf.schema import fewest_layers
from model.attention import attention
from model.block import PLAIN, BlockOptions, Past
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.combined import Combined
from model.encodings.layers import Layers
from model.encodings.none import NoPE
from model.transformer import Transformer

Build = Callable[..., PositionEncoding]

VOCABULARY = 29
SEPARATORS = {"line": (3,), "sentence": (4, 5)}
SHAPE = Shape(dim=84, num_heads=6, num_layers=2, context=32, separators=SEPARATORS)  # 7 pairs a head
BATCH = 4
LENGTH = 37  # tokens: odd, and beyond the context
EXACT = 1e-9  # what float64 leaves of an equality, relative to the size of the output
VISIBLE = 1e-6  # a difference at least this large (relative) is no rounding


def of_config(config: Mapping[str, Any]) -> Build:
    """Builds the encoding of a config, as a run does; settings given later take the place of the config's. Where layers
    differ, for as many layers as it needs."""

    def build(shape: Shape, seed: int = 0, **settings) -> PositionEncoding:
        given = {**config, **settings}
        layers = max(shape.num_layers, fewest_layers(given))
        return build_encoding(given, replace(shape, num_layers=layers), seed)

    return build


def of_class(cls: type[PositionEncoding], **given) -> Build:
    """The same for a class that isn't in model/encodings."""

    def build(shape: Shape, seed: int = 0, **settings) -> PositionEncoding:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 2 + 1)
            return cls(shape, **{**given, **settings})

    return build


# ---------------------------------------------------------------------------------------------- what laws are tried on


@torch.no_grad()
def perturb(encoding: PositionEncoding, seed: int = 7) -> PositionEncoding:
    """Moves every learned parameter: by N(0, 0.3) where it has both signs or is zero, by a factor exp(N(0, 0.3))
    where it is all of one sign, since that may be what keeps it valid (a slope, a frequency, a distance)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in encoding.parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
        one_sign = bool((parameter > 0).all() or (parameter < 0).all())
        parameter.copy_(parameter * noise.exp() if one_sign else parameter + noise)
    return encoding


def rig(build: Build, shape: Shape = SHAPE, seed: int = 0, **settings) -> PositionEncoding:
    """An encoding in float64, in eval mode, its parameters perturbed."""
    return perturb(build(shape, seed=seed, **settings).double().eval())


_options: ContextVar[BlockOptions] = ContextVar("options", default=PLAIN)


@contextmanager
def blocks_with(**options) -> Iterator[None]:
    """Inside, laws are about models whose blocks have these options, and about attention with a sink if that is one."""
    token = _options.set(BlockOptions(**options))
    try:
        yield
    finally:
        _options.reset(token)


def sink_for(shape: Shape) -> Tensor | None:
    """A score for each head, where the blocks have a sink."""
    return torch.linspace(-1, 2, shape.num_heads, dtype=torch.float64) if _options.get().sink else None


def rig_model(encoding: PositionEncoding) -> Transformer:
    """A transformer around it, in float64, its projections into the residual stream, which start small, 10 times so;
    the scores of sinks, which start at zero, are those of `sink_for`."""
    whole = Transformer(VOCABULARY, encoding, options=_options.get()).double().train(encoding.training)
    with torch.no_grad():
        if (sink := sink_for(encoding.shape)) is not None:
            for block in whole.blocks:
                block.sink.copy_(sink)
        for name, parameter in whole.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                parameter.mul_(10)
    return whole


def length_for(encoding: PositionEncoding, wanted: int = LENGTH) -> int:
    """`wanted` tokens, or as many as the encoding is defined on."""
    return wanted if encoding.max_length is None else min(wanted, encoding.max_length)


def random_tokens(batch: int, length: int, seed: int = 1) -> Tensor:
    """(B, T) ids below VOCABULARY in which every separator occurs, at other places in each sequence."""
    tokens_BT = torch.randint(6, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
    for b in range(batch):
        for place, separator in ((4, 3), (9, 4), (15, 3), (16, 5), (24, 3), (30, 4)):
            tokens_BT[b, place + b :: 64] = separator
    return tokens_BT


@dataclass(frozen=True)
class Content:
    """What attention is given: token ids (B, T), the block's input x (B, T, D), and q, k, v (B, H, T, K)."""

    tokens: Tensor
    x: Tensor
    q: Tensor
    k: Tensor
    v: Tensor

    @classmethod
    def random(cls, shape: Shape, length: int, batch: int = BATCH, seed: int = 1) -> Content:
        generator = torch.Generator().manual_seed(seed)
        normal = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
        heads = (batch, shape.num_heads, length, shape.head_dim)
        x_BTD = normal(batch, length, shape.dim)
        return cls(random_tokens(batch, length, seed), x_BTD, normal(*heads), normal(*heads), normal(*heads))

    def map(self, change: Callable[[Tensor], Tensor]) -> Content:
        """The same change to x, q, k and v."""
        return Content(self.tokens, *(change(getattr(self, f.name)) for f in fields(self)[1:]))

    def to(self, where: torch.dtype | str) -> Content:
        """In another dtype (all but the tokens), or on another device (all)."""
        if isinstance(where, torch.dtype):
            return self.map(lambda t: t.to(where))
        return replace(self.map(lambda t: t.to(where)), tokens=self.tokens.to(where))

    def changed_after(self, i: int, other: Content) -> Content:
        """Rows up to i from here, those after i from `other`."""
        tokens = torch.cat([self.tokens[:, : i + 1], other.tokens[:, i + 1 :]], dim=1)
        pairs = zip(self[1:], other[1:], strict=True)
        return Content(tokens, *(torch.cat([a[..., : i + 1, :], b[..., i + 1 :, :]], dim=-2) for a, b in pairs))

    def __getitem__(self, index: slice) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)][index]


def attend(
    encoding: PositionEncoding, content: Content, layer: int = 0, executor: str = "dense", shift: int = 0
) -> Tensor:
    """Attention's output (B, H, T, K) on this content, its positions those of its tokens, plus `shift`."""
    positions = encoding.positions(content.tokens) + shift
    given = content.q, content.k, content.v, encoding, positions, content.x, layer
    out = attention(*given, executor=executor, sink=sink_for(encoding.shape))
    assert torch.isfinite(out).all(), "attention's output is not finite"
    return out


def logits(encoding: PositionEncoding, tokens_BT: Tensor) -> Tensor:
    """A whole transformer's output around this encoding, (B, T, V)."""
    with torch.no_grad():
        out = rig_model(encoding)(tokens_BT)
    assert torch.isfinite(out).all(), "the logits are not finite"
    return out


def hooks(encoding: PositionEncoding, content: Content, layer: int):
    """What the executors see: rotated q and k, the score_mod, and the positions."""
    positions = encoding.positions(content.tokens)
    q, k, _ = encoding.rotate(content.q, content.k, content.v, positions, content.x, layer)
    return q, k, encoding.score_mod(q, k, positions, content.x, layer), positions


def index_tensors(batch: int, heads: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """b, h, i, j as the dense executors pass them."""
    rows = torch.arange(length)
    return torch.arange(batch)[:, None, None, None], torch.arange(heads)[:, None, None], rows[:, None], rows


def difference(a: Tensor, b: Tensor) -> float:
    """The largest |a − b|, relative to the largest |b| that is finite; an infinity differs from all but itself."""
    assert a.shape == b.shape, f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}"
    a, b = a.double(), b.double()
    apart = torch.where(a == b, 0.0, (a - b).abs())
    return (apart.max() / b.masked_fill(b.isinf(), 0).abs().max().clamp_min(1e-300)).item()


def assert_same(a: Tensor, b: Tensor, what: str, tolerance: float = EXACT) -> None:
    error = difference(a, b)
    assert error <= tolerance, f"{what}: the difference is {error:.1e}, allowed is {tolerance:.0e}"


def assert_differ(a: Tensor, b: Tensor, what: str) -> None:
    assert a.shape != b.shape or difference(a, b) > VISIBLE, what


# -------------------------------------------------------------------------------------------------------------- laws


def check_causality(build: Build) -> None:
    """What comes after row i (tokens, x, q, k, v) never changes rows up to i: in attention, in training mode too, and
    through a whole transformer."""
    encoding = rig(build)
    T = length_for(encoding)
    content, other = Content.random(SHAPE, T), Content.random(SHAPE, T, seed=2).map(lambda t: 5 * t)
    for i in (0, 1, T // 3, T - 2):
        changed = content.changed_after(i, other)
        for layer in range(encoding.shape.num_layers):
            for training in (False, True):
                encoding.train(training)
                before, after = (attend(_twin(encoding), given, layer) for given in (content, changed))
                assert_same(after[:, :, : i + 1], before[:, :, : i + 1], f"rows up to {i} see what comes after")
        encoding.eval()
        before, after = logits(encoding, content.tokens), logits(encoding, changed.tokens)
        assert_same(after[:, : i + 1], before[:, : i + 1], f"logits up to {i} see the tokens after")


def _twin(encoding: PositionEncoding) -> PositionEncoding:
    """A copy that is about to draw the same random numbers, where it draws any in training."""
    torch.manual_seed(3)
    return copy.deepcopy(encoding)


def check_prefix_consistency(build: Build) -> None:
    """The first t rows of a longer sequence are those of the shorter. Where an encoding says that they are not
    (prefix_consistent = False), they really are not: a claim that costs decoding has to be needed."""
    encoding = rig(build)
    T = length_for(encoding)
    tokens_BT = random_tokens(BATCH, T)
    whole = logits(encoding, tokens_BT)
    errors = {t: difference(whole[:, :t], logits(encoding, tokens_BT[:, :t])) for t in (1, 2, 7, T // 2, T - 1)}
    if encoding.prefix_consistent:
        assert max(errors.values()) <= EXACT, f"rows change with the length of the sequence: {errors}"
    else:
        assert max(errors.values()) > VISIBLE, "prefix_consistent = False is claimed for nothing: no row changes"


def check_shift_invariance(build: Build) -> None:
    """Where `relative`: positions that are all larger by a constant give the same output; and with the same content in
    every row, the weight of j in row i, relative to that of i itself, depends on i − j alone."""
    encoding = rig(build)
    if not encoding.relative:
        return
    T = length_for(encoding)
    content = Content.random(SHAPE, T)
    constant = replace(content.map(lambda t: t[..., :1, :].expand_as(t)), tokens=torch.full_like(content.tokens, 7))
    for layer in range(encoding.shape.num_layers):
        for shift in (1, 1000):
            shifted = attend(encoding, content, layer, shift=shift)
            assert_same(shifted, attend(encoding, content, layer), f"layer {layer} notices a shift by {shift}")
        ratios = _weights(encoding, constant, layer)
        ratios = ratios / ratios.diagonal(dim1=-2, dim2=-1)[..., None]
        assert_same(ratios[..., 1:, 1:].tril(), ratios[..., :-1, :-1].tril(), f"layer {layer}: not of i − j alone")


def _weights(encoding: PositionEncoding, content: Content, layer: int) -> Tensor:
    """Attention's weights (B, H, T, T)."""
    q, k, mod, positions = hooks(encoding, content, layer)
    B, H, T, K = content.q.shape
    scores, rows = q @ k.transpose(-1, -2) * K**-0.5, torch.arange(T)
    visible = rows <= rows[:, None]
    if encoding.rescores:
        scores = encoding.rescore(scores, visible, rows, q, k, positions, content.x, layer)
    if mod is not None:
        scores = mod(scores, *index_tensors(B, H, T))
    return encoding.weigh(scores, visible, rows, layer)


def _added_bias(mod, length: int, seen: Callable[[Tensor], Tensor] = lambda scores: scores) -> Tensor:
    """What a score_mod adds to scores (B, H, T, T), the same to any; seen: those entries that count."""
    indices, shape = index_tensors(BATCH, SHAPE.num_heads, length), (BATCH, SHAPE.num_heads, length, length)
    bias = mod(torch.zeros(shape, dtype=torch.float64), *indices)
    scores = torch.randn(shape, dtype=torch.float64)
    assert_same(seen(mod(scores, *indices)), seen(scores + bias), "the bias depends on the score")
    return bias


def check_separable_bias(build: Build) -> None:
    """Where `separable_bias`: score_mod adds u(i) − u(j), whatever the score."""
    encoding = rig(build)
    T = length_for(encoding)
    for layer in range(encoding.shape.num_layers):
        if not encoding.at(layer).separable_bias:
            continue
        _, _, mod, _ = hooks(encoding, Content.random(SHAPE, T), layer)
        bias = _added_bias(mod, T)
        assert_same(bias, bias[..., :1] + bias[..., :1, :], "the bias is not one of u(i) − u(j)", tolerance=1e-7)


def check_distance_bias(build: Build) -> None:
    """Where `distance_bias`: score_mod adds a bias of (h, i − j), whatever the score, the sequence and its content."""
    encoding = rig(build)
    T = length_for(encoding)
    distances = (torch.arange(T)[:, None] - torch.arange(T)).clamp_min(0)
    for layer in range(encoding.shape.num_layers):
        if not encoding.at(layer).distance_bias:
            continue
        _, _, mod, positions = hooks(encoding, content := Content.random(SHAPE, T), layer)
        assert torch.equal(positions, torch.arange(T)), "distance_bias is for the default positions, 0..T−1"
        bias = _added_bias(mod, T, torch.tril)
        first_column = bias[:1, :, :, :1].expand_as(bias)
        table = first_column.gather(2, distances.expand_as(bias))
        assert_same(bias.tril(), table.tril(), "the bias is not one of (h, i − j)", tolerance=1e-7)
        _, _, again, _ = hooks(encoding, Content.random(SHAPE, T, seed=5), layer)
        assert_same(_added_bias(again, T, torch.tril).tril(), bias.tril(), "the bias depends on the content")
        assert_same(
            attend(encoding, content, layer, "hankel"), attend(encoding, content, layer), "hankel and dense", 1e-6
        )


def check_dtype_and_shape(build: Build) -> None:
    """What comes out has the dtype and shape of what went in, also for a single token and for q, k, v narrower than
    the encoding's parameters (as under autocast); and bf16 stays close to float64 at a length where positions, angles
    or sums held in bf16 would not. Content and parameters are numbers that bf16 holds: what is computed with them is
    compared."""
    shape = Shape(dim=40, num_heads=4, num_layers=1, context=256, separators=SEPARATORS)
    for length in (1, 300):
        exact = _rounded(rig(build, shape))
        content = Content.random(shape, length_for(exact, length), batch=2).map(lambda t: t.bfloat16().double())
        small_x = 0.02 * content.x  # the size of token embeddings at the start
        out, embedded_exactly = attend(exact, content), exact.embed(small_x, exact.positions(content.tokens))
        assert out.dtype == embedded_exactly.dtype == torch.float64
        for dtype, parameters, allowed in (
            (torch.float32, torch.float32, 1e-4),
            (torch.bfloat16, torch.bfloat16, 0.02),  # the whole model in bf16
            (torch.bfloat16, torch.float32, 0.02),  # mixed precision: autocast
        ):
            given = content.to(dtype)
            encoding = _rounded(rig(build, shape)).to(parameters)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype != parameters):
                close = attend(encoding, given)
                embedded = encoding.embed(small_x.to(dtype), encoding.positions(given.tokens))
            assert close.dtype == embedded.dtype == dtype, f"{dtype} became {close.dtype} (embed: {embedded.dtype})"
            assert close.shape == content.v.shape, f"the shape became {tuple(close.shape)}"
            assert embedded.shape == given.x.shape, f"the shape of the embeddings became {tuple(embedded.shape)}"
            for rounded, wanted in ((close, out), (embedded, embedded_exactly)):
                error = ((rounded.double() - wanted).norm() / wanted.norm().clamp_min(1e-300)).item()
                assert error <= allowed, f"{dtype} input, {parameters} parameters, T={length}: {error:.3f} from float64"


@torch.no_grad()
def _rounded(encoding: PositionEncoding) -> PositionEncoding:
    for parameter in encoding.parameters():
        parameter.copy_(parameter.bfloat16())
    return encoding


def check_parameters_in_bf16(build: Build) -> None:
    """Where the parameters are bf16 and the content is not, what positions do (embeddings, turned q and k, what is
    added to the last row's scores) is what float64 makes of the same parameters: distances, angles, sums and constants
    are never bf16, which can't tell 1,500 tokens from 1,503."""
    shape = Shape(dim=24, num_heads=3, num_layers=2, context=512, separators=SEPARATORS)
    exact = rig(build, shape)
    T = length_for(exact, 1500)
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())
        pair = copy.deepcopy(exact).bfloat16(), exact
        content = Content.random(shape, T, batch=1).map(lambda t: t.float().double())
        silent = replace(content, q=0 * content.q, k=0 * content.k)  # what is left of the scores is position
        for layer in range(exact.shape.num_layers):
            found = []
            for encoding, dtype in zip(pair, (torch.float32, torch.float64), strict=True):
                given = content.to(dtype)
                q, k, _, positions = hooks(encoding, given, layer)
                _, _, mod, _ = hooks(encoding, silent.to(dtype), layer)
                b, h, rows, columns = index_tensors(1, shape.num_heads, T)
                scores = torch.zeros(1, shape.num_heads, 1, T, dtype=dtype)
                found.append((q, k, encoding.embed(given.x, positions), mod and mod(scores, b, h, rows[-1:], columns)))
            for what, ours, wanted in zip(
                ("q", "k", "the embeddings", "what is added to the scores"), *found, strict=True
            ):
                if wanted is not None:
                    assert_same(ours, wanted, f"{what} beside parameters in bf16", 1e-4)


def check_gradients(build: Build) -> None:
    """Every parameter, and every layer's slice of it, gets a finite gradient that is not zero within the first steps of
    training. (Within the first steps and not in the first: of a product of two factors of which one starts at zero,
    the other has no gradient until that one has moved.)"""
    encoding = build(SHAPE, seed=0).double().train()
    whole = rig_model(encoding)
    tokens_BT = random_tokens(BATCH, SHAPE.context)
    largest: dict[str, float] = {}
    for _ in range(3):
        whole.zero_grad()
        F.cross_entropy(whole(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
        for name, parameter in whole.named_parameters():
            assert parameter.grad is not None, f"{name} gets no gradient: nothing uses it"
            assert torch.isfinite(parameter.grad).all(), f"{name}: its gradient is not finite"
            for part, gradient in _by_layer(name, parameter.grad):
                largest[part] = max(largest.get(part, 0.0), gradient.abs().max().item())
        with torch.no_grad():
            for parameter in whole.parameters():
                parameter.sub_(0.01 * parameter.grad.sign())  # the first step of Adam
    idle = [part for part, gradient in largest.items() if gradient < 1e-12]
    assert not idle, f"gradients that stay zero: {', '.join(idle)}"


def _by_layer(name: str, gradient: Tensor) -> list[tuple[str, Tensor]]:
    if name.startswith("encoding.") and gradient.ndim and gradient.shape[0] == SHAPE.num_layers:
        return [(f"{name}[{layer}]", gradient[layer]) for layer in range(SHAPE.num_layers)]
    return [(name, gradient)]


def check_parts(build: Build) -> None:
    """Every part of a combination, and of a pattern of layers, reaches the output: with nothing in its place the output
    is another."""
    encoding = rig(build)
    if not isinstance(encoding, Combined | Layers):
        return
    tokens_BT = random_tokens(BATCH, length_for(encoding))
    whole = logits(encoding, tokens_BT)
    for name, part in encoding.parts.items():
        if not isinstance(part, NoPE):
            rest = copy.deepcopy(encoding)
            rest.parts[name] = NoPE(part.shape)
            assert_differ(logits(rest, tokens_BT), whole, f"the part {name} does not reach the output")


def check_saved_equals_loaded(build: Build) -> None:
    """An encoding built from another seed gives the same outputs, bit by bit, once it has loaded the state_dict, when
    it is evaluated and when its training goes on."""
    saved, loaded = rig(build), build(SHAPE, seed=1).double().eval()
    content = Content.random(SHAPE, length_for(saved))
    file = io.BytesIO()
    torch.save(rig_model(saved).state_dict(), file)
    file.seek(0)
    whole = rig_model(loaded)
    whole.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for layer in range(saved.shape.num_layers):
        for training in (False, True):
            pair = [attend(_twin(encoding.train(training)), content, layer) for encoding in (saved, loaded)]
            assert torch.equal(*pair), "loaded differs from saved"


def check_history(build: Build) -> None:
    """Outputs depend on the arguments alone: not on what this instance, or another one of another shape, was asked
    before, nor on the random state; and an evaluation leaves parameters, buffers and the random state as they were."""
    encoding = rig(build)
    T = length_for(encoding)
    short, long = random_tokens(BATCH, 9), random_tokens(BATCH, T)
    state = {name: value.clone() for name, value in encoding.state_dict().items()}
    buffers = {name: value.clone() for name, value in encoding.named_buffers()}
    random_state = torch.get_rng_state()
    first = logits(encoding, short), logits(encoding, long)
    other = rig(build, Shape(dim=50, num_heads=5, num_layers=1, context=64, separators=SEPARATORS))
    logits(other, random_tokens(1, length_for(other, 100)))
    wide = rig(build, replace(SHAPE, context=48))
    logits(wide, random_tokens(1, length_for(wide, 100)))
    assert torch.equal(torch.get_rng_state(), random_state), "an evaluation draws random numbers"
    torch.manual_seed(11)
    for instance in (encoding, rig(build)):
        again = logits(instance, short), logits(instance, long)
        assert torch.equal(again[0], first[0]), "the output depends on what came before"
        assert torch.equal(again[1], first[1]), "the output depends on what came before"
    for name, value in encoding.named_buffers():
        assert name in buffers and torch.equal(value, buffers[name]), f"evaluation changed the buffer {name}"
    for name, value in encoding.state_dict().items():
        assert torch.equal(value, state[name]), f"evaluation changed {name}"


def check_two_settings(build: Build, settings: Mapping[str, Any]) -> None:
    """Two instances that differ in one setting differ in their output (evaluated or in training) or in max_length, in
    one process: no setting is ignored, no table is shared. Where every other value is refused, none is tried."""
    wide = replace(SHAPE, dim=2 * SHAPE.dim)  # enough pairs in a head for fractions of it to differ
    for name, value in settings.items():
        for other in _other_values(value):
            try:
                pair = rig(build, wide), rig(build, wide, **{name: other})
            except (ValueError, TypeError):
                continue
            if pair[0].max_length != pair[1].max_length:
                break
            tokens_BT = random_tokens(BATCH, min(length_for(encoding) for encoding in pair))
            outputs = [torch.stack([logits(_twin(e.train(on)), tokens_BT) for on in (False, True)]) for e in pair]
            assert_differ(*outputs, f"{name}={value} and {name}={other} give the same output")
            break


def _other_values(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value * 2, value / 2, value // 2, value + 1, value - 1)
    elif value is None:  # derived from the context, which is 32 here
        yield from (20, 64, 0.5)


def check_position_reaches_the_output(build: Build) -> None:
    """With one layer, the same past in another order gives another output. NoPE is the exception by design: there one
    layer sees a bag of tokens, and only the causal mask of a second layer tells their order."""
    one_layer = replace(SHAPE, num_layers=1)
    encoding = rig(build, one_layer)
    T = length_for(encoding)
    tokens_BT = torch.randint(6, VOCABULARY, (BATCH, T))  # no separators
    order = torch.cat([torch.randperm(T - 1), torch.tensor([T - 1])])
    last = [logits(encoding, t)[:, -1] for t in (tokens_BT, tokens_BT[:, order])]
    if encoding.order_blind:
        assert_same(*last, "one layer without positions sees the order")
        encoding = rig(build)
        last = [logits(encoding, t)[:, -1] for t in (tokens_BT, tokens_BT[:, order])]
    assert_differ(*last, "the order of the past does not matter")


def check_executors(build: Build) -> None:
    """Every executor that can run the encoding gives what `dense` gives: blocked with its gradients; fused; hankel; and
    score_mod on scalar indices, as FlexAttention calls it."""
    encoding = rig(build)
    T = length_for(encoding)
    for layer in range(encoding.shape.num_layers):
        dense, gradients = _with_gradients(encoding, T, layer, "dense")
        with mock.patch.object(model.attention, "BLOCK_SCORES", BATCH * SHAPE.num_heads * T * 5):  # 5 rows a block
            blocked, blocked_gradients = _with_gradients(encoding, T, layer, "blocked")
        assert_same(blocked, dense, "blocked and dense")
        assert gradients.keys() == blocked_gradients.keys(), "blocked and dense: the gradients of other tensors"
        for name, gradient in gradients.items():
            assert torch.isfinite(gradient).all(), f"dense: the gradient of {name} is not finite"
            scale = max(gradient.abs().max().item(), 1e-6)
            error = (gradient - blocked_gradients[name]).abs().max().item() / scale
            assert error <= EXACT, f"blocked and dense: the gradients of {name} differ by {error:.1e}"
        content, claims = Content.random(SHAPE, T), encoding.at(layer)
        q, k, mod, _ = hooks(encoding, content, layer)
        if claims.rescores:
            continue
        if mod is None:
            assert_same(attend(encoding, content, layer, "fused"), dense, "fused and dense")
            continue
        if claims.distance_bias and sink_for(SHAPE) is None:
            assert_same(attend(encoding, content, layer, "hankel"), dense, "hankel and dense", 1e-6)
        if claims.separable_bias and sink_for(SHAPE) is None:
            assert_same(attend(encoding, content, layer, "folded"), dense, "folded and dense")
            short = content.to(torch.bfloat16).to(torch.float64)  # numbers that bf16 holds
            folded = attend(encoding.float(), short.to(torch.bfloat16), layer, "folded").double()
            assert_same(folded, attend(encoding.double(), short, layer), "folded in bf16 and dense", 0.02)
        scores = q @ k.transpose(-1, -2) * SHAPE.head_dim**-0.5
        pointwise = _on_scalars(mod)(scores, *(torch.arange(size) for size in scores.shape))
        broadcast = mod(scores, *index_tensors(*scores.shape[:3]))
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        weights = [s.masked_fill(future, float("-inf")).softmax(-1) for s in (pointwise, broadcast)]
        assert_same(*weights, "score_mod on scalar indices and on index tensors", 1e-7)


def _on_scalars(mod) -> Callable:
    """score_mod mapped over (B, H, T, T) scores with scalar b, h, i, j: what FlexAttention does with it."""
    for axis in (4, 3, 2, 1):
        mod = torch.vmap(mod, in_dims=tuple(0 if place in (0, axis) else None for place in range(5)))
    return mod


def _with_gradients(encoding: PositionEncoding, T: int, layer: int, executor: str) -> tuple[Tensor, dict[str, Tensor]]:
    content = Content.random(SHAPE, T).map(lambda t: t.requires_grad_())
    inputs = dict(zip("xqkv", content[1:], strict=True)) | dict(encoding.named_parameters())
    out = attend(encoding, content, layer, executor)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad((out * weight).sum(), list(inputs.values()), allow_unused=True)
    used = {name: gradient for name, gradient in zip(inputs, gradients, strict=True) if gradient is not None}
    return out.detach(), used


def check_band(build: Build) -> None:
    """Where a row sees a `band` of keys alone: the others have no weight, and the executors that leave them out give
    what those give that don't, with the gradients, whatever rows are asked for."""
    encoding = rig(build)
    for layer in range(encoding.shape.num_layers):
        claims = encoding.at(layer)
        if claims.band is None:
            continue
        for T in (4 * claims.band, 4 * claims.band + 3, 9 * claims.band + 1):
            content = Content.random(SHAPE, T)
            rows = torch.arange(T)
            far = rows[:, None] - rows >= claims.band
            assert (_weights(encoding, content, layer).masked_select(far) == 0).all(), (
                "a key outside of `band` has weight"
            )
            out, own_gradients = _with_gradients(encoding, T, layer, "dense")
            with mock.patch.object(model.attention, "_skips", lambda *_: False):
                whole, gradients = _with_gradients(encoding, T, layer, "dense")
            assert_same(out, whole, "with and without the keys that are hidden")
            for name, gradient in gradients.items():
                error = (own_gradients[name] - gradient).abs().max() / gradient.abs().max().clamp_min(1e-6)
                assert error <= 1e-6, f"with and without them: the gradients of {name} differ by {error:.1e}"
            for executor in ("blocked", "hankel"):
                if executor == "blocked" or claims.distance_bias:
                    with mock.patch.object(model.attention, "BLOCK_SCORES", BATCH * SHAPE.num_heads * claims.band * 40):
                        assert_same(attend(encoding, content, layer, executor), whole, executor, 1e-6)
            given = encoding.positions(content.tokens), content.x, layer
            for queries in (1, 5, claims.band + 1, T - 1):
                last = attention(*content[2:], encoding, *given, queries=queries, sink=sink_for(encoding.shape))
                assert_same(last, whole[:, :, -queries:], f"the last {queries} rows")


def check_one_device(build: Build) -> None:
    """A pass through the hooks and attention stays on the device of the parameters and the content: nothing is made or
    read elsewhere, nothing is copied from there. With all of it on "meta", an operation on the CPU is one too many; but
    for numbers (of no dimensions), which a kernel takes as they are."""
    for training in (False, True):
        encoding = build(SHAPE).train(training)
        found = elsewhere(encoding, length_for(encoding))
        assert not found, f"not on the device of the content: {', '.join(found)}"


def elsewhere(encoding: PositionEncoding, length: int) -> list[str]:
    """What a pass on "meta" does on another device, in words; the encoding is there from then on."""
    shape, found = encoding.to("meta").shape, []
    content = Content.random(shape, length).to(torch.float32).to("meta")
    autocast = mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext())  # knows no "meta"
    with autocast, _ReadElsewhere(found), _MadeOfNumbers(found):
        positions = encoding.positions(content.tokens)
        encoding.embed(content.x, positions)
        for layer in range(shape.num_layers):
            attention(*content[2:], encoding, positions, content.x, layer, executor="dense")
    return found


class _ReadElsewhere(TorchDispatchMode):
    """Notes the operations inside that read or return a tensor that isn't on "meta"."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        least = 0 if operation is torch.ops.aten._to_copy.default else 1
        self.found += [f"{operation} on {t.device}" for t in tensors if t.device.type != "meta" and t.ndim >= least]
        return out


class _MadeOfNumbers(TorchFunctionMode):
    """Notes the tensors inside that are made of Python's numbers: on the CPU first, whatever their device."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.MAKERS and (out := function(*args, **(kwargs or {}))).ndim:
            self.found.append(f"{function.__name__} of shape {tuple(out.shape)}")
            return out
        return function(*args, **(kwargs or {}))


def check_constants(build: Build) -> None:
    """What follows from the settings (buffers that aren't saved) keeps its values and dtype, bit by bit, when the
    encoding is cast, copied, or left without memory and given some; and the state_dict has none of it."""
    encoding = build(SHAPE)
    exact = {name: value.clone() for name, value in encoding.named_buffers() if name not in encoding.state_dict()}
    ways = {
        "bfloat16": lambda module: module.bfloat16(),
        "float32 and back": lambda module: module.float().double(),
        "another device": lambda module: module.to("meta").to_empty(device="cpu"),
    }
    for way, change in ways.items():
        changed = dict(change(copy.deepcopy(encoding)).named_buffers())
        for name, value in exact.items():
            found = changed[name]
            assert found.dtype == value.dtype and torch.equal(found, value), f"{name} is another after {way}"
    for part in encoding.modules():
        for name in getattr(part, "_constants", ()):
            assert name not in part.state_dict(), f"{name} is in the state_dict"


def check_decoding(build: Build) -> None:
    """Token by token, after a prompt or from the start, the logits are those of the full pass; an encoding whose early
    rows change with the length refuses with ValueError."""
    encoding = rig(build)
    T = length_for(encoding)
    tokens_BT = random_tokens(BATCH, T)
    whole = rig_model(encoding)
    with torch.no_grad():
        full = whole(tokens_BT)
        for steps in ([1] * 6, [T - 9, *[1] * 4, 2, 3]):
            past, start = Past(), 0
            for step in steps:
                try:
                    out = whole(tokens_BT[:, start : start + step], past=past)
                except ValueError:
                    assert not encoding.prefix_consistent, "decoding is refused, but prefix_consistent is claimed"
                    return
                assert encoding.prefix_consistent, "decoded, although early rows change with the length"
                assert_same(out, full[:, start : start + step], f"decoding {step} tokens from {start} on")
                start += step


def check_last_rows(build: Build) -> None:
    """The last rows alone are those of the whole, whether or not early rows change with the length: attention, in each
    layer, and all that comes after the last one are asked for no others where few tokens of a window are scored."""
    encoding = rig(build)
    T = length_for(encoding)
    tokens_BT = random_tokens(BATCH, T)
    model = rig_model(encoding)
    with torch.no_grad():
        whole = model.hidden(tokens_BT)
        for last in (1, T // 2, T):
            assert_same(model.hidden(tokens_BT, last=last), whole[:, -last:], f"the last {last} rows alone")


def check_length_limit(build: Build) -> None:
    """Defined on max_length tokens; beyond them ValueError, never a clamp in silence. Without a limit: 4 contexts."""
    encoding = rig(build)
    whole = rig_model(encoding)
    limit = encoding.max_length
    assert limit is None or limit >= SHAPE.context, f"max_length={limit} is below the context {SHAPE.context}"
    assert torch.isfinite(whole(random_tokens(1, limit or 4 * SHAPE.context + 1))).all()
    if limit is not None:
        try:
            whole(random_tokens(1, limit + 1))
        except ValueError as error:
            assert str(limit) in str(error), f"the message does not name the limit: {error}"
        else:
            raise AssertionError(f"accepts {limit + 1} tokens, but max_length={limit}")


def check_distinct_embeddings(build: Build) -> None:
    """Where `embed` changes anything, the same token gets another embedding at every position, up to 4 contexts: no
    position beyond a table is clamped or wrapped in silence."""
    encoding = rig(build)
    T = length_for(encoding, 4 * SHAPE.context)
    x_BTD = torch.randn(1, 1, SHAPE.dim, dtype=torch.float64).expand(1, T, -1)
    with torch.no_grad():
        embedded = encoding.embed(x_BTD, encoding.positions(torch.full((1, T), 7)))
    if torch.equal(embedded, x_BTD):
        return
    apart = torch.cdist(embedded[0], embedded[0], compute_mode="donot_use_mm_for_euclid_dist")
    apart.fill_diagonal_(1.0)
    assert apart.min() > VISIBLE, "two positions share an embedding"


def check_batch_independence(build: Build) -> None:
    """A sequence's output is the same alone as beside others."""
    encoding = rig(build)
    tokens_BT = random_tokens(BATCH, length_for(encoding))
    together = logits(encoding, tokens_BT)
    for b in range(BATCH):
        assert_same(logits(encoding, tokens_BT[b : b + 1]), together[b : b + 1], "other sequences of the batch matter")


def check_pairing(build: Build) -> None:
    """Building and training leave the global random states as they were, building depends on the seed alone, and the
    backbone starts from the same bits as around NoPE: comparisons between encodings are paired."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = build(SHAPE, seed=0)
    whole = Transformer(VOCABULARY, first, seed=4)
    assert torch.equal(torch.get_rng_state(), states[0]), "building draws from torch's global generator"
    assert random.getstate() == states[1], "building draws from Python's global generator"
    assert (np.random.get_state()[1] == states[2]).all(), "building draws from numpy's global generator"
    torch.manual_seed(99)
    again = build(SHAPE, seed=0)
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} depends on more than the seed"
    plain = Transformer(VOCABULARY, NoPE(first.shape), seed=4).state_dict()
    backbone = {name: value for name, value in whole.state_dict().items() if not name.startswith("encoding.")}
    assert backbone.keys() == plain.keys()
    torch.manual_seed(5)
    random_state = torch.get_rng_state()
    whole.train()(random_tokens(BATCH, SHAPE.context))
    assert torch.equal(torch.get_rng_state(), random_state), "training draws from torch's global generator"
    for name, value in plain.items():
        assert torch.equal(backbone[name], value), f"the backbone's {name} starts elsewhere than around NoPE"


def check_reference(build: Build, reference, shape: Shape = SHAPE, length: int = 21) -> None:
    """In every layer the output and the embeddings are those of the reference (see tests/references)."""
    encoding = rig(build, shape, seed=3)
    content = Content.random(shape, length_for(encoding, length))
    with torch.no_grad():
        embedded_BTD = encoding.embed(content.x, encoding.positions(content.tokens))
        for layer in range(encoding.shape.num_layers):
            out_BHTK = attend(encoding, content, layer)
            b = layer % 2  # the batch's other sequence for the other layer
            q, k, v, x, tokens = (t[b].numpy() for t in (content.q, content.k, content.v, content.x, content.tokens))
            wanted_HTK = torch.from_numpy(reference.output(encoding, q, k, v, x, tokens, layer))
            wanted_TD = torch.from_numpy(reference.embed(encoding, x, tokens))
            assert_same(out_BHTK[b], wanted_HTK, f"layer {layer} and its reference", reference.tolerance)
            assert_same(embedded_BTD[b], wanted_TD, "embed and its reference", reference.tolerance)
