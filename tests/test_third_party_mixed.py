"""Added, scaled, polar, PaTH and randomized encodings: against transformers and x-transformers, at settings where one
encoding is another, at the edges of float32, and for settings that are refused.

python -m pytest tests/test_third_party_mixed.py
"""

import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf.schema import register
from model.attention import attention
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.encodings.path import path_scores
from model.encodings.randomized import draw_positions
from tests.laws import SEPARATORS, Content, attend, difference, perturb
from tests.references import README

T = 37
SHAPE = Shape(dim=24, num_heads=3, num_layers=2, context=32, separators=SEPARATORS)


def build(name, shape=SHAPE, seed=0, **settings):
    return build_encoding({**encoding_config(name), **settings}, shape, seed).double().eval()


def around(name, inner, **settings):
    return build(name, inner=encoding_config(inner), **settings)


def rotated(encoding, content, layer=0):
    return encoding.rotate(content.q, content.k, content.v, encoding.positions(content.tokens), content.x, layer)


def same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------- third parties


def test_sinusoids_equal_those_of_xlm():
    xlm = pytest.importorskip("transformers.models.xlm.modeling_xlm")
    table = xlm.create_sinusoidal_embeddings(60, 24, torch.empty(60, 24))
    same(build("sinusoidal", scale=1.0).embed(torch.zeros(1, 60, 24).double(), torch.arange(60))[0], table, 1e-6)


def test_scaled_sinusoids_equal_those_of_x_transformers_up_to_the_order_of_columns():
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    theirs = x_transformers.ScaledSinusoidalEmbedding(24).double()
    theirs.inv_freq = 10_000.0 ** (-torch.arange(12).double() / 12)
    ours = build("sinusoidal_scaled", scale=24**-0.5)
    x_BTD = torch.zeros(1, T, 24, dtype=torch.float64)
    table = ours.embed(x_BTD, torch.arange(T))[0]
    same(torch.cat([table[:, 0::2], table[:, 1::2]], dim=-1), theirs(x_BTD), 1e-7)


def test_learned_embeddings_equal_those_of_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=24, n_positions=32, n_layer=0, n_head=3, embd_pdrop=0.0)
    gpt2 = transformers.GPT2Model(config).double().eval()
    ours = build("learned")
    with torch.no_grad():
        gpt2.wpe.weight.copy_(ours.table)
    tokens = torch.randint(40, (2, 20))
    same(gpt2.ln_f(ours.embed(gpt2.wte(tokens), ours.positions(tokens))), gpt2(tokens).last_hidden_state)


@pytest.mark.parametrize("length", [1, 2, 37, 200])
def test_xpos_scores_equal_those_of_x_transformers(length):
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    theirs = x_transformers.RotaryEmbedding(8, use_xpos=True, scale_base=16).double()
    theirs.inv_freq = 10_000.0 ** (-torch.arange(0, 8, 2).double() / 8)
    theirs.scale = (torch.arange(0, 8, 2).double() + 0.4 * 8) / (1.4 * 8)
    content = Content.random(SHAPE, length)
    freqs, scale = theirs(torch.arange(length))
    q = x_transformers.apply_rotary_pos_emb(content.q, freqs, scale)
    k = x_transformers.apply_rotary_pos_emb(content.k, freqs, scale**-1)
    ours = rotated(build("xpos", interleaved=True), content)  # B: half of the context of 32
    same((ours[0] @ ours[1].mT).tril(), (q @ k.mT).tril())


@pytest.mark.parametrize("learned", [False, True])
def test_polar_equals_x_transformers(learned):
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    ours = build("polar")
    ours = perturb(ours) if learned else ours
    theirs = x_transformers.PolarEmbedding(8, 3).double()
    theirs.inv_freq = 10_000.0 ** (-torch.arange(8).double() / 8)
    content = Content.random(SHAPE, T)
    for layer in range(SHAPE.num_layers):
        with torch.no_grad():
            theirs.learned_bias.copy_(ours.phases[layer])
        freqs, bias = theirs(torch.arange(T))
        q, k, _ = rotated(ours, content, layer)
        same(q, x_transformers.apply_polar_pos_emb(content.q, freqs), 1e-6)  # theirs is float32
        same(k, x_transformers.apply_polar_pos_emb(content.k, freqs + bias), 1e-6)


