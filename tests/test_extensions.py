"""Test-time length extensions: stateless, and fitting what they say they fit.

python -m pytest tests/test_extensions.py
"""

import copy
import functools

import pytest
import torch

import model.attention
from model.attention import attention
from model.block import Past
from model.catalogue import encoding_config, encoding_names, extension_names
from model.encodings import Shape, build_encoding
from model.encodings.combined import Combined
from model.encodings.logn import LogN
from model.extensions import device_and_dtype
from tests.extended import (
    DISTANCE_METHODS,
    FREQUENCY_METHODS,
    HEADS,
    IN_TRAINING_ALONE,
    WITHIN_TRAINING_TOO,
    L,
    encoding_of,
    extension_of,
    hidden,
    model_of,
    tuned,
)
from tests.laws import Content, elsewhere, random_tokens
from tests.references.extensions import EXTENSION_REFERENCES

# At L = 16 the fastest pair makes 2.5 turns: llama3's 4 are not reached, and it says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:extension\.high=4")


FEW = ("none", "rope", "rope_partial", "rope_learned", "alibi", "t5", "sinusoidal", "learned", "fox", "cope", "swan")
every_encoding = pytest.mark.parametrize(
    "names", [pytest.param(FEW, id="few"), pytest.param(tuple(encoding_names()), id="all", marks=pytest.mark.slow)]
)


@functools.cache
def fitting_pairs(names):
    return [
        (method, name)
        for method in extension_names()
        for name in names
        if extension_of(method).fits(encoding_of(name)) is None
    ]


@every_encoding
def test_every_extension_fits_and_runs_on_every_encoding_that_it_says_it_fits(names):
    pairs = fitting_pairs(names)
    for method, name in pairs:
        extension, outputs = extension_of(method), []
        longest = encoding_of(name).max_length
        for length in (L, 2 * L, 4 * L):
            if method not in {"table_interpolation", "drop"} and longest is not None and length > longest:
                with pytest.raises(ValueError, match="not defined beyond"):
                    hidden(name, extension, length)
                continue
            outputs.append(hidden(name, extension, length))
            assert torch.isfinite(outputs[-1]).all(), f"{method} on {name} at {length} tokens"
            if length == 2 * L:
                few = hidden(name, extension, length, last=5)
                assert torch.allclose(few, outputs[-1][:, -5:], rtol=1e-9), f"{method} on {name}: the last rows alone"
        plain = hidden(name, extension_of("none"), L)
        same = torch.equal(outputs[0], plain)
        assert same != (method in WITHIN_TRAINING_TOO), f"{method} on {name} at s = 1"
        one_pair = name in {"hope", "gemma4"}  # of their pairs only the fastest turns at L = 16, in heads of 7 pairs
        if method not in IN_TRAINING_ALONE and longest is None and not one_pair:
            unextended = hidden(name, extension_of("none"), 4 * L)
            assert not torch.allclose(outputs[-1], unextended), f"{method} changes nothing on {name} at s = 4"
    assert {method for method, _ in pairs} == set(extension_names())


