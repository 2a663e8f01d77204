"""Test-time length extensions: stateless, equal to references and to transformers, and fitting what they say they fit.

python -m pytest tests/test_extensions.py
"""

import functools
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import model.attention
from model.attention import attention
from model.catalogue import encoding_config, encoding_names, extension_config, extension_names
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.combined import Combined
from model.encodings.logn import LogN
from model.extensions import build_extension
from model.extensions.alibi_interpolation import ALiBiInterpolation
from model.extensions.llama3 import Llama3
from model.extensions.logn import LogNExtension
from model.extensions.longrope import LongRoPE
from model.extensions.ntk import NTK, DynamicNTK, MixedNTK
from model.extensions.pi import PI
from model.extensions.rerope import LeakyReRoPE, ReRoPE
from model.extensions.rotary import pair_index
from model.extensions.self_extend import SelfExtend
from model.extensions.table_interpolation import TableInterpolation
from model.extensions.window import Window
from model.extensions.yarn import YaRN, YaRNPaper
from model.transformer import Past
from tests.laws import Content, perturb, random_tokens, rig_model
from tests.references import softmax_rows
from tests.references.extensions import EXTENSION_REFERENCES, window

L = 16  # training context of the models here, tokens
FREQUENCY_METHODS = {"pi", "ntk", "dynamic_ntk", "ntk_mixed", "yarn", "yarn_paper", "llama3", "longrope"}
DISTANCE_METHODS = {"rerope", "leaky_rerope", "self_extend"}

# At L = 16 the fastest pair makes 2.5 turns: llama3's 4 are not reached, and it says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:extension\.high=4")


@functools.cache
def encoding_of(name: str, dim: int = 16, context: int = L) -> PositionEncoding:
    """Two heads, two layers, float64, in eval mode, its parameters moved off their initial values."""
    shape = Shape(dim, num_heads=2, num_layers=2, context=context, separators={"line": (3,), "sentence": (4, 5)})
    return perturb(build_encoding(encoding_config(name), shape).double().eval())


@functools.cache
def model_of(name: str):
    """A transformer around `encoding_of(name)`, the same object for every test: no extension may change it."""
    return rig_model(encoding_of(name)).eval()


def extension_of(name: str, **settings):
    return build_extension({**extension_config(name), **settings})


def hidden(name: str, extension, length: int) -> torch.Tensor:
    """The transformer's output on `length` tokens with its encoding extended to them."""
    owner = model_of(name)
    if extension.needs_tuning:
        extension = extension.tune(lambda encoding: 0.0, owner.encoding, L, length)
    with torch.no_grad():
        return owner.hidden(random_tokens(1, length), encoding=extension.apply(owner.encoding, L, length))


def fitting_pairs():
    return [
        (method, name)
        for method in extension_names()
        for name in encoding_names()
        if extension_of(method).fits(encoding_of(name)) is None
    ]


# ----------------------------------------------------------------------------------------------------------- references


def check_reference(name, extension=None, train_length=40, eval_length=90):
    """The extended encoding's attention, or its embeddings, equal the reference's."""
    reference = EXTENSION_REFERENCES[name]
    encoding = encoding_of(reference.encoding, dim=32, context=train_length)
    extension = extension or extension_of(name, **reference.settings)
    extended = extension.apply(encoding, train_length, eval_length)
    content = Content.random(encoding.shape, eval_length, batch=1)
    positions = extended.positions(content.tokens)
    with torch.no_grad():
        if reference.embed:
            actual = extended.embed(content.x, positions)[0]
            expected = reference.embed(extension, encoding, content.x[0].numpy(), train_length, eval_length)
        else:
            q, k, v = content.q, content.k, content.v
            actual = attention(q, k, v, extended, positions, content.x, 0, executor="dense")[0]
            arrays = (t[0].numpy() for t in (q, k, v))
            expected = reference.output(extension, encoding, *arrays, train_length, eval_length)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-9)


def test_every_extension_has_a_reference():
    assert {*EXTENSION_REFERENCES, "none"} == set(extension_names())


@pytest.mark.parametrize("name", sorted(EXTENSION_REFERENCES))
def test_an_extension_equals_its_reference(name):
    check_reference(name)


