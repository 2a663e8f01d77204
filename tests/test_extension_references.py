"""Length extensions are what their papers say: equal to the references, and to transformers.

python -m pytest tests/test_extension_references.py
"""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.attention import attention
from model.catalogue import extension_names
from model.extensions.window import Window
from tests.extended import HEADS, L, check_reference, encoding_of, extension_of
from tests.laws import Content
from tests.references import softmax_rows
from tests.references.extensions import EXTENSION_REFERENCES, base_frequencies, rope_score, window

# At L = 16 the fastest pair makes 2.5 turns: llama3's 4 are not reached, and it says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:extension\.high=4")


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
    root = math.sqrt(encoding.shape.head_dim)
    extended = extension.apply(encoding, L, 40)
    slopes = encoding.slopes_H.tolist() if name == "alibi" else [0.0] * HEADS
    q, k, v = (t[0].numpy() for t in (content.q, content.k, content.v))

    def score(h, i, j):
        apart = window(extension, i, j, L, 40)
        return -math.inf if apart is None else q[h, i] @ k[h, j] / root - slopes[h] * apart

    positions = torch.arange(40)
    actual = attention(content.q, content.k, content.v, extended, positions, content.x, 0, executor="dense")
    np.testing.assert_allclose(actual[0].numpy(), softmax_rows(score, HEADS, 40, v), atol=1e-9)


@pytest.mark.parametrize("name", ["ssmax", "temperature"])
def test_a_window_over_a_scale_by_keys_counts_those_of_the_cache(name):
    encoding, extension = encoding_of(name), Window(window=6, sinks=3)
    content = Content.random(encoding.shape, 40, batch=1)
    extended = extension.apply(encoding, L, 40)
    q, k, v = (t[0].numpy() for t in (content.q, content.k, content.v))
    heads, thetas = encoding.shape.num_heads, base_frequencies(encoding.inner, encoding.shape.head_dim)

    def score(h, i, j):
        apart, n = window(extension, i, j, L, 40), min(i + 1, 9)
        if apart is None:
            return -math.inf
        steps = 1 + 0.1 * math.log(1 + n // (L // 4))
        scale = steps if name == "temperature" else encoding.scale_LH1[0, h, 0].item() * math.log(n)
        return scale * rope_score(q[h, i], k[h, j], thetas, apart)

    positions = torch.arange(40)
    actual = attention(content.q, content.k, content.v, extended, positions, content.x, 0, executor="dense")
    np.testing.assert_allclose(actual[0].detach().numpy(), softmax_rows(score, heads, 40, v), atol=1e-9)


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
    encoding = encoding_of("rope", head_dim, context=train_length)
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