def test_temperature_equals_llama_4_in_its_layers_without_rope():
    llama4 = pytest.importorskip("transformers.models.llama4.modeling_llama4")
    config = llama4.Llama4TextConfig(
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=8,
        num_hidden_layers=1,
        no_rope_layers=[0],
        attn_temperature_tuning=True,
        floor_scale=8,
        attn_scale=0.1,
        attn_implementation="eager",
    )
    theirs = llama4.Llama4TextAttention(config, 0).double().eval()
    x_BTD = torch.randn(2, T, 24, dtype=torch.float64)
    future = torch.full((T, T), float("-inf"), dtype=torch.float64).triu(1)
    wanted, _ = theirs(x_BTD, None, future.expand(2, 1, T, T))
    q, k, v = (
        layer(x_BTD).unflatten(-1, (3, 8)).transpose(1, 2) for layer in (theirs.q_proj, theirs.k_proj, theirs.v_proj)
    )
    out = attention(q, k, v, around("temperature", "none"), torch.arange(T), x_BTD, 0)  # a step: 8 of 32
    same(theirs.o_proj(out.transpose(1, 2).flatten(-2)), wanted, 1e-6)


# ----------------------------------------------------------------------------------------------------- neutral settings


@pytest.mark.parametrize(
    "name, settings, parent, parent_settings",
    [
        ("xpos", {"scale_base": 1e12}, "rope", {}),
        ("xpos", {"gamma": 1e12}, "rope", {}),
        ("hope", {"longest": 1e9}, "rope", {}),
        ("hope", {"base": 2.0}, "rope", {"base": 2.0}),  # all pairs turn within the context
        ("logn", {"length": T}, "rope", {}),
        ("temperature", {"floor": T + 1}, "rope", {}),
        ("temperature", {"strength": 1e-12}, "rope", {}),
    ],
)
def test_the_neutral_setting_equals_the_parent(name, settings, parent, parent_settings):
    content = Content.random(SHAPE, T)
    same(attend(build(name, **settings), content), attend(build(parent, **parent_settings), content))


def test_hope_without_a_turning_pair_but_the_first_is_not_rope():
    content = Content.random(SHAPE, T)
    assert difference(attend(build("hope"), content), attend(build("rope"), content)) > 1e-6


def test_scaled_sinusoids_start_as_sinusoids():
    x_BTD = torch.randn(2, T, 24, dtype=torch.float64)
    same(*(build(name).embed(x_BTD, torch.arange(T)) for name in ("sinusoidal", "sinusoidal_scaled")), 1e-7)


def test_randomized_over_its_own_context_is_the_inner_encoding():
    content = Content.random(SHAPE, SHAPE.context)
    same(attend(build("randomized", multiple=1), content), attend(build("rope"), content))


def test_path_without_reflections_is_no_encoding():
    path, content = build("path"), Content.random(SHAPE, T)
    with torch.no_grad():
        path.beta_LDH.zero_()
        path.beta_bias_LH.fill_(-100)  # β = 2σ(−100)
    same(attend(path, content), attend(build("none"), content))


def test_axial_learned_of_one_line_counts_alike_on_both_token_axes():
    encoding = build("axial_learned")
    positions = encoding.positions(torch.full((1, 20), 7))[0]
    assert torch.equal(positions, torch.stack([torch.arange(20), torch.zeros(20).long(), torch.arange(20)], dim=-1))


# --------------------------------------------------------------------------------------------------- precision, memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("executor", ["dense", "fused"])
def test_xpos_stays_finite_and_exact_up_to_its_longest_sequence(dtype, executor):
    shape = Shape(dim=16, num_heads=1, num_layers=1, context=16)
    xpos = build("xpos", shape)
    assert 33 * 16 <= xpos.max_length <= 34 * 16
    content = Content.random(shape, xpos.max_length, batch=1).map(lambda t: t.to(dtype).requires_grad_())
    out = attend(xpos, content, executor=executor)
    out.square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (content.q, content.k, content.v))
    exact = attend(xpos, content.map(lambda t: t.detach().double()))
    assert difference(out.detach(), exact) < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("length, chunk", [(1, 64), (5, 64), (64, 16), (65, 16), (130, 32)])