@pytest.mark.parametrize("name", ["rerope", "leaky_rerope", "self_extend", "window", "logn", "pi", "ntk_mixed"])
@pytest.mark.parametrize("lengths", [(9, 10), (8, 64), (31, 47)])
def test_and_at_awkward_lengths(name, lengths):
    check_reference(name, extension_of(name), *lengths)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("self_extend", {"window": 7, "group": 3}),
        ("self_extend", {"window": 20, "group": 4}),
        ("leaky_rerope", {"window": 10, "slowdown": 2.5}),
        ("rerope", {"window": 1}),
        ("window", {"window": 5, "sinks": 2}),
        ("window", {"window": 9, "sinks": 0}),
        ("dynamic_ntk", {"alpha": 1.0}),
    ],
)
def test_and_with_other_settings(name, settings):
    train_length = 90 if name == "self_extend" else 40  # a group of 3 or 4 reaches no further
    check_reference(name, extension_of(name, **settings), train_length, train_length + 20)


@pytest.mark.parametrize("name", ["alibi", "none"])
def test_a_window_over_a_bias_or_over_nothing_is_a_cache_token_by_token(name):
    encoding = encoding_of(name)
    extension, content = Window(window=6, sinks=3), Content.random(encoding.shape, 40, batch=1)
    extended = extension.apply(encoding, L, 40)
    slopes = encoding.slopes_H.tolist() if name == "alibi" else [0.0, 0.0]
    q, k, v = (t[0].numpy() for t in (content.q, content.k, content.v))

    def score(h, i, j):
        apart = window(extension, i, j, L, 40)
        return -math.inf if apart is None else q[h, i] @ k[h, j] / math.sqrt(8) - slopes[h] * apart

    positions = torch.arange(40)
    actual = attention(content.q, content.k, content.v, extended, positions, content.x, 0, executor="dense")
    np.testing.assert_allclose(actual[0].numpy(), softmax_rows(score, 2, 40, v), atol=1e-9)


# ------------------------------------------------------------------------------------------------------- planted faults


class PIBackwards(PI):
    def stretch(self, frequencies, train_length, eval_length):
        return frequencies * eval_length / train_length


class NTKWithoutTheCorrection(NTK):
    """base · s, not base · s^(d/(d−2)): the slowest pair is slowed too little."""

    def stretch(self, frequencies, train_length, eval_length):
        pairs = frequencies.shape[-1]
        return frequencies * (eval_length / train_length) ** (-pair_index(frequencies) * (pairs - 1) / pairs)


class DynamicNTKWithoutTheOffset(DynamicNTK):
    def factor(self, train_length, eval_length):
        return self.alpha * eval_length / train_length


class MixedNTKFromPairZero(MixedNTK):
    def stretch(self, frequencies, train_length, eval_length):
        a = math.log(eval_length / train_length)
        return frequencies * torch.exp(-a * (torch.arange(8) / 8) ** self.power)


class YaRNWithTheRampReversed(YaRN):
    def kept(self, frequencies, train_length, fast):
        return 1 - super().kept(frequencies, train_length, fast)


class YaRNPaperWithTheRampReversed(YaRNPaper):
    def kept(self, frequencies, train_length, fast):
        return 1 - super().kept(frequencies, train_length, fast)


class YaRNWithoutTemperature(YaRN):
    def attention_factor(self, train_length, eval_length):
        return 1.0


class YaRNWithTheScoresScaledOnce(YaRN):
    """The factor is on cos and sin, so on q and on k: the scores get its square."""

    def attention_factor(self, train_length, eval_length):
        return super().attention_factor(train_length, eval_length) ** 0.5


class YaRNWithItsRangeOneOff(YaRN):
    def kept(self, frequencies, train_length, fast):
        return super().kept(frequencies * frequencies[0] / frequencies[1], train_length, fast)


class Llama3WithTheWavesSwapped(Llama3):
    def stretch(self, frequencies, train_length, eval_length):
        return frequencies**2 / super().stretch(frequencies, train_length, eval_length) / self.factor


class LongRoPEMultiplies(LongRoPE):
    def stretch(self, frequencies, train_length, eval_length):
        return frequencies**2 / super().stretch(frequencies, train_length, eval_length)


