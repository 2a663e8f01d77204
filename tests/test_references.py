"""Every encoding equals a loop over (i, j) written from its paper's formula, in float64, at awkward shapes.

python -m pytest tests/test_references.py       # one encoding: -k "[rope-"
"""

import functools
import re

import numpy as np
import pytest
import torch

from conf.schema import options
from model.catalogue import encoding_config
from model.encodings import Shape
from tests.laws import SEPARATORS, check_reference, of_config
from tests.references import README, all_references, how_to_add, plain_output, readme_with_table, softmax_rows

REFERENCES = all_references()
NAMES = {*options("encoding")}  # none of a folder of one's own
config = functools.cache(encoding_config)

# (heads, head width, training context, tokens). Odd lengths; lengths below, at and beyond the context.
SHAPES = [
    pytest.param(1, 8, 24, 9, id="1x8"),
    pytest.param(3, 16, 18, 21, id="3x16"),
    pytest.param(6, 32, 32, 33, id="6x32", marks=pytest.mark.slow),
    pytest.param(12, 8, 18, 23, id="12x8", marks=pytest.mark.slow),
    pytest.param(2, 128, 32, 11, id="2x128", marks=pytest.mark.slow),
    pytest.param(4, 64, 128, 41, id="4x64", marks=pytest.mark.slow),
]


def test_every_encoding_has_a_reference():
    assert not (missing := sorted(NAMES - REFERENCES.keys())), "\n".join(map(how_to_add, missing))


def test_what_is_said_of_a_missing_reference_makes_one():
    code = re.search(r"REFERENCES = .*", how_to_add("mine")).group()
    found: dict = {}
    exec(f"from tests.references import Reference, plain_output as output\n{code}", found)
    assert found["REFERENCES"]["mine"].output is plain_output
    assert "tests/references/mine.py" in how_to_add("mine")


def test_every_reference_has_an_encoding():
    assert not (left := REFERENCES.keys() - NAMES), f"references to no encoding: {left}"


@pytest.mark.parametrize("heads, head_dim, context, length", SHAPES)
@pytest.mark.parametrize("name", sorted(REFERENCES.keys() & NAMES))
def test_encoding_equals_its_reference(name, heads, head_dim, context, length):
    shape = Shape(heads * head_dim, heads, num_layers=2, context=context, separators=SEPARATORS)
    check_reference(of_config(config(name)), REFERENCES[name], shape, length)


@pytest.mark.parametrize("name", ["polar", "rope_partial_head", "rope_embeddings"])
def test_a_head_may_be_odd_where_not_all_of_it_turns_in_pairs(name):
    odd = Shape(2 * 15, num_heads=2, num_layers=2, context=18, separators=SEPARATORS)
    check_reference(of_config(config(name)), REFERENCES[name], odd, 21)


def test_no_tolerance_is_wider_than_float32():
    assert {name: r.tolerance for name, r in REFERENCES.items() if r.tolerance > 1e-5} == {}


def test_softmax_rows_on_numbers_worked_by_hand():
    v_HTK = np.array([[[1.0], [5.0]]])
    out = softmax_rows(lambda h, i, j: np.log(3.0) if j == 1 else 0.0, H=1, T=2, v_HTK=v_HTK)
    assert out[0, :, 0] == pytest.approx([1.0, (1 * 1 + 3 * 5) / 4])


def test_plain_output_is_scaled_dot_product_attention():
    q, k, v = torch.randn(3, 2, 7, 4, dtype=torch.float64)
    wanted = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    out = plain_output(None, q.numpy(), k.numpy(), v.numpy(), None, None, 0)
    assert out == pytest.approx(wanted.numpy(), abs=1e-12)


def test_the_readme_lists_the_references_as_they_are():
    text = README.read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)  # one that has been added since may be missing
    assert len(listed) > 50
    assert text == readme_with_table(text, listed), "tests/README.md is stale: python -m scripts.encodings --write"