@pytest.mark.parametrize("length", [1, L // 2, L])
@pytest.mark.parametrize("method", extension_names())
def test_within_the_training_length_every_extension_is_none_to_the_last_bit(method, length):
    for name in ("rope", "alibi", "learned", "sinusoidal", "logn", "none"):
        extension = extension_of(method)
        if method not in WITHIN_TRAINING_TOO and extension.fits(encoding_of(name)) is None:
            assert torch.equal(hidden(name, extension, length), hidden(name, extension_of("none"), length))


@every_encoding
def test_an_extended_encoding_stays_on_one_device(names):
    for method, name in fitting_pairs(names):
        if method == "none":  # the encoding itself, which the laws hold
            continue
        extension, encoding = extension_of(method), encoding_of(name)
        length = 2 * L if method == "table_interpolation" else min(2 * L, encoding.max_length or 2 * L)
        extension = tuned(extension, encoding, L, length)
        found = elsewhere(copy.deepcopy(extension.apply(encoding, L, length)), length)
        assert not found, f"{method} on {name}: {', '.join(found)}"


def test_what_an_encoding_is_tried_out_in_is_the_type_of_its_parameters():
    cpu = torch.device("cpu")
    for name in ("rope", "rope_learned", "alibi", "sinusoidal", "none"):  # constants are float64 whatever the rest is
        encoding = build_encoding(encoding_config(name), encoding_of(name).shape)
        assert device_and_dtype(encoding) == device_and_dtype(encoding.bfloat16()) == (cpu, torch.float32)
    assert device_and_dtype(encoding_of("rope_learned")) == (cpu, torch.float64)


def test_a_constant_of_a_view_is_none_of_the_original():
    encoding = copy.deepcopy(encoding_of("rope"))
    before = dict(encoding.named_buffers())
    extended = extension_of("longrope", factors=[1.0] * 6 + [2.0]).apply(encoding, L, 4 * L)
    extended.constant("theta", 2 * extended.theta)
    assert {*dict(encoding.bfloat16().named_buffers())} == {*before} and torch.equal(encoding.theta, before["theta"])
    assert "factors_P" not in extended.state_dict()


BASES = {name: reference.encoding for name, reference in EXTENSION_REFERENCES.items()}


@pytest.mark.parametrize("method", sorted(BASES))
def test_results_do_not_depend_on_the_order_of_evaluation(method):
    extension, lengths = extension_of(method), [2 * L, 4 * L, 3 * L, L]
    forward = {length: hidden(BASES[method], extension, length) for length in lengths}
    backward = {length: hidden(BASES[method], extension, length) for length in reversed(lengths)}
    alone = {length: hidden(BASES[method], extension_of(method), length) for length in lengths}
    for length in lengths:
        assert torch.equal(forward[length], backward[length])
        assert torch.equal(forward[length], alone[length])


@pytest.mark.parametrize("method", sorted(BASES))
def test_the_original_stays_as_it_was_and_its_parameters_are_shared(method):
    encoding = encoding_of({"rope": "rope_learned", "alibi": "alibi_learned"}.get(BASES[method], BASES[method]))
    if method in {"yarn", "pose"}:  # learned frequencies have lost their order
        encoding = encoding_of("rope")
    before = {key: value.clone() for key, value in encoding.state_dict().items()}
    extension = extension_of(method)
    attributes, settings = set(vars(encoding)), vars(extension).copy()
    extended = tuned(extension, encoding, L, 4 * L).apply(encoding, L, 4 * L)
    assert extended is not encoding
    kept = set() if method == "drop" else {id(p) for p in encoding.parameters()}
    assert {id(p) for p in extended.parameters()} == kept
    extended.max_length, extended.base = 5, 1.0
    extended.register_buffer("more", torch.zeros(1))
    assert set(vars(encoding)) == attributes and vars(extension) == settings
    assert "more" not in dict(encoding.named_buffers())
    assert all(torch.equal(value, before[key]) for key, value in encoding.state_dict().items())


def test_an_extension_reaches_the_encoding_inside_a_wrapper():
    content = Content.random(encoding_of("logn").shape, 4 * L)
    wrapped = extension_of("rerope").apply(encoding_of("logn"), L, 4 * L)
    around = LogN(encoding_of("rope").shape, extension_of("rerope").apply(encoding_of("rope"), L, 4 * L))
    for executor in ("dense", "blocked"):
        args = (torch.arange(4 * L), content.x, 0)
        q, k, v = content.q, content.k, content.v
        expected = attention(q, k, v, around, *args, executor="dense")
        torch.testing.assert_close(attention(q, k, v, wrapped, *args, executor=executor), expected)
    assert wrapped.rescores and not encoding_of("logn").rescores and not encoding_of("logn").inner.rescores


def test_an_extension_reaches_the_part_of_a_combination_that_it_fits():
    shape = encoding_of("rope").shape
    both = Combined(shape, {"turn": encoding_of("rope"), "table": encoding_of("learned")})
    pi, table = (extension_of(name).apply(both, L, 4 * L) for name in ("pi", "table_interpolation"))
    assert torch.equal(pi.parts["turn"].frequencies(0), encoding_of("rope").frequencies(0) / 4)
    assert pi.parts["table"] is both.parts["table"] and pi.max_length == L
    assert table.parts["turn"] is both.parts["turn"] and table.max_length == 4 * L
    table.check_length(4 * L)
    assert extension_of("rerope").fits(both) and extension_of("alibi_interpolation").fits(both)


@pytest.mark.parametrize("method", ["rerope", "leaky_rerope", "self_extend", "window"])
def test_blocks_of_rows_give_what_whole_rows_give(method, monkeypatch):
    monkeypatch.setattr(model.attention, "BLOCK_SCORES", 7 * HEADS * 4 * L)
    encoding = encoding_of("rope")
    extended, content = extension_of(method).apply(encoding, L, 4 * L), Content.random(encoding.shape, 4 * L, batch=1)
    args = content.q, content.k, content.v, extended, torch.arange(4 * L), content.x, 0
    torch.testing.assert_close(attention(*args, executor="blocked"), attention(*args, executor="dense"))


@pytest.mark.parametrize(
    ("method", "name"),
    [("rerope", "rope"), ("self_extend", "rope"), ("window", "rope"), ("window", "alibi"), ("yarn", "rope"),
     ("logn", "rope"), ("alibi_interpolation", "alibi"), ("table_interpolation", "learned")],
)  # fmt: skip
def test_decoding_token_by_token_gives_what_one_pass_gives(method, name):
    owner, tokens_BT = model_of(name), random_tokens(1, 3 * L)
    extended = extension_of(method).apply(owner.encoding, L, 3 * L)
    past = Past()
    with torch.no_grad():
        pieces = [owner.hidden(piece, past, extended) for piece in tokens_BT.split([2 * L, *[1] * L], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), owner.hidden(tokens_BT, encoding=extended))


# --------------------------------------------------------------------------------------------------------- what it fits

TURNS_Q_AND_K = {"rope", "rope_abf", "rope_layerwise", "rope_learned", "rope_multiscale", "rope_nope", "rope_partial"}


@pytest.mark.parametrize("method", sorted(FREQUENCY_METHODS | DISTANCE_METHODS))
def test_rotations_by_index_times_frequency_are_extended_and_no_others(method):
    fits = {name for name in encoding_names() if extension_of(method).fits(encoding_of(name)) is None}
    learned = {"rope_learned"} if method == "yarn" else set()  # no ramp over the index of pairs without an order
    single = {"hope"} if method in {"ntk", "dynamic_ntk"} else set()  # at L = 16 it turns one pair
    assert fits >= (TURNS_Q_AND_K | {"rope_partial_head", "hope", "logn"}) - learned - single
    assert not fits & ({"xpos", "rope_axial", "rope_hierarchical", "rope_embeddings", "rope_selective", "randomized"})
    assert "window" not in fits
    assert not fits & ({"alibi", "none", "sinusoidal", "learned", "t5", "shaw", "fire"} | learned)
    assert ({"rope_placement", "polar"} <= fits) == (method in FREQUENCY_METHODS)


def test_the_other_methods_fit_what_their_names_say():
    def fits(method):
        return {name for name in encoding_names() if extension_of(method).fits(encoding_of(name)) is None}

    assert fits("none") == set(encoding_names())
    assert fits("drop") == set(encoding_names()) - {"none", "layers", "swan", "rnope_swa"}  # of global NoPE
    assert fits("logit_scale") == {*encoding_names()} - {"stick_breaking"}
    assert {"rope", "alibi", "t5", "learned", "sinusoidal", "combined"} <= fits("random_positions")
    assert not fits("random_positions") & {"none", "randomized", "window", "rope_axial", "axial_learned"}
    assert {"rope", "rope_nope", "logn"} <= fits("pose")
    assert not fits("pose") & {"none", "randomized", "window", "alibi"}
    assert {"alibi", "alibi_learned"} <= fits("alibi_interpolation") and "rope" not in fits("alibi_interpolation")
    assert fits("table_interpolation") == {"learned", "sinusoidal", "sinusoidal_scaled"}
    assert {"rope", "alibi", "none", "t5", "kerple_log"} <= fits("window")
    assert not fits("window") & {"learned", "sinusoidal", "fox", "cope", "xpos", "shaw"}
    assert not fits("logn") & {"logn", "ssmax", "temperature", "stick_breaking", "window"}


@pytest.mark.parametrize(
    ("method", "inner"), [(method, "rope") for method in sorted(FREQUENCY_METHODS)] + [("alibi_interpolation", "alibi")]
)
def test_distances_that_training_has_spread_or_a_window_hides_are_not_stretched(method, inner):
    shape = encoding_of("rope").shape
    for outer, reason in (("randomized", "not the tokens' own"), ("window", "no distance is longer than in training")):
        encoding = build_encoding({**encoding_config(outer), "inner": encoding_config(inner)}, shape).eval()
        with pytest.raises(ValueError, match=reason):
            extension_of(method).apply(encoding, L, 4 * L)
    parts = {"window": {**encoding_config("window"), "inner": encoding_config("none")}, "part": encoding_config(inner)}
    beside = build_encoding({**encoding_config("combined"), "parts": parts}, shape).eval()
    assert "no distance is longer" in extension_of(method).fits(beside)


@pytest.mark.parametrize("method", extension_names())
def test_where_it_does_not_fit_it_says_why_and_apply_refuses(method):
    extension = extension_of(method)
    for name in encoding_names():
        if reason := extension.fits(encoding_of(name)):
            assert len(reason.split()) >= 4
            with pytest.raises(ValueError, match="does not apply") as error:
                extension.apply(encoding_of(name), L, 4 * L)
            assert reason in str(error.value)


# --------------------------------------------------------------------------------- heads, pairs, layers that don't turn

PARTLY = [
    ("rope_partial", {"p": 0.5}),
    ("rope_partial", {"p": 0.8}),
    ("rope_partial_head", {}),
    ("hope", {}),
    ("rope", {}),
]


@pytest.mark.parametrize(("name", "settings"), PARTLY)
@pytest.mark.parametrize(("method", "slowest"), [("ntk", 4), ("dynamic_ntk", 7), ("ntk_mixed", 4)])
def test_the_slowest_pair_that_turns_is_divided_by_the_stretch(method, slowest, name, settings):
    shape = Shape(dim=96, num_heads=2, num_layers=1, context=100)
    encoding = build_encoding({**encoding_config(name), **settings}, shape).eval()
    frequencies = encoding.frequencies(0)
    ratios = (frequencies / extension_of(method).apply(encoding, 100, 400).frequencies(0))[frequencies > 0]
    assert ratios[-1].item() == pytest.approx(slowest)  # alpha · 4 − (alpha − 1) for dynamic_ntk
    assert ratios[0].item() == pytest.approx(1.0) or method == "ntk_mixed"
    assert (ratios.diff() > 0).all()


@pytest.mark.parametrize("method", ["yarn_paper", "longrope"])
def test_a_temperature_scales_what_turns_and_leaves_the_rest_as_trained(method):
    shape = Shape(dim=32, num_heads=2, num_layers=2, context=L)
    content = Content.random(shape, 4 * L)

    def turned(name, layer=0, **settings):
        encoding = build_encoding({**encoding_config(name), **settings}, shape).double().eval()
        pairs = encoding.frequencies(0).shape[-1]
        given = {"factors": [1.0] * pairs} if method == "longrope" else {}
        extension = extension_of(method, **given)
        extended = extension.apply(encoding, L, 4 * L)
        content_of = (content.q, content.k, content.v, torch.arange(4 * L), content.x, layer)
        return extended.attention_factor, *(e.rotate(*content_of) for e in (extended, encoding))

    factor, (q, k, v), (plain_q, plain_k, plain_v) = turned("rope")
    assert factor > 1 and torch.equal(v, plain_v)
    torch.testing.assert_close(q.norm(dim=-1), factor * plain_q.norm(dim=-1))
    torch.testing.assert_close(k.norm(dim=-1), factor * plain_k.norm(dim=-1))
    for name, settings, layer, still in (
        ("rope_layerwise", {"bases": [10_000.0, None]}, 1, slice(None)),  # a layer without positions
        ("rope_partial_head", {"share": 0.5}, 0, slice(8, None)),  # half of the head
        ("rope_partial", {"p": 0.5, "interleaved": True}, 0, slice(8, None)),  # the slower half of the pairs
        ("rope_placement", {"placement": "output"}, 0, slice(None)),  # q and k as they are
    ):
        _, ours, plain = turned(name, layer, **settings)
        for extended, trained in zip(ours, plain, strict=True):
            assert torch.equal(extended[..., still], trained[..., still]), name
    _, ours, plain = turned("rope_placement")
    torch.testing.assert_close(ours[2].norm(dim=-1), plain[2].norm(dim=-1))  # values turn without a temperature


def test_a_rope_whose_learned_frequencies_lost_their_order_needs_the_paper_s_ramp():
    assert "use yarn_paper" in extension_of("yarn").fits(encoding_of("rope_learned"))
    untrained = build_encoding(encoding_config("rope_learned"), encoding_of("rope").shape).eval()
    assert extension_of("yarn").fits(untrained) is None


def test_what_fits_a_model_in_float32_fits_it_in_bf16():
    encoding = copy.deepcopy(encoding_of("rope_learned")).bfloat16()
    for method in sorted(FREQUENCY_METHODS | DISTANCE_METHODS | {"window"}):
        assert bool(extension_of(method).fits(encoding)) == bool(extension_of(method).fits(encoding_of("rope_learned")))


@pytest.mark.parametrize("outer", ["randomized", "logn", "window", "combined"])
@pytest.mark.parametrize("method", extension_names())
def test_fits_does_not_count_as_a_draw_of_randomized_positions(method, outer):
    config = randomized = encoding_config("randomized")
    if outer == "combined":
        config = {**encoding_config(outer), "parts": {"first": randomized, "second": encoding_config("alibi")}}
    elif outer != "randomized":
        config = {**encoding_config(outer), "inner": randomized}
    encoding = build_encoding(config, encoding_of("rope").shape).train()
    before = {name: value.clone() for name, value in encoding.state_dict().items()}
    extension_of(method).fits(encoding)
    assert all(torch.equal(value, before[name]) for name, value in encoding.state_dict().items())
    assert all(module.training for module in encoding.modules())