def test_path_by_chunks_and_rows_equals_the_product_one_by_one(length, chunk):
    q, k, w = torch.randn(3, 2, length, 8, dtype=torch.float64)
    w, beta = torch.nn.functional.normalize(w, dim=-1), 2 * torch.rand(2, length, dtype=torch.float64)
    carried, wanted = k.clone(), []  # carried[j] = H_i ⋯ H_{j+1} k_j
    for i in range(length):
        past = carried[:, :i]
        step = beta[:, i, None, None] * (past @ w[:, i, :, None]) * w[:, i, None, :]
        carried = torch.cat([past - step, carried[:, i:]], dim=1)
        wanted.append(carried[:, : i + 1] @ q[:, i, :, None])
    wanted = torch.stack([torch.nn.functional.pad(row[..., 0], (0, length - row.shape[1])) for row in wanted], dim=1)
    for rows in (length, 7):
        blocks = [range(length)[start : start + rows] for start in range(0, length, rows)]
        scores = [path_scores(q, k, w, beta, block.start, block.stop, chunk) for block in blocks]
        same(torch.cat(scores, dim=1).tril(), wanted)


def test_path_holds_no_more_than_the_scores():
    """The largest tensor that autograd keeps grows as T², not as T² · K."""
    shape, length, sizes = Shape(dim=64, num_heads=1, num_layers=1, context=32), 256, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        attend(build("path", shape), Content.random(shape, length, batch=1).map(lambda t: t.requires_grad_()))
    assert max(sizes) <= length**2


# ---------------------------------------------------------------------------------------------------------- randomized


def positions_of(encoding, length=SHAPE.context):
    return encoding.positions(torch.zeros(1, length, dtype=torch.long))


def test_training_draws_are_ordered_distinct_and_new_each_time():
    encoding = build("randomized").train()
    draws = [positions_of(encoding) for _ in range(200)]
    assert all((draw.diff() > 0).all() and draw.shape == (32,) for draw in draws)
    assert len({tuple(draw.tolist()) for draw in draws}) == 200
    every = torch.cat(draws)
    assert every.min() < 10 and every.max() > 16 * 32 - 10
    assert every.double().mean().item() == pytest.approx((16 * 32 - 1) / 2, rel=0.02)  # uniform over the range


def test_the_compiler_may_take_a_draw_as_one_operator():
    encoding = build("randomized")
    torch.library.opcheck(draw_positions, (encoding.seed, encoding.draws, T, 16 * SHAPE.context))


def test_every_position_is_drawn_equally_often():
    encoding = build("randomized", Shape(8, 1, 1, 4), multiple=1).train()
    counts = torch.zeros(4)
    for _ in range(2000):
        counts[positions_of(encoding, 1)] += 1
    assert counts.tolist() == pytest.approx([500] * 4, rel=0.2)


def test_a_resumed_run_draws_what_an_uninterrupted_one_does():
    whole, resumed = build("randomized").train(), build("randomized", seed=5).train()
    for _ in range(3):
        positions_of(whole)
    whole.eval(), positions_of(whole), whole.train()  # a validation between draws nothing from the sequence
    resumed.load_state_dict(whole.state_dict())
    for _ in range(3):
        assert torch.equal(positions_of(whole), positions_of(resumed))


def test_draws_differ_between_seeds_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second = build("randomized", seed=0).train(), build("randomized", seed=1).train()
    assert not torch.equal(positions_of(first), positions_of(second))
    assert torch.equal(torch.get_rng_state(), state)


def test_even_positions_span_the_range():
    assert positions_of(build("randomized", at_test="even"), 4).tolist() == [0, 128, 256, 384]


def test_a_bias_inside_sees_the_drawn_distances():
    encoding, content = around("randomized", "alibi"), Content.random(SHAPE, T)
    drawn = positions_of(encoding, T)
    alibi = build("alibi")
    alibi.distance_bias = False  # its table is for the positions 0..T−1
    wanted = attention(content.q, content.k, content.v, alibi, drawn, content.x, 0, executor="dense")
    same(attend(encoding, content), wanted)


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    "name, settings, says",
    [
        ("xpos", {"scale_base": 0}, "encoding.scale_base=0"),
        ("xpos", {"scale_base": 0.3}, "encoding.scale_base=0.3"),
        ("xpos", {"gamma": 0}, "encoding.gamma=0"),
        ("xpos", {"base": 0.5}, "encoding.base=0.5"),
        ("hope", {"longest": 0.1}, "encoding.longest=0.1"),
        ("polar", {"base": 0.5}, "encoding.base=0.5"),
        ("path", {"rank": 0}, "encoding.rank=0"),
        ("logn", {"length": 1}, "encoding.length=1"),
        ("ssmax", {"scale": -1.0}, "encoding.scale=-1.0"),
        ("temperature", {"strength": 0}, "encoding.strength=0"),
        ("temperature", {"floor": 0}, "encoding.floor=0"),
        ("sinusoidal", {"scale": 0}, "encoding.scale=0"),
        ("sinusoidal_scaled", {"base": 0}, "encoding.base=0"),
        ("learned", {"length": 31}, "encoding.length=31"),
        ("learned", {"length": 0}, "encoding.length=0"),
        ("axial_learned", {"length": 31}, "encoding.length=31"),
        ("axial_learned", {"unit": "page"}, "encoding.unit='page'"),
        ("randomized", {"multiple": 0}, "encoding.multiple=0"),
        ("randomized", {"at_test": "none"}, "encoding.at_test='none'"),
        ("randomized", {"inner": "rope"}, "encoding.inner='rope'"),
    ],
)
def test_a_bad_setting_is_refused_by_name(name, settings, says):
    with pytest.raises(ValueError) as error:
        build(name, **settings)
    assert says in str(error.value)


