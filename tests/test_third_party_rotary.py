"""Rotary encodings against transformers and x-transformers, the complex form, and each other at neutral settings.

python -m pytest tests/test_third_party_rotary.py
"""

import warnings
from dataclasses import replace

import pytest
import torch

from model.attention import attention
from model.encodings import Shape
from model.encodings.coordinates import line_coordinates
from model.encodings.none import NoPE
from model.encodings.rope import RoPE, rope_frequencies, turn
from model.encodings.rope_axial import RoPEAxial, RoPEHierarchical
from model.encodings.rope_layerwise import RoPELayerwise
from model.encodings.rope_learned import RoPELearned
from model.encodings.rope_multiscale import RoPEMultiscale
from model.encodings.rope_partial import RoPEPartial, RoPEPartialHead
from model.encodings.rope_placement import RoPEPlacement
from model.encodings.rope_selective import RoPESelective
from model.extensions.longrope import LongRoPE
from model.extensions.yarn import YaRN

SHAPE = Shape(dim=48, num_heads=3, num_layers=2, context=32, separators={"line": (1,), "sentence": (2, 3)})
LENGTH = 41


@pytest.fixture
def content():
    """tokens (B, T), x (B, T, D) and q, k, v (B, H, T, K), float64."""
    heads = (2, SHAPE.num_heads, LENGTH, SHAPE.head_dim)
    q, k, v = (torch.randn(heads, dtype=torch.float64) for _ in range(3))
    return torch.randint(0, 8, (2, LENGTH)), torch.randn(2, LENGTH, SHAPE.dim, dtype=torch.float64), q, k, v


def output(encoding, content, layer=0):
    tokens, x, q, k, v = content
    positions = encoding.positions(tokens)
    x = encoding.embed(x, positions)
    return attention(q, k, v, encoding, positions, x, layer, executor="dense")


def rotated(encoding, content):
    tokens, x, q, k, v = content
    return encoding.rotate(q, k, v, encoding.positions(tokens), x, layer=0)[:2]


# ------------------------------------------------------------------------------------------------------ third parties


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_half_split_equals_llama_in_transformers(content, base):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(hidden_size=SHAPE.dim, num_attention_heads=SHAPE.num_heads, rope_theta=base)
    _, _, q, k, _ = content
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, torch.arange(LENGTH)[None])
    for ours, theirs in zip(
        rotated(RoPE(SHAPE, base), content), llama.apply_rotary_pos_emb(q, k, cos, sin), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)  # their angles are float32


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_interleaved_equals_gpt_j_in_transformers(content, share):
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    width = int(share * SHAPE.head_dim)
    sin, cos = gptj.create_sinusoidal_positions(LENGTH, width).double()[None].chunk(2, dim=-1)
    for ours, given in zip(
        rotated(RoPEPartialHead(SHAPE, share, interleaved=True), content), content[2:4], strict=True
    ):
        given = given.transpose(1, 2)  # (B, T, H, K)
        theirs = gptj.apply_rotary_pos_emb(given[..., :width], sin, cos)
        theirs = torch.cat([theirs, given[..., width:]], dim=-1).transpose(1, 2)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_partial_head_equals_gpt_neox_in_transformers(content):
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    _, _, q, k, _ = content
    angles = torch.arange(LENGTH)[:, None] * 10_000.0 ** (-torch.arange(0, 4, 2) / 4)
    angles = torch.cat([angles, angles], dim=-1)[None].double()
    theirs = neox.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    for ours, wanted in zip(rotated(RoPEPartialHead(SHAPE, share=0.25), content), theirs, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rope_type", ["yarn", "longrope"])
def test_a_temperature_rides_on_the_turned_part_of_the_head_as_in_transformers(content, rope_type):
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    pairs, stretch = SHAPE.head_dim // 4, 4
    scaling = {"rope_type": rope_type, "factor": float(stretch), "original_max_position_embeddings": SHAPE.context}
    if rope_type == "longrope":
        scaling |= {"long_factor": [1.0 + 0.5 * k for k in range(pairs)], "short_factor": [1.0] * pairs}
    config = neox.GPTNeoXConfig(
        hidden_size=SHAPE.dim,
        num_attention_heads=SHAPE.num_heads,
        max_position_embeddings=stretch * SHAPE.context,
        rope_parameters={"rope_theta": 10_000.0, "partial_rotary_factor": 0.5, **scaling},
    )
    _, _, q, k, _ = content
    cos, sin = neox.GPTNeoXRotaryEmbedding(config)(q, torch.arange(LENGTH)[None])
    extension = YaRN(beta_fast=32.0) if rope_type == "yarn" else LongRoPE(scaling["long_factor"])
    with warnings.catch_warnings(action="ignore"):  # a context of 32 doesn't reach 32 turns
        extended = extension.apply(RoPEPartialHead(SHAPE, share=0.5), SHAPE.context, stretch * SHAPE.context)
    for ours, theirs in zip(rotated(extended, content), neox.apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=2e-5)


def test_interleaved_equals_x_transformers(content):
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    angles, scale = x_transformers.RotaryEmbedding(SHAPE.head_dim).forward_from_seq_len(LENGTH)
    for ours, given in zip(rotated(RoPE(SHAPE, interleaved=True), content), content[2:4], strict=True):
        theirs = x_transformers.apply_rotary_pos_emb(given, angles, scale)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_the_layers_without_positions_are_those_of_smollm3_in_transformers():
    smollm3 = pytest.importorskip("transformers.models.smollm3")
    encoding = RoPELayerwise(replace(SHAPE, num_layers=8), bases=[5e6, 5e6, 5e6, None])
    turns = [int(bool(encoding.frequencies(layer).any())) for layer in range(8)]
    assert turns == smollm3.SmolLM3Config(num_hidden_layers=8).no_rope_layers


# ------------------------------------------------------------------------------------------------- the forms of a turn


def test_the_complex_form_agrees(content):
    q = content[2]
    angles = torch.arange(LENGTH)[:, None] * rope_frequencies(SHAPE.head_dim, 10_000.0)
    turned = torch.view_as_complex(q.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)
    ours, _ = rotated(RoPE(SHAPE, interleaved=True), content)
    torch.testing.assert_close(ours, torch.view_as_real(turned).flatten(-2), rtol=0, atol=1e-12)


def test_the_two_layouts_are_one_method_up_to_a_permutation(content):
    tokens, x, q, k, v = content
    order = torch.arange(SHAPE.head_dim).unflatten(0, (-1, 2)).T.flatten()  # even coordinates, then odd ones
    permuted = tokens, x, q[..., order], k[..., order], v
    torch.testing.assert_close(output(RoPE(SHAPE, interleaved=True), content), output(RoPE(SHAPE), permuted))


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_turn_in_bf16_is_the_float64_turn_rounded_once_even_far_out(interleaved):
    encoding = RoPE(SHAPE, interleaved=interleaved)
    q = torch.randn(1, SHAPE.num_heads, 64, SHAPE.head_dim).bfloat16()
    positions = torch.arange(64) + 1_000_000
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(0, SHAPE.head_dim, 2).double() / SHAPE.head_dim)
    exact = turn(q.double(), angles.cos(), angles.sin(), interleaved)
    rounded, _, _ = encoding.rotate(q, q, q, positions, None, 0)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_turning_back_undoes_a_turn_and_so_does_its_gradient(interleaved):
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(5, 4, dtype=torch.float64)
    turned = turn(x, angles.cos(), angles.sin(), interleaved)
    torch.testing.assert_close(turn(turned, angles.cos(), -angles.sin(), interleaved), x)
    (gradient,) = torch.autograd.grad(turned, x, turned.detach())
    torch.testing.assert_close(gradient, x.detach())


