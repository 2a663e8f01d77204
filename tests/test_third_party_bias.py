"""Biases and relative terms against transformers and x-transformers, and settings at which one encoding is another.

python -m pytest tests/test_third_party_bias.py
"""

import copy
import math

import pytest
import torch

from model.attention import attention
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.encodings.alibi import alibi_slopes
from model.encodings.randomized import Randomized
from model.encodings.t5 import causal_buckets
from tests.laws import Content, perturb

T = 37
SHAPE = Shape(dim=24, num_heads=3, num_layers=2, context=32)


def build(name, shape=SHAPE, **settings):
    return build_encoding({**encoding_config(name), **settings}, shape).double().eval()


def attend(encoding, layer=0, length=T):
    content = Content.random(encoding.shape, length)
    positions = encoding.positions(content.tokens)
    return attention(content.q, content.k, content.v, encoding, positions, content.x, layer, executor="dense")


def scores(encoding, layer=0, length=T):
    """The scores before softmax, (B, H, T, T), zero beyond the diagonal; and q, k before the encoding."""
    content = Content.random(encoding.shape, length)
    positions = encoding.positions(content.tokens)
    q, k, _ = encoding.rotate(content.q, content.k, content.v, positions, content.x, layer)
    out = q @ k.mT * encoding.shape.head_dim**-0.5
    rows = torch.arange(length)
    if mod := encoding.score_mod(q, k, positions, content.x, layer):
        batch, heads = torch.arange(len(q))[:, None, None, None], torch.arange(q.shape[1])[:, None, None]
        out = mod(out, batch, heads, rows[:, None], rows)
    return out.tril(), content.q, content.k


def bias(encoding, layer=0, length=T):
    """What the encoding adds to the scaled scores, (H, T, T), zero beyond the diagonal."""
    out, q, k = scores(encoding, layer, length)
    return (out - (q @ k.mT * encoding.shape.head_dim**-0.5).tril())[0].detach()


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------- third parties


@pytest.mark.parametrize("num_heads", [1, 3, 6, 8, 12, 16, 20])
def test_alibi_slopes_equal_those_of_bloom_and_x_transformers(num_heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    mask_BT = torch.ones(1, 2)  # the bias at j = 1 is the slope
    close(alibi_slopes(num_heads), bloom.build_alibi_tensor(mask_BT, num_heads, torch.float32)[:, 0, 1], 1e-6)
    theirs = x_transformers.AlibiPositionalBias._get_slopes(num_heads)
    close(alibi_slopes(num_heads), torch.tensor(theirs, dtype=torch.float64))


@pytest.mark.parametrize("num_heads, exponent", [(4, 8), (8, 16)])
def test_alibis_exponent_is_mpts_bias_max(num_heads, exponent):
    mpt = pytest.importorskip("transformers.models.mpt.modeling_mpt")
    theirs = mpt.build_mpt_alibi_tensor(num_heads, 2, alibi_bias_max=exponent)[:, 0, :]  # at distances 1, 0
    close(alibi_slopes(num_heads, exponent), theirs[:, 1] - theirs[:, 0], 1e-6)


def test_alibi_equals_x_transformers():
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    close(bias(build("alibi")), x_transformers.AlibiPositionalBias(heads=3)(T, T).double().tril(), 1e-6)


@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (32, 64), (16, 64), (8, 32), (24, 24), (64, 512)])
def test_t5_buckets_equal_those_of_transformers(num_buckets, max_distance):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = torch.arange(4 * max_distance)
    theirs = t5.T5Attention._relative_position_bucket(
        -distances, bidirectional=False, num_buckets=num_buckets, max_distance=max_distance
    )
    assert torch.equal(causal_buckets(distances, num_buckets, max_distance), theirs)


def test_t5_equals_transformers_and_x_transformers():
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    ours = perturb(build("t5", Shape(24, 3, 2, context=64), num_buckets=16, max_distance=32))
    table_NH = ours.table_HN.detach().T
    config = t5.T5Config(
        num_heads=3, d_model=24, d_kv=8, relative_attention_num_buckets=16, relative_attention_max_distance=32
    )
    config.is_decoder = True
    theirs = t5.T5Attention(config, has_relative_attention_bias=True)
    theirs.relative_attention_bias.weight.data = table_NH
    close(bias(ours), theirs.compute_bias(T, T)[0].tril())
    theirs = x_transformers.RelativePositionBias(1.0, causal=True, num_buckets=16, max_distance=32, heads=3)
    theirs.relative_attention_bias.weight.data = table_NH
    close(bias(ours), theirs(T, T).tril())