class LongRoPEWithoutTemperature(LongRoPE):
    def attention_factor(self, train_length, eval_length):
        return 1.0


class ReRoPEOneTokenOff(ReRoPE):
    def far(self, near, train_length, eval_length):
        return super().far(near + 1, train_length, eval_length)


class LeakyReRoPEOneTokenOff(LeakyReRoPE):
    def far(self, near, train_length, eval_length):
        return {**super().far(near, train_length, eval_length), "far_q": lambda i: near + i * near / eval_length}


class SelfExtendWithAFractionOfAGroup(SelfExtend):
    def far(self, near, train_length, eval_length):
        group = self.smallest_group(near, train_length, eval_length)
        return {
            **super().far(near, train_length, eval_length),
            "far_q": lambda i: (i / group).floor() + near - near / group,
        }


class SelfExtendOneTokenOff(SelfExtend):
    def near(self, train_length):
        return super().near(train_length) + 1


class WindowWithoutTheRowItself(Window):
    def extend(self, encoding, train_length, eval_length):
        return Window(train_length - self.sinks - 1, self.sinks).extend(encoding, train_length, eval_length)


class WindowWithOneSinkMore(Window):
    def extend(self, encoding, train_length, eval_length):
        return Window(self.window, self.sinks + 1).extend(encoding, train_length, eval_length)


class LogNOfTheRowsBefore(LogNExtension):
    def extend(self, encoding, train_length, eval_length):
        return LogN(encoding.shape, encoding, length=train_length - 1)


class ALiBiBackwards(ALiBiInterpolation):
    def extend_part(self, part, train_length, eval_length):
        return super().extend_part(part, eval_length, train_length)


class TableOneRowOff(TableInterpolation):
    """i·L/N: the last tokens fall past the last row."""

    def extend_part(self, part, train_length, eval_length):
        return super().extend_part(part, train_length + 1, eval_length + 1)


FAULTS = {
    "pi": [PIBackwards],
    "ntk": [NTKWithoutTheCorrection],
    "dynamic_ntk": [DynamicNTKWithoutTheOffset],
    "ntk_mixed": [MixedNTKFromPairZero],
    "yarn": [
        YaRNWithTheRampReversed,
        YaRNWithoutTemperature,
        YaRNWithTheScoresScaledOnce,
        YaRNWithItsRangeOneOff,
        YaRNPaper,
    ],
    "yarn_paper": [YaRNPaperWithTheRampReversed, YaRN],
    "llama3": [Llama3WithTheWavesSwapped],
    "longrope": [LongRoPEMultiplies, LongRoPEWithoutTemperature],
    "rerope": [ReRoPEOneTokenOff],
    "leaky_rerope": [LeakyReRoPEOneTokenOff],
    "self_extend": [SelfExtendWithAFractionOfAGroup, SelfExtendOneTokenOff],
    "logn": [LogNOfTheRowsBefore],
    "window": [WindowWithoutTheRowItself, WindowWithOneSinkMore],
    "alibi_interpolation": [ALiBiBackwards],
    "table_interpolation": [TableOneRowOff],
}


@pytest.mark.parametrize(
    ("name", "fault"), [pytest.param(n, f, id=f"{n}-{f.__name__}") for n, faults in FAULTS.items() for f in faults]
)
def test_a_fault_fails_against_the_reference(name, fault):
    with pytest.raises(AssertionError):
        check_reference(name, fault(**EXTENSION_REFERENCES[name].settings))


def test_every_reference_has_caught_a_fault():
    assert FAULTS.keys() == EXTENSION_REFERENCES.keys()


# --------------------------------------------------------------------------------------------------------- transformers


def of_transformers(rope_type: str, head_dim: int, base: float, train_length: int, eval_length: int, **parameters):
    """transformers' frequencies and the factor that it multiplies cos and sin with."""
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=train_length if rope_type == "dynamic" else eval_length,
        rope_parameters={
            "rope_type": rope_type,
            "rope_theta": base,
            "factor": eval_length / train_length,
            "original_max_position_embeddings": train_length,
            **parameters,
        },
    )
    return ROPE_INIT_FUNCTIONS[rope_type](config, "cpu", seq_len=eval_length)