# --------------------------------------------------------------------------------------------------- neutral settings

ROPE_AGAIN = {
    "p = 1": lambda: RoPEPartial(SHAPE, p=1.0),
    "the whole head": lambda: RoPEPartialHead(SHAPE, share=1.0),
    "learned, at the start": lambda: RoPELearned(SHAPE),
    "selective, at the start": lambda: RoPESelective(SHAPE),
    "one base for all heads": lambda: RoPEMultiscale(SHAPE, lowest_base=10_000, highest_base=10_000),
    "one base for all layers": lambda: RoPELayerwise(SHAPE, bases=[10_000]),
    "one axis": lambda: RoPEAxial(SHAPE, axes=["token"]),
    "one level": lambda: RoPEHierarchical(SHAPE, token_share=1.0),
    "placed on q and k": lambda: RoPEPlacement(SHAPE, placement="qk"),
}


@pytest.mark.parametrize("name", ROPE_AGAIN)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_neutral_setting_is_rope(name, layer, content):
    out = output(ROPE_AGAIN[name]().double(), content, layer)
    torch.testing.assert_close(out, output(RoPE(SHAPE), content, layer), rtol=0, atol=1e-12)


def test_one_head_of_several_scales_gets_the_geometric_mean():
    assert RoPEMultiscale(replace(SHAPE, num_heads=1)).bases == pytest.approx([10_000])


def test_a_layer_without_a_base_is_nope(content):
    encoding = RoPELayerwise(SHAPE, bases=[10_000, None])
    assert torch.equal(output(encoding, content, layer=1), output(NoPE(SHAPE), content))
    assert not torch.allclose(output(encoding, content, layer=0), output(NoPE(SHAPE), content))


def test_selective_without_content_is_learned_frequencies(content):
    selective, learned = RoPESelective(SHAPE).double(), RoPELearned(SHAPE).double()
    with torch.no_grad():
        learned.log_ratio_LHP.copy_(selective.log_rate_LHP.normal_())
    torch.testing.assert_close(output(selective, content, layer=1), output(learned, content, layer=1))