def test_cpb_equals_the_dynamic_position_bias_of_x_transformers():
    x_transformers = pytest.importorskip("x_transformers.x_transformers")
    for name, log_distance, unit in (("cpb", True, 1), ("cpb_linear", False, SHAPE.context)):
        ours = perturb(build(name, hidden=8))
        first, _, last = ours.networks[1]
        theirs = x_transformers.DynamicPositionBias(8, heads=3, depth=1, log_distance=log_distance)
        theirs.mlp[0] = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.ReLU())  # theirs is a SiLU
        theirs.double()
        theirs.mlp[0][0].weight.data = first.weight.data / unit
        theirs.mlp[0][0].bias.data = first.bias.data
        theirs.mlp[1].weight.data = last.weight.data
        theirs.mlp[1].bias.data.zero_()
        feed = theirs.forward
        for layer in theirs.mlp:  # they cast the distances to float32
            layer.register_forward_pre_hook(lambda module, args: (args[0].double(),))
        close(bias(ours, layer=1), feed(T, T).tril(), 1e-6)


@pytest.mark.parametrize("span", [31, 8])
def test_deberta_with_query_first_equals_transformers(span):
    deberta = pytest.importorskip("transformers.models.deberta.modeling_deberta")
    ours = perturb(build("deberta", span=span, key_first=False))
    config = deberta.DebertaConfig(
        hidden_size=24,
        num_attention_heads=3,
        relative_attention=True,
        max_relative_positions=span,
        pos_att_type=["c2p", "p2c"],
        position_buckets=-1,
    )
    theirs = deberta.DisentangledSelfAttention(config).double().eval()
    theirs.pos_proj.weight.data = ours.key_LHDK[1].mT.flatten(0, 1)
    theirs.pos_q_proj.weight.data = ours.query_LHDK[1].mT.flatten(0, 1)
    theirs.pos_q_proj.bias.data.zero_()
    _, q, k = scores(ours)
    scaled_q = q / math.sqrt(3 * 8)
    with torch.no_grad():
        relative = deberta.build_relative_position(q, k)
        term = theirs.disentangled_att_bias(scaled_q, k, relative, ours.table_ND, scale_factor=3)
    close(scores(ours, layer=1)[0], (scaled_q @ k.mT + term).tril(), 1e-6)


def test_transformer_xl_equals_xlnet():
    xlnet = pytest.importorskip("transformers.models.xlnet.modeling_xlnet")
    ours = perturb(build("transformer_xl"))
    config = xlnet.XLNetConfig(d_model=24, n_head=3, attn_type="uni", n_layer=1, d_inner=8, vocab_size=10)
    theirs = xlnet.XLNetRelativeAttention(config).double().eval()
    waves = xlnet.XLNetModel(config).relative_positional_encoding(T, T).double()  # (sin, cos) of distances T .. 0
    theirs.r_w_bias.data, theirs.r_r_bias.data = ours.u_NHK[0].data, ours.v_NHK[0].data
    content = Content.random(SHAPE, T)
    W_sin_cos = ours.project_LHKR[1].unflatten(-1, (2, 12)).flip(-2).flatten(-2)  # ours has the cosines first
    keys = torch.einsum("tbr,hkr->tbhk", waves, W_sin_cos).expand(-1, len(content.q), -1, -1)
    q, k, v = (t.permute(2, 0, 1, 3) for t in (content.q, content.k, content.v))
    future = torch.ones(T, T, dtype=torch.float64).triu(1)[:, :, None, None]
    with torch.no_grad():
        wanted = theirs.rel_attn_core(q, k, v, keys, attn_mask=future).permute(1, 2, 0, 3)
        close(attend(ours, layer=1), wanted, 1e-6)


# ----------------------------------------------------------------------------------------------------- neutral settings


@pytest.mark.parametrize("name", ["relative", "t5", "cpb_linear", "cpb", "cpb_fourier"])
def test_a_bias_that_starts_at_zero_is_nope(name):
    close(attend(build(name)), attend(build("none")))