@pytest.mark.filterwarnings(r"ignore:extension\.beta_fast=32")
@pytest.mark.parametrize("eval_length", [4.0, 2.5])
@pytest.mark.parametrize(("train_length", "head_dim"), [(4096, 128), (128, 32), (500, 64)])
@pytest.mark.parametrize(
    ("rope_type", "parameters", "method", "settings"),
    [
        ("linear", {}, "pi", {}),
        ("dynamic", {"factor": 2.0}, "dynamic_ntk", {"alpha": 2.0}),
        ("dynamic", {"factor": 1.0}, "ntk", {}),
        ("yarn", {}, "yarn", {"beta_fast": 32.0}),
        ("yarn", {"beta_fast": 6.0, "beta_slow": 2.0}, "yarn", {"beta_fast": 6.0, "beta_slow": 2.0}),
        ("llama3", {"low_freq_factor": 1.0, "high_freq_factor": 4.0}, "llama3", {}),
        ("llama3", {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "factor": 8.0}, "llama3", {"factor": 8.0}),
        ("longrope", {}, "longrope", {}),
    ],
)
def test_frequencies_and_factor_equal_transformers(
    rope_type, parameters, method, settings, train_length, head_dim, eval_length
):
    eval_length = int(train_length * eval_length)
    encoding = encoding_of("rope", dim=2 * head_dim, context=train_length)
    if rope_type == "longrope":
        settings = {"factors": [1 + 0.03 * k for k in range(head_dim // 2)]}
        parameters = {"long_factor": settings["factors"], "short_factor": [1.0] * (head_dim // 2)}
    theirs, factor = of_transformers(rope_type, head_dim, encoding.base, train_length, eval_length, **parameters)
    extended = extension_of(method, **settings).apply(encoding, train_length, eval_length)
    torch.testing.assert_close(extended.frequencies(0), theirs.double(), rtol=1e-5, atol=0)
    assert extended.attention_factor == pytest.approx(factor, abs=1e-12)
    q = torch.randn(1, 2, 7, head_dim, dtype=torch.float64)
    plain = extended.cos_sin(torch.arange(7), 0, q.dtype)
    turned, _, _ = extended.rotate(q, q, q, torch.arange(7), None, 0)
    a, b = q.chunk(2, dim=-1)
    expected = torch.cat([a * plain[0] - b * plain[1], b * plain[0] + a * plain[1]], dim=-1) * factor
    torch.testing.assert_close(turned, expected, rtol=1e-12, atol=1e-12)


# -------------------------------------------------------------------------------------------------------- statelessness


def test_every_extension_fits_and_runs_on_every_encoding_that_it_says_it_fits():
    pairs = fitting_pairs()
    for method, name in pairs:
        extension, outputs = extension_of(method), []
        longest = encoding_of(name).max_length
        for length in (L, 2 * L, 4 * L):
            if method != "table_interpolation" and longest is not None and length > longest:
                with pytest.raises(ValueError, match="not defined beyond"):
                    hidden(name, extension, length)
                continue
            outputs.append(hidden(name, extension, length))
            assert torch.isfinite(outputs[-1]).all(), f"{method} on {name} at {length} tokens"
        plain = hidden(name, extension_of("none"), L)
        assert torch.equal(outputs[0], plain), f"{method} on {name} at s = 1"
        if method != "none" and longest is None and name != "hope":  # of HoPE's pairs only the fastest turns at L = 16
            unextended = hidden(name, extension_of("none"), 4 * L)
            assert not torch.allclose(outputs[-1], unextended), f"{method} changes nothing on {name} at s = 4"
    assert {method for method, _ in pairs} == set(extension_names())


@pytest.mark.parametrize("length", [1, L // 2, L])
@pytest.mark.parametrize("method", extension_names())
def test_within_the_training_length_every_extension_is_none_to_the_last_bit(method, length):
    for name in ("rope", "alibi", "learned", "sinusoidal", "logn", "none"):
        extension = extension_of(method)
        if extension.fits(encoding_of(name)) is None:
            assert torch.equal(hidden(name, extension, length), hidden(name, extension_of("none"), length))


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
    if method == "yarn":
        encoding = encoding_of("rope")
    before = {key: value.clone() for key, value in encoding.state_dict().items()}
    attributes, settings = set(vars(encoding)), vars(extension_of(method)).copy()
    extension = extension_of(method)
    tuned = extension.tune(lambda e: 0.0, encoding, L, 4 * L) if extension.needs_tuning else extension
    extended = tuned.apply(encoding, L, 4 * L)
    assert extended is not encoding
    assert {id(p) for p in extended.parameters()} == {id(p) for p in encoding.parameters()}
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
    monkeypatch.setattr(model.attention, "BLOCK_SCORES", 7 * 2 * 4 * L)
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
    assert fits >= (TURNS_Q_AND_K | {"rope_partial_head", "hope", "logn"}) - learned
    assert not fits & ({"xpos", "rope_axial", "rope_hierarchical", "rope_embeddings", "rope_selective", "randomized"})
    assert not fits & ({"alibi", "none", "sinusoidal", "learned", "t5", "shaw", "fire"} | learned)
    assert ({"rope_placement", "polar"} <= fits) == (method in FREQUENCY_METHODS)


def test_the_other_methods_fit_what_their_names_say():
    def fits(method):
        return {name for name in encoding_names() if extension_of(method).fits(encoding_of(name)) is None}

    assert fits("none") == set(encoding_names())
    assert {"alibi", "alibi_learned"} <= fits("alibi_interpolation") and "rope" not in fits("alibi_interpolation")
    assert fits("table_interpolation") == {"learned", "sinusoidal", "sinusoidal_scaled"}
    assert {"rope", "alibi", "none", "t5", "kerple_log"} <= fits("window")
    assert not fits("window") & {"learned", "sinusoidal", "fox", "cope", "xpos", "shaw"}
    assert not fits("logn") & {"logn", "ssmax", "temperature", "stick_breaking"}


@pytest.mark.parametrize("method", extension_names())
def test_where_it_does_not_fit_it_says_why_and_apply_refuses(method):
    extension = extension_of(method)
    for name in encoding_names():
        if reason := extension.fits(encoding_of(name)):
            assert len(reason.split()) >= 4
            with pytest.raises(ValueError, match="does not apply") as error:
                extension.apply(encoding_of(name), L, 4 * L)
            assert reason in str(error.value)


def test_a_rope_whose_learned_frequencies_lost_their_order_needs_the_paper_s_ramp():
    assert "use yarn_paper" in extension_of("yarn").fits(encoding_of("rope_learned"))
    untrained = build_encoding(encoding_config("rope_learned"), encoding_of("rope").shape).eval()
    assert extension_of("yarn").fits(untrained) is None


def test_fits_does_not_count_as_a_draw_of_randomized_positions():
    encoding = build_encoding(encoding_config("randomized"), encoding_of("rope").shape).train()
    extension_of("pi").fits(encoding)
    assert encoding.draws == 0


# -------------------------------------------------------------------------------------------------- settings and tuning


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dynamic_ntk", {"alpha": 0.5}),
        ("ntk_mixed", {"power": 0.0}),
        ("yarn", {"beta_slow": 0.0}),
        ("yarn", {"beta_fast": 1.0}),
        ("yarn", {"temperature": -0.1}),
        ("llama3", {"factor": 0.5}),
        ("llama3", {"low": 4.0}),
        ("longrope", {"trials": 2}),
        ("longrope", {"factors": [1.0, 0.0]}),
        ("rerope", {"window": 0}),
        ("leaky_rerope", {"slowdown": 0.9}),
        ("self_extend", {"group": 0}),
        ("window", {"sinks": -1}),
        ("window", {"window": 0}),
    ],
)
def test_settings_that_can_not_be_are_refused_by_name(method, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=rf"extension\.({name}|beta_slow)="):
        extension_of(method, **settings)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rerope", {"window": L}),
        ("window", {"window": L}),
        ("window", {"sinks": L}),
        ("longrope", {}),
        ("longrope", {"factors": [1.0, 2.0]}),
    ],
)
def test_settings_that_do_not_suit_the_model_are_refused_when_applied(method, settings):
    with pytest.raises(ValueError, match=r"extension\.(window|factors)"):
        extension_of(method, **settings).apply(encoding_of("rope"), L, 4 * L)


def test_unknown_settings_and_classes_are_refused():
    with pytest.raises(ValueError, match="no setting factor"):
        extension_of("pi", factor=4)
    with pytest.raises(ValueError, match=r"extension\._target_"):
        build_extension({"_target_": "model.encodings.rope.RoPE"})
    with pytest.raises(ValueError, match="did you mean yarn"):
        extension_config("yran")


def test_settings_that_a_small_training_length_can_not_reach_warn():
    encoding = encoding_of("rope", dim=64, context=128)
    with pytest.warns(UserWarning, match=r"beta_fast=32: the fastest pair makes 20\.4 turns in 128 tokens"):
        YaRN(beta_fast=32).apply(encoding, 128, 512)
    with pytest.warns(UserWarning, match=r"extension\.high=40"):
        Llama3(high=40).apply(encoding, 128, 512)
    with pytest.warns(UserWarning, match=r"group=2: distances reach 287, beyond the longest of training, 127"):
        SelfExtend(group=2).apply(encoding, 128, 512)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("train_length", [64, 128, 512])
def test_the_defaults_scale_with_the_training_length_and_do_not_warn(train_length):
    encoding = encoding_of("rope", dim=64, context=train_length)
    for method in FREQUENCY_METHODS - {"longrope"} | DISTANCE_METHODS | {"window"}:
        extension_of(method).apply(encoding, train_length, 4 * train_length)
    for method in ("yarn", "yarn_paper", "llama3"):
        frequencies = extension_of(method).apply(encoding, train_length, 4 * train_length).frequencies(0)
        ratio = encoding.frequencies(0) / frequencies
        assert ratio[0] == 1 and ratio[-1] == pytest.approx(4), f"{method}: fastest kept, slowest divided"
        assert ((ratio > 1.01) & (ratio < 3.99)).any(), f"{method}: a passage between"


@pytest.mark.parametrize("method", ["yarn", "yarn_paper"])
def test_yarn_tuned_finds_the_better_temperature_and_ramp_and_says_so(method):
    encoding, tried = encoding_of("rope", dim=64, context=128), []
    target = extension_of(method, beta_fast=10.0, beta_slow=2.0, temperature=0.2).apply(encoding, 128, 512)

    def loss(extended):
        tried.append(extended)
        off = (extended.frequencies(0) / target.frequencies(0)).log().square().sum()
        return float(off + (extended.attention_factor - target.attention_factor) ** 2)

    extension = extension_of(method, tune=True)
    tuned = extension.tune(loss, encoding, 128, 512)
    assert tuned.temperature == 0.2 and tuned.beta_slow == 2.0 and len(tried) <= 13
    assert loss(tuned.apply(encoding, 128, 512)) < loss(extension.apply(encoding, 128, 512))
    assert "temperature=0.2" in tuned.describe() and "calibration split" in tuned.describe()
    assert extension.needs_tuning and not tuned.needs_tuning and extension.describe() == "beta_slow=1, temperature=0.1"
    assert extension_of(method).tune(loss, encoding, 128, 512).describe() == extension_of(method).describe()


def test_longrope_s_search_never_ends_worse_than_it_starts_and_repeats_itself():
    encoding = encoding_of("rope", dim=64, context=128)
    best = torch.linspace(1, 3, 16, dtype=torch.float64) ** 1.2
    starts = []

    def loss(extended):
        starts.append(float((encoding.frequencies(0) / extended.frequencies(0) - best).square().mean()))
        return starts[-1]

    tuned = LongRoPE(trials=40).tune(loss, encoding, 128, 512)
    assert loss(tuned.apply(encoding, 128, 512)) == min(starts) < 0.8 * min(starts[:3])
    assert tuned.factors == LongRoPE(trials=40).tune(loss, encoding, 128, 512).factors
    assert list(tuned.factors) == sorted(tuned.factors) and tuned.factors[0] >= 1 and tuned.factors[-1] <= 5
    assert "calibration split" in tuned.describe() and not tuned.needs_tuning
    assert LongRoPE(trials=40).tune(loss, encoding, 128, 128).needs_tuning  # nothing to search at s = 1