def test_selective_scores_depend_on_what_lies_between_and_not_on_what_came_before(content):
    _, x, q, k, v = content
    encoding = RoPESelective(SHAPE).double()
    torch.nn.init.normal_(encoding.step_LHPD)

    def score(x):
        q_turned, k_turned, _ = encoding.rotate(q, k, v, torch.arange(LENGTH), x, 0)
        return (q_turned[:, :, 30] * k_turned[:, :, 20]).sum(-1)

    before, between = x.clone(), x.clone()
    before[:, 5], between[:, 25] = -x[:, 5], -x[:, 25]
    torch.testing.assert_close(score(before), score(x))
    assert not torch.allclose(score(between), score(x))


def test_values_that_turn_come_back_unturned_from_their_own_row(content):
    encoding = RoPEPlacement(SHAPE, placement="qkv")
    tokens, x, q, k, v = content
    positions = encoding.positions(tokens)
    _, _, turned = encoding.rotate(q, k, v, positions, x, 0)
    assert not torch.allclose(turned, v)
    torch.testing.assert_close(encoding.unrotate(turned, positions, x, 0), v)


# ------------------------------------------------------------------------------------------------ coordinates, refusals


def test_coordinates_are_causal_and_count_lines_as_a_loop_does():
    tokens = torch.randint(0, 4, (3, 50))
    found = line_coordinates(tokens, separators := torch.tensor([1, 2]))
    for b in range(3):
        line, place = 0, 0
        for t in range(50):
            assert found[b, t].tolist() == [t, line, place]
            line, place = (line + 1, 0) if tokens[b, t] in (1, 2) else (line, place + 1)
    assert torch.equal(line_coordinates(tokens[:, :20], separators), found[:, :20])


@pytest.mark.parametrize("unit", ["line", "sentence", "verse"])
@pytest.mark.parametrize("cls", [RoPEAxial, RoPEHierarchical])
def test_a_text_without_the_separators_is_refused_by_name(cls, unit):
    known = {name: ids for name, ids in SHAPE.separators.items() if name != unit}
    with pytest.raises(ValueError, match=f"encoding.unit='{unit}'.*known: {', '.join(known)}"):
        cls(replace(SHAPE, separators=known), unit=unit)


@pytest.mark.parametrize(
    "cls, settings, named",
    [
        (RoPE, {"base": 0.5}, "encoding.base=0.5"),
        (RoPE, {"base": float("nan")}, "encoding.base=nan"),
        (RoPEPartial, {"p": -0.1}, "encoding.p=-0.1"),
        (RoPEPartial, {"p": 1.5}, "encoding.p=1.5"),
        (RoPEPartialHead, {"share": 0}, "encoding.share=0"),
        (RoPEMultiscale, {"lowest_base": 0.1}, "encoding.lowest_base=0.1"),
        (RoPEMultiscale, {"lowest_base": 100, "highest_base": 10}, "encoding.highest_base=10"),
        (RoPELayerwise, {"bases": []}, r"encoding.bases=\[\]"),
        (RoPELayerwise, {"bases": [None]}, r"encoding.bases=\[None\]"),
        (RoPELayerwise, {"bases": [100, 0.5]}, "encoding.bases=0.5"),
        (RoPEAxial, {"axes": []}, r"encoding.axes=\[\]"),
        (RoPEAxial, {"axes": ["page"]}, "encoding.axes=.*page"),
        (RoPEAxial, {"axes": ["line", "line"]}, "encoding.axes="),
        (RoPEHierarchical, {"token_share": 0.01}, "encoding.token_share=0.01"),
        (RoPEHierarchical, {"token_share": 0.99}, "encoding.token_share=0.99"),
        (RoPEHierarchical, {"token_share": 1.5}, "encoding.token_share=1.5"),
        (RoPEHierarchical, {"unit_base": 0}, "encoding.unit_base=0"),
        (RoPEPlacement, {"placement": "kv"}, "encoding.placement='kv'"),
    ],
)
def test_a_bad_setting_is_refused_by_name(cls, settings, named):
    with pytest.raises(ValueError, match=named):
        cls(SHAPE, **settings)


def test_an_odd_head_and_more_axes_than_pairs_are_refused():
    with pytest.raises(ValueError, match="head_dim=3"):
        RoPE(replace(SHAPE, dim=9))
    with pytest.raises(ValueError, match="head_dim=3"):
        RoPEPlacement(replace(SHAPE, dim=9), placement="output")
    with pytest.raises(ValueError, match=r"^dim=9"):
        RoPEPlacement(replace(SHAPE, dim=9), placement="embeddings")
    with pytest.raises(ValueError, match="head_dim=1"):
        RoPEPartialHead(replace(SHAPE, dim=3))
    with pytest.raises(ValueError, match="3 axes, but a head has only 2 pairs"):
        RoPEAxial(replace(SHAPE, dim=12))
