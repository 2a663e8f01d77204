"""Pairs of encodings, combined: each is refused in a sentence when it is built, or obeys the laws.

python -m pytest tests/test_pairs.py            # a sample
python -m pytest tests/test_pairs.py -m slow    # all ordered pairs of conf/encoding: 50 × 50, ten minutes
"""

import functools
import re

import pytest
import torch

from model.attention import attention
from model.catalogue import encoding_config, encoding_names
from model.encodings import PositionEncoding, build_encoding
from tests import laws

config = functools.cache(encoding_config)
NAMES = encoding_names()


def combination(first: str, second: str) -> laws.Build:
    return laws.of_config({**config("combined"), "parts": {"first": config(first), "second": config(second)}})


def refused_or_lawful(build: laws.Build) -> str | None:
    """The sentence that refuses it, or None where it is built and obeys the laws."""
    try:
        build(laws.SHAPE)
    except ValueError as error:
        assert re.fullmatch(r"encoding\.(parts[=:]|parts\.\w+=|length=) ?\w+.{20,}", str(error)), (
            f"no sentence: {error}"
        )
        return str(error)
    laws.check_causality(build)
    laws.check_gradients(build)
    laws.check_parts(build)
    return None


SAMPLE = [(NAMES[i], NAMES[(5 * i + 3) % len(NAMES)]) for i in range(0, len(NAMES), 6)]


@pytest.mark.parametrize("first, second", SAMPLE)
def test_a_pair_is_refused_when_it_is_built_or_obeys_the_laws(first, second):
    refused_or_lawful(combination(first, second))


@pytest.mark.slow
@pytest.mark.parametrize("first", NAMES)
def test_all_pairs_are_refused_when_they_are_built_or_obey_the_laws(first):
    broken = {}
    for second in NAMES:
        try:
            refused_or_lawful(combination(first, second))
        except Exception as error:
            broken[second] = f"{type(error).__name__}: {error}"
    assert not broken


@pytest.mark.parametrize(
    "first, second",
    [
        ("path", "fox"),
        ("t5", "path"),
        ("cope", "alibi"),
        ("shaw", "dape"),
        ("window", "dape"),
        ("path", "stick_breaking"),
    ],
)
def test_whole_rows_and_what_stands_beside_them_are_built_and_obey_the_laws(first, second):
    assert refused_or_lawful(combination(first, second)) is None


@pytest.mark.parametrize(
    "first, second, why",
    [
        *((first, second, "several coordinates") for first in ("rope_axial", "rope_hierarchical", "axial_learned")
          for second in ("dape", "rope_output", "alibi")),
        *((first, second, "wider than a head") for first in ("cope", "path") for second in ("polar", "transformer_xl")),
    ],
)  # fmt: skip
def test_pairs_of_which_one_can_not_take_what_the_other_gives_it_are_refused(first, second, why):
    assert why in refused_or_lawful(combination(first, second))
    assert why in refused_or_lawful(combination(second, first))


# ------------------------------------------------------------------------------------------- what sees which scores


def attention_weights(encoding: PositionEncoding, content: laws.Content) -> torch.Tensor:
    """(B, H, T, T) of the last layer."""
    T = content.tokens.shape[1]
    eye = torch.eye(T, dtype=torch.float64).expand(*content.q.shape[:2], T, T)  # as values: row i comes out as weights
    positions = encoding.positions(content.tokens)
    return attention(content.q, content.k, eye, encoding, positions, content.x, 1, executor="dense")


def with_bias(rows: str, bias: str) -> tuple[PositionEncoding, laws.Content]:
    return laws.rig(combination(rows, bias)), laws.Content.random(laws.SHAPE, laws.LENGTH)


@pytest.mark.parametrize("bias", ["alibi", "fox"])
@pytest.mark.parametrize("rows", ["cope", "dape", "path"])
def test_gates_networks_and_products_see_content_alone_and_a_bias_comes_on_top(rows, bias):
    whole, content = with_bias(rows, bias)
    alone, added = (attention_weights(part, content).log() for part in whole.parts.values())
    content_alone = attention_weights(build_encoding(config("none"), laws.SHAPE), content).log()
    wanted = (alone + added - content_alone).nan_to_num(nan=-torch.inf).softmax(-1)  # logarithms of weights are scores
    torch.testing.assert_close(attention_weights(whole, content), wanted, rtol=0, atol=1e-12)


def test_stick_breaking_breaks_the_biased_scores():
    whole, content = with_bias("stick_breaking", "alibi")
    stick, alibi = whole.parts.values()
    rows = torch.arange(laws.LENGTH)
    bias = -alibi.slopes()[:, None, None] * (rows[:, None] - rows)
    products = content.q @ content.k.mT * laws.SHAPE.head_dim**-0.5
    wanted = stick.weigh(products + bias, rows <= rows[:, None], rows, layer=1)
    torch.testing.assert_close(attention_weights(whole, content), wanted, rtol=0, atol=1e-12)