@pytest.mark.parametrize("name, parameter", [("shaw", "table_LNK"), ("huang", "table_LNK")])
def test_a_table_of_zeros_is_nope(name, parameter):
    encoding = build(name)
    getattr(encoding, parameter).data.zero_()
    close(attend(encoding), attend(build("none")))


def test_transformer_xl_without_its_parameters_is_nope():
    encoding = build("transformer_xl")
    for parameter in encoding.parameters():
        parameter.data.zero_()
    close(attend(encoding), attend(build("none")))


def test_fire_without_an_output_is_nope():
    encoding = build("fire")
    encoding.networks[0][2].weight.data.zero_()
    close(attend(encoding), attend(build("none")))


def test_learned_alibi_starts_as_alibi():
    close(attend(build("alibi_learned")), attend(build("alibi")))


def test_kerple_power_of_one_is_alibi():
    encoding = build("kerple_power")
    encoding.p_H.data.fill_(1.0)
    encoding.a_H.data = alibi_slopes(3, exponent=4)  # with 8 the flattest would be below KERPLE's bound of 0.01
    close(attend(encoding), attend(build("alibi", exponent=4)))


def test_t5_with_a_bucket_for_each_distance_is_the_relative_table():
    t5, relative = build("t5", num_buckets=32, max_distance=32), build("relative", max_distance=15)
    perturb(relative)
    t5.table_HN.data[:, :16] = relative.table_HN.data
    t5.table_HN.data[:, 16:] = relative.table_HN.data[:, -1:]
    close(attend(t5), attend(relative))


def test_huang_whose_keys_read_nothing_is_shaw():
    huang, shaw = build("huang"), build("shaw")
    huang.table_LNK.data = perturb(shaw).table_LNK.data
    content = Content.random(SHAPE, T)
    content.k.zero_()
    outputs = []
    for encoding in (huang, shaw):
        positions = encoding.positions(content.tokens)
        outputs.append(attention(content.q, content.k, content.v, encoding, positions, content.x, 0, executor="dense"))
    close(*outputs)


# ------------------------------------------------------------------------------------------ bounds, refusals, positions


@pytest.mark.parametrize("name", ["kerple_log", "kerple_power"])
def test_kerple_beyond_its_bounds_stays_finite_and_can_come_back(name):
    encoding = build(name)
    encoding.p_H.data.fill_(-1.0)
    encoding.a_H.data.fill_(-1.0)
    attend(encoding).square().sum().backward()
    for parameter in (encoding.p_H, encoding.a_H):
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().min() > 0


def test_kerple_with_a_zero_exponent_has_finite_gradients_on_the_diagonal():
    encoding = build("kerple_power")
    encoding.p_H.data.zero_()
    attend(encoding).square().sum().backward()
    assert torch.isfinite(encoding.p_H.grad).all()


def test_fire_is_the_network_itself_for_any_weights():
    from model.encodings.fire import piece_of, pieces

    for hidden in (1, 2, 7, 32):
        network = build("fire", hidden=hidden).networks[0]
        network[0].weight.data[0] = 0.0  # a unit without a knot
        network[0].bias.data[-1] = 0.0  # a knot at 0
        shares = torch.linspace(0, 1, 1001, dtype=torch.float64)
        knots, slopes, heights = pieces(network)
        piece = piece_of(shares, knots)
        close(slopes[:, piece] * shares + heights[:, piece], network(shares[:, None]).T)


@pytest.mark.parametrize("context", [2, 3, 8, 16, 31, 32, 128, 2048])
@pytest.mark.parametrize("name", ["relative", "t5", "fire", "cpb_fourier", "shaw", "huang", "deberta", "sandwich"])
def test_defaults_suit_every_context(name, context):
    assert torch.isfinite(attend(build(name, Shape(24, 3, 2, context)), length=9)).all()


