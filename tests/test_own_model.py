"""The examples of docs/own_model.md, as they stand there: attention of one's own, and a model of transformers.

python -m pytest tests/test_own_model.py
"""

import re

import pytest
import torch

from model.catalogue import encoding_config
from model.encodings import build_encoding
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "own_model.md").read_text()


def run(title: str) -> dict:
    """The names that the examples of a section leave behind."""
    names: dict = {"__name__": "example"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0], re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, names)
    return names


@pytest.fixture(scope="module")
def own():
    return run("With scaled_dot_product_attention")


@pytest.fixture(scope="module")
def llama():
    pytest.importorskip("transformers.models.llama.modeling_llama")
    return run("In a model of transformers")


def test_the_example_runs(own):
    assert {name: (out.shape, out.isfinite().all().item()) for name, out in own["outputs"].items()} == {
        "rope": ((2, 48, 64), True),
        "alibi": ((2, 48, 64), True),
    }


@pytest.mark.parametrize("name", ["none", "rope", "alibi", "t5", "xpos", "shaw", "fox", "window", "polar"])
def test_attention_of_ones_own_equals_this_projects(own, name):
    layer, shape = own["SelfAttention"](own["shape"], layer=1).double(), own["shape"]
    encoding = build_encoding(encoding_config(name), shape).double()
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.normal_()
        positions, x = encoding.positions(torch.zeros(2, 41, dtype=int)), torch.randn(2, 41, shape.dim).double()
        out = layer(x, encoding, positions)
        wanted = own["AnyAttention"].forward(layer, x, encoding, positions)
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-6)  # its mask is of float32


@pytest.fixture
def model(llama):
    torch.manual_seed(0)
    return llama["LlamaForCausalLM"](llama["LlamaConfig"](**llama["sizes"])).eval()


TOKENS = torch.randint(100, (2, 21), generator=torch.Generator().manual_seed(1))


def test_under_rope_a_model_of_transformers_is_what_it_was(llama, model):
    with torch.no_grad():
        before = model(TOKENS).logits
        after = llama["with_encoding"](model, "rope", 32)(TOKENS).logits
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
        other = llama["with_encoding"](model_again(llama), "rope", 32, ["encoding.base=100"])(TOKENS).logits
    assert not torch.allclose(other, before, atol=1e-3)


def model_again(llama):
    torch.manual_seed(0)
    return llama["LlamaForCausalLM"](llama["LlamaConfig"](**llama["sizes"])).eval()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("alibi", "cope", "learned", "fox")]


@pytest.mark.parametrize("name", ["t5", *SLOW])
def test_it_trains_under_an_encoding_of_each_kind_and_does_not_look_ahead(llama, model, name):
    model = llama["with_encoding"](model, name, 32)
    with torch.no_grad():
        changed = TOKENS.clone()
        changed[:, 15] = (changed[:, 15] + 1) % 100
        one, other = model(TOKENS).logits, model(changed).logits
        torch.testing.assert_close(one[:, :15], other[:, :15])
        assert not torch.allclose(one[:, 15:], other[:, 15:], atol=1e-4)
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    names = [key for key, _ in model.named_parameters() if "encoding" in key]
    assert len(names) == len(list(model.encoding.parameters())) and all(key.startswith("encoding.") for key in names)


@pytest.mark.slow
def test_a_length_without_an_encoding_is_refused(llama, model):
    with pytest.raises(ValueError, match="not defined beyond 16 tokens"):
        llama["with_encoding"](model, "learned", 16)(TOKENS)


@pytest.mark.slow
def test_it_generates(llama, model):
    model = llama["with_encoding"](model, "alibi", 32)
    with torch.no_grad():
        found = model.generate(TOKENS[:1, :5], max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
        wanted = TOKENS[:1, :5]
        for _ in range(4):
            wanted = torch.cat([wanted, model(wanted).logits[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == wanted.tolist()
    with pytest.raises(ValueError, match="use_cache=False"):
        model(TOKENS, use_cache=True)
