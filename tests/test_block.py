"""The options of a block: off they change no bit, on they are their formulas, and the laws of encodings hold with them.

python -m pytest tests/test_block.py
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from conf.schema import BLOCK_OPTIONS
from eval.record.identity import settings_of
from model.attention import SINKS, choose, record_executors
from model.block import PLAIN, Block, BlockOptions, Canon, KVShift
from model.build import build_transformer, check_model
from model.catalogue import encoding_config, encoding_names
from model.encodings import Shape
from model.encodings.none import NoPE
from model.encodings.rope import RoPE
from model.transformer import Transformer
from tests import laws
from tests.laws import SHAPE, VOCABULARY, assert_differ, assert_same

OPTIONS = {
    "qk_norm": {"qk_norm": True},
    "sink": {"sink": True},
    "gate a head": {"output_gate": "head"},
    "gate an element": {"output_gate": "element"},
    "kv-shift": {"token_shift": "kv"},
    "canon": {"token_shift": "canon"},
    "all": {"qk_norm": True, "sink": True, "output_gate": "head", "token_shift": "kv"},
}
LAWS = ("causality", "prefix_consistency", "executors", "gradients", "decoding", "last_rows", "batch_independence")
CASES = [  # the executors have no part in any but a sink
    (options, law) for options in OPTIONS for law in LAWS if law != "executors" or OPTIONS[options].get("sink")
]
USUAL = ("none", "rope", "alibi", "fox", "cope", "swan")
NO_SOFTMAX = ("stick_breaking",)


# ------------------------------------------------------------------------------------------------ with every encoding


def check(name: str, options: str, law: str) -> None:
    given, build = OPTIONS[options], laws.of_config(encoding_config(name))
    with laws.blocks_with(**given):
        if name in NO_SOFTMAX and given.get("sink"):
            with pytest.raises(ValueError, match=r"model\.sink=true: StickBreaking weighs without a softmax"):
                laws.logits(laws.rig(build), laws.random_tokens(1, 5))
        else:
            getattr(laws, f"check_{law}")(build)


@pytest.mark.parametrize(("options", "law"), CASES)
@pytest.mark.parametrize("name", USUAL)
def test_the_laws_hold_with_the_options_of_a_block(name, options, law):
    check(name, options, law)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "law"), CASES)
@pytest.mark.parametrize("name", sorted({*encoding_names()} - {*USUAL}))
def test_the_laws_hold_with_the_options_of_a_block_and_every_other_encoding(name, options, law):
    check(name, options, law)


@pytest.mark.parametrize("name", NO_SOFTMAX)
def test_a_sink_needs_a_softmax_to_join(name):
    check(name, "sink", "causality")


@pytest.mark.parametrize("name", ["window", "chunked", "swan"])
def test_a_sink_stands_beside_a_window_too(name):
    with laws.blocks_with(sink=True):
        laws.check_band(functools.partial(_band_alone, laws.of_config(encoding_config(name))))


def _band_alone(build, *args, **kwargs):
    """Of executors, `hankel` has no place for a sink."""
    encoding = build(*args, **kwargs)
    for part in encoding.modules():
        part.distance_bias = False
    return encoding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "rope", "alibi", "t5", "swan"])
def test_a_sink_in_flex_attention_is_that_of_dense(name):
    with laws.blocks_with(sink=True):
        encoding = laws.rig(laws.of_config(encoding_config(name)))
        content = laws.Content.random(SHAPE, laws.LENGTH)
        with torch.no_grad():
            for layer in range(encoding.shape.num_layers):
                out, exact = (laws.attend(encoding, content, layer, executor) for executor in ("flex", "dense"))
                assert_same(out, exact, "flex and dense", 1e-7)


def test_the_executors_without_a_place_for_a_sink_refuse_it():
    encoding = laws.rig(laws.of_config(encoding_config("alibi")))
    with laws.blocks_with(sink=True):
        for executor in ("hankel", "folded"):
            with pytest.raises(ValueError, match=f"executor='{executor}' can't be used: its kernel has no place"):
                laws.attend(encoding, laws.Content.random(SHAPE, 9), executor=executor)


@pytest.mark.parametrize("name", ["none", "alibi", "t5", "fox", "swan"])
@pytest.mark.parametrize(
    "length", [40, 300]
)  # from 256 tokens on biases of the distance are scored by another executor
def test_what_is_chosen_has_a_place_for_a_sink(name, length):
    with laws.blocks_with(sink=True), torch.no_grad():
        whole = laws.rig_model(laws.rig(laws.of_config(encoding_config(name))))
        with record_executors() as used:
            assert whole(laws.random_tokens(1, length)).isfinite().all()
        assert used <= {*SINKS}
        for encoding in (whole.encoding.at(layer) for layer in range(whole.shape.num_layers)):
            q = torch.empty(1, SHAPE.num_heads, 1 << 14, 16, device="meta")
            assert {choose(encoding, mod, q, sink=True) for mod in (None, lambda score, *_: score)} <= {*SINKS}


# ---------------------------------------------------------------------------------------------------- off: not a bit


def model(options: BlockOptions = PLAIN, encoding=None, seed: int = 4) -> Transformer:
    return Transformer(VOCABULARY, encoding or NoPE(SHAPE), options=options, seed=seed)


@pytest.mark.parametrize("options", OPTIONS)
def test_with_an_option_all_other_weights_start_as_without(options):
    plain, given = model().state_dict(), model(BlockOptions(**OPTIONS[options])).state_dict()
    assert given.keys() > plain.keys()
    for name, value in plain.items():
        assert torch.equal(given[name], value), name


@pytest.mark.parametrize("options", OPTIONS)
def test_the_seed_alone_decides_the_weights_of_an_option(options):
    first, again, other = (model(BlockOptions(**OPTIONS[options]), seed=seed).state_dict() for seed in (4, 4, 5))
    own = first.keys() - model().state_dict().keys()
    for name in own:
        assert torch.equal(first[name], again[name])
        assert first[name].ndim == 1 or not torch.equal(first[name], other[name]), name


def test_options_are_those_of_the_settings():
    assert tuple(BlockOptions.__dataclass_fields__) == BLOCK_OPTIONS


def test_a_run_is_built_with_the_options_of_its_settings():
    given = settings_of("model=nano", "model.sink=true", "model.output_gate=head", "model.token_shift=canon")
    names = [name for name, _ in build_transformer(given, 20, {}).blocks[1].named_parameters()]
    assert {"sink", "gate.weight", "shift.weight"} <= {*names} and "q_norm.weight" not in names


@pytest.mark.parametrize(
    "setting, says",
    [
        ("model.output_gate=heads", r"model\.output_gate='heads': must be"),
        ("model.token_shift=conv", r"model\.token_shift='conv': must be"),
        ("model.sink=true", r"model\.sink=true: StickBreaking weighs without a softmax"),
    ],
)
def test_what_can_not_be_is_refused_before_any_text_is_read(setting, says):
    with pytest.raises(ValueError, match=says):
        check_model(settings_of("encoding=stick_breaking", "model=nano", setting))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"output_gate": "heads"}, "model.output_gate='heads': must be head or element, or null"),
        ({"token_shift": "conv"}, "model.token_shift='conv': must be kv or canon, or null"),
    ],
)
def test_a_kind_that_is_none_is_refused_by_name(options, says):
    with pytest.raises(ValueError, match=says):
        BlockOptions(**options)


# --------------------------------------------------------------------------------------------------- on: the formulas


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_the_formula(block: Block, x_TD: np.ndarray) -> np.ndarray:
    """What attention of a block without positions returns of normalised input, by loops over heads and rows."""
    weights = {name: value.detach().double().numpy() for name, value in block.named_parameters()}
    T, D = x_TD.shape
    H, K = block.num_heads, block.head_dim
    qkv = x_TD @ weights["qkv.weight"].T
    if "shift.weight" in weights:
        kernel = weights["shift.weight"][:, 0]
        qkv = np.stack(
            [qkv[t] + sum(kernel[:, 3 - back] * qkv[t - back] for back in range(4) if t >= back) for t in range(T)]
        )
    q, k, v = (part.reshape(T, H, K) for part in np.split(qkv, 3, axis=1))
    if "shift.share.weight" in weights:
        share = sigmoid(x_TD @ weights["shift.share.weight"].T)  # of each head's k, then of each head's v
        for part, first in ((k, 0), (v, H)):
            own = part.copy()
            for t in range(T):
                for h in range(H):
                    alpha = share[t, first + h]
                    part[t, h] = alpha * (own[t - 1, h] if t else 0) + (1 - alpha) * own[t, h]
    if "q_norm.weight" in weights:
        for part, scale in ((q, weights["q_norm.weight"]), (k, weights["k_norm.weight"])):
            part *= scale / np.sqrt((part**2).mean(axis=-1, keepdims=True) + np.finfo(np.float64).eps)
    out = np.zeros((T, H, K))
    for h in range(H):
        for i in range(T):
            weight = np.exp(q[i, h] @ k[: i + 1, h].T / np.sqrt(K))
            beside = np.exp(weights["sink"][h]) if "sink" in weights else 0
            out[i, h] = weight @ v[: i + 1, h] / (weight.sum() + beside)
    if "gate.weight" in weights:
        gate = sigmoid(x_TD @ weights["gate.weight"].T)
        out *= gate.reshape(T, H, -1)
    return out.reshape(T, D) @ weights["out.weight"].T


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_is_its_formula(options):
    shape = Shape(dim=24, num_heads=3, num_layers=1, context=16)
    block = model(BlockOptions(**OPTIONS[options]), NoPE(shape)).blocks[0].double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        x_1TD = torch.randn(1, 11, 24, generator=generator, dtype=torch.float64)
        out = block.attend(x_1TD, NoPE(shape), torch.arange(11), 0)
    assert_same(out[0], torch.from_numpy(by_the_formula(block, x_1TD[0].numpy())), options)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_changes_what_comes_out(options):
    tokens = laws.random_tokens(2, 20)
    with torch.no_grad():
        assert_differ(model(BlockOptions(**OPTIONS[options]))(tokens), model()(tokens), options)


def test_a_sink_takes_of_the_weights_and_a_sink_of_minus_infinity_nothing():
    encoding, content = RoPE(SHAPE).double(), laws.Content.random(SHAPE, 12)
    given = content.q, content.k, content.v, encoding, torch.arange(12), content.x, 0
    plain = laws.attention(*given)
    for executor in ("dense", "blocked", "fused"):
        none, all_of_it = (
            laws.attention(*given, executor=executor, sink=torch.full((6,), at, dtype=torch.float64))
            for at in (-1e4, 1e4)
        )
        assert_same(none, plain, executor)
        assert all_of_it.abs().max() < 1e-9, executor


@pytest.mark.parametrize("kind", ["kv", "canon"])
def test_with_a_token_shift_one_layer_without_positions_knows_its_neighbours(kind):
    shape = replace(SHAPE, num_layers=1)
    tokens = torch.arange(12)[None]
    swapped = tokens[:, [1, 0, *range(2, 12)]]  # another past, far from the last token
    last = lambda whole, text: whole(text)[:, -1]  # noqa: E731
    with torch.no_grad():
        plain, shifted = (model(options, NoPE(shape)).double() for options in (PLAIN, BlockOptions(token_shift=kind)))
        assert_same(last(plain, swapped), last(plain, tokens), "without")
        assert_differ(last(shifted, swapped), last(shifted, tokens), "with")


@pytest.mark.parametrize("shift", [KVShift(8, 2), Canon(8)], ids=["kv", "canon"])
def test_a_token_shift_looks_as_far_back_as_it_says_and_no_further(shift):
    shift, generator = shift.double(), torch.Generator().manual_seed(0)
    qkv, x = (torch.randn(1, 9, size, generator=generator, dtype=torch.float64) for size in (24, 8))
    changed = qkv.clone()
    changed[:, 3] += 1
    moved = (shift(changed, x) - shift(qkv, x)).abs().amax(-1)[0].nonzero().flatten().tolist()
    assert moved == list(range(3, 3 + shift.before + 1))


@pytest.mark.parametrize("options", ["kv-shift", "canon", "all"])
def test_blocks_of_text_are_shifted_by_themselves(options):
    whole = laws.rig_model(laws.rig(laws.of_config(encoding_config("rope"))))
    with laws.blocks_with(**OPTIONS[options]), torch.no_grad():
        whole = laws.rig_model(laws.rig(laws.of_config(encoding_config("rope"))))  # relative: each as a text of its own
        tokens = laws.random_tokens(2, 25)
        wanted = torch.cat([whole(part) for part in tokens.split(7, dim=1)], dim=1)
        assert_same(whole(tokens, width=7), wanted, options)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_in_bf16_an_option_is_near_what_float32_gives(options, weights):
    whole, tokens = model(BlockOptions(**OPTIONS[options])), laws.random_tokens(2, 30)
    exact = whole(tokens)
    with torch.autocast("cpu", torch.bfloat16, enabled=weights == "float32"):
        close = whole.to(getattr(torch, weights))(tokens)
    close.float().sum().backward()
    assert close.dtype == torch.bfloat16
    assert (close - exact).norm() < 0.03 * exact.norm()
    assert all(parameter.grad.isfinite().all() for parameter in whole.parameters())