@pytest.mark.parametrize(
    "name, setting, value",
    [
        ("alibi", "exponent", 0),
        ("alibi_learned", "exponent", -8),
        ("relative", "max_distance", 0),
        ("relative", "max_distance", 32),
        ("t5", "num_buckets", 7),
        ("t5", "num_buckets", 0),
        ("t5", "max_distance", 8),
        ("t5", "max_distance", 128),
        ("sandwich", "width", 63),
        ("sandwich", "base", 1),
        ("fire", "threshold", 0),
        ("fire", "hidden", 0),
        ("cpb", "features", "square"),
        ("cpb", "hidden", 0),
        ("shaw", "max_distance", 0),
        ("huang", "max_distance", 40),
        ("transformer_xl", "base", 0.5),
        ("transformer_xl", "width", 5),
        ("deberta", "span", 0),
        ("deberta", "span", 32),
    ],
)
def test_a_bad_setting_is_refused_by_name_and_value(name, setting, value):
    with pytest.raises(ValueError) as error:
        build(name, **{setting: value})
    assert f"encoding.{setting}={value!r}" in str(error.value)


@pytest.mark.parametrize("name", ["alibi", "alibi_learned", "kerple_log", "kerple_power", "fire"])
def test_formulas_of_the_distance_take_fractions_of_a_token(name):
    encoding, content = perturb(build(name)), Content.random(SHAPE, T)
    heads_H1, zero = torch.arange(3)[:, None], torch.tensor(0)
    added = [
        encoding.score_mod(content.q, content.k, positions, content.x, 0)(torch.zeros(3, 1), zero, heads_H1, i, j)
        for positions, i, j in (
            (torch.arange(T, dtype=torch.float64), torch.tensor(10), torch.tensor(5)),
            (torch.arange(T, dtype=torch.float64) / 2, torch.tensor(20), torch.tensor(10)),
        )
    ]
    close(*added)
    assert added[0].abs().min() > 0


def test_slopes_that_are_no_power_of_two_are_not_rounded_in_a_model_in_bf16():
    shape = Shape(dim=48, num_heads=12, num_layers=1, context=32)
    heads_H1, zero, far = torch.arange(12)[:, None], torch.tensor(0), torch.tensor(1000)
    whole, half = (
        encoding.score_mod(torch.zeros(1), None, torch.arange(1001), None, 0)(
            torch.zeros(12, 1), zero, heads_H1, far, zero
        )
        for encoding in (build("alibi", shape), build("alibi", shape).bfloat16())
    )
    assert torch.equal(whole, half)


@pytest.mark.parametrize("name", ["sandwich", "cpb"])
def test_tables_of_the_distance_refuse_fractions_of_a_token(name):
    encoding, content = build(name), Content.random(SHAPE, T)
    with pytest.raises(ValueError, match="whole tokens"):
        attention(content.q, content.k, content.v, encoding, torch.arange(T) / 2, content.x, 0)


@pytest.mark.parametrize("name", ["sandwich", "cpb", "t5", "relative", "shaw", "deberta", "kerple_log", "alibi"])
def test_positions_a_sequence_of_its_own_are_looked_up(name):
    """(B, T) positions with gaps: every score is that of the distance between the coordinates."""
    encoding = perturb(build(name))
    encoding.distance_bias = False  # executors take it for the default positions
    encoding.reach = 3 * T + 5
    content = Content.random(SHAPE, T)
    positions = torch.arange(T).expand(len(content.q), T).clone()
    positions[1] = 3 * positions[1] + 5
    out = attention(content.q, content.k, content.v, encoding, positions, content.x, 0, executor="dense")
    for b in range(2):
        alone = [t[b : b + 1] for t in (content.q, content.k, content.v)]
        wanted = attention(*alone, encoding, positions[b], content.x[b : b + 1], 0, executor="dense")
        close(out[b : b + 1], wanted)
    assert not torch.allclose(out[1], attend(encoding)[1])


@pytest.mark.parametrize("name", ["sandwich", "cpb"])
def test_a_table_reaches_as_far_as_randomized_positions(name):
    inner, content = perturb(build(name)), Content.random(SHAPE, T)
    plain = copy.deepcopy(inner)
    encoding = Randomized(SHAPE, inner).eval()
    positions = encoding.positions(content.tokens)
    assert positions.max() - positions.min() >= T
    plain.reach, plain.distance_bias = int(positions.max()) + 1, False
    given = (content.q, content.k, content.v)
    wanted = attention(*given, plain, positions, content.x, 0, executor="dense")
    close(attention(*given, encoding, positions, content.x, 0, executor="dense"), wanted)