@pytest.mark.parametrize("inner", ["none", "learned", "axial_learned", "randomized"])
def test_randomized_refuses_what_cannot_take_its_positions(inner):
    with pytest.raises(ValueError, match=r"encoding\.(inner|multiple)="):
        around("randomized", inner)


def test_randomized_takes_a_table_that_is_long_enough():
    encoding = build("randomized", inner={**encoding_config("learned"), "length": 16 * 32})
    assert encoding.embed(torch.zeros(1, T, 24), positions_of(encoding, T)).abs().sum() > 0


@pytest.mark.parametrize("name", ["logn", "ssmax", "temperature", "randomized"])
def test_the_command_line_chooses_the_encoding_inside(name):
    register()
    folder = str((README.parent.parent / "conf").resolve())
    with initialize_config_dir(folder, version_base="1.3"):
        plain = compose("train", overrides=[f"encoding={name}"])
        other = compose(
            "train", overrides=[f"encoding={name}", "encoding@encoding.inner=t5", "encoding.inner.num_buckets=16"]
        )
    plain, other = (OmegaConf.to_container(config.encoding, resolve=False) for config in (plain, other))
    assert (plain["name"], plain["inner"]["name"]) == (name, "rope")
    assert (other["inner"]["name"], other["inner"]["num_buckets"]) == ("t5", 16)
    assert build_encoding(other, SHAPE).inner.num_buckets == 16


W, BEYOND = 9, T - 9


@pytest.mark.parametrize("name", ["ssmax", "temperature", "logn"])
@pytest.mark.parametrize("place", ["inside", "around", "beside"])
def test_a_scale_counts_the_keys_that_a_window_leaves_and_no_others(name, place):
    settings = {"length": 4} if name == "logn" else {"floor": 2} if name == "temperature" else {}
    window = {**encoding_config("window"), "window": W}
    if place == "inside":
        encoding = scale = build(name, inner=window, **settings)
    elif place == "around":
        encoding = build("window", window=W, inner={**encoding_config(name), **settings})
        scale = encoding.inner
    else:
        parts = {"window": {**window, "inner": encoding_config("none")}, "turn": {**encoding_config(name), **settings}}
        encoding = build("combined", parts=parts)
        scale = encoding.parts["turn"]
    content = Content.random(SHAPE, T)
    ours, _, _ = rotated(encoding, content)
    turned, _, _ = rotated(build("rope"), content)
    seen_T = torch.tensor([min(i + 1, W) for i in range(T)], dtype=torch.float64)
    same(ours, turned * scale.scales(seen_T, 0)[..., None])
    without = turned * scale.scales(torch.arange(1, T + 1, dtype=torch.float64), 0)[..., None]
    assert difference(ours[:, :, W:], without[:, :, W:]) > 1e-3


@pytest.mark.parametrize("place", ["inside", "around"])
def test_log_n_in_a_window_no_longer_than_its_length_is_refused(place):
    outer, inner = ("logn", "window") if place == "inside" else ("window", "logn")
    with pytest.raises(ValueError, match=r"encoding\.length=32: the window shows no row more than 16 keys"):
        around(outer, inner)


def test_query_scales_of_the_papers():
    ln = math.log
    n = torch.tensor([1.0, 512.0, 1024.0, 4096.0], dtype=torch.float64)
    shape = Shape(8, 1, 1, 1024)
    same(build("logn", shape).scales(n, 0), torch.tensor([1, 1, 1, ln(4096) / ln(1024)], dtype=torch.float64))
    same(build("ssmax", shape).scales(n, 0)[0], 0.1685 * n.log(), 1e-3)
