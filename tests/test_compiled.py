"""Compiled and mixed-precision training against the plain float32 one.

python -m pytest tests/test_compiled.py -m ""
"""

import pytest
import torch
import torch.nn.functional as F
from torch.library import get_kernel

from eval.record.identity import settings_of
from model.block import PLAIN, BlockOptions
from model.catalogue import encoding_config, extension_config
from model.encodings import Shape, build_encoding
from model.extensions import build_extension
from model.kernels import (
    _CrossEntropy,
    _Embedding,
    _embedding_backward,
    _gelu,
    _gelu_backward,
    _materialise,
    _widened,
    compile_training,
)
from model.training.language_model import LanguageModel
from model.transformer import Transformer
from tests.test_block import OPTIONS

SHAPE = Shape(dim=64, num_heads=4, num_layers=2, context=32)
STEPS, VOCABULARY = 50, 97
TRAINING = settings_of(
    "training.lr=3e-3",
    "training.weight_decay=0.1",
    "training.warmup=0.05",
    "training.schedule=cosine",
    "training.min_lr=0.1",
    "training.betas=[0.9,0.95]",
    "training.encoding_lr=1",
    "training.clip=1",
).training


PRODUCTS = {  # operands, and numbers by name
    "mm": ([(24, 40), (40, 16)], {}),
    "bmm": ([(3, 24, 40), (3, 40, 16)], {}),
    "addmm": ([(16,), (24, 40), (40, 16)], {"beta": 0.5, "alpha": 2.0}),
    "baddbmm": ([(3, 24, 16), (3, 24, 40), (3, 40, 16)], {"beta": 0.5, "alpha": 2.0}),
}


@pytest.mark.parametrize("into", [False, True], ids=["", "out"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_widened_product_is_that_of_the_same_numbers_rounded_once(name, into):
    """As a processor's bf16 instruction has it: exact products, sums in float32, and the result in bf16."""
    shapes, numbers = PRODUCTS[name]
    torch.manual_seed(0)
    operands = [torch.randn(shape, dtype=torch.bfloat16) for shape in shapes]
    torchs = getattr(torch, name)
    exact = torchs(*(operand.double() for operand in operands), **numbers)
    rounded = torchs(*(operand.float() for operand in operands), **numbers).bfloat16()
    out = {"out": torch.empty_like(rounded)} if into else {}
    product = _widened(get_kernel(f"aten::{name}{'.out' if into else ''}", "CPU"))
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    found = product(keys, *operands, **numbers, **out)
    assert torch.equal(found, rounded) and (not into or found is out["out"])
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)
    others = [operand.double() for operand in operands]
    out = {"out": torch.empty_like(exact)} if into else {}
    assert torch.equal(product(keys, *others, **numbers, **out), exact)  # of other dtypes it is torch's


@pytest.mark.parametrize(
    ("gpu", "there", "options"), [(False, True, {"cpp_wrapper": True}), (False, False, None), (True, True, None)]
)
def test_what_is_compiled_calls_kernels_from_cpp_but_where_products_are_widened(monkeypatch, gpu, there, options):
    """C++ calls torch's own products, past what stands in their place."""
    monkeypatch.setattr("model.kernels.bf16_kernels", lambda: there)
    monkeypatch.setattr(torch, "compile", lambda function, options: (function, options))
    assert compile_training(print, gpu) == (print, options)


def language_model(name: str, extension: str = "none", options: BlockOptions = PLAIN, **settings) -> LanguageModel:
    encoding = build_encoding(encoding_config(name), SHAPE)
    extended = build_extension({**extension_config(extension), **settings}).apply(encoding, 16, 64)
    return LanguageModel(Transformer(VOCABULARY, extended, options=options), TRAINING, STEPS)


def train(module: LanguageModel, losses_of, bf16: bool) -> torch.Tensor:
    """The loss of each of 50 steps on text with a rule to be learned: each token follows from the two before it."""
    optimizer = module.configure_optimizers()["optimizer"]
    generator, seen = torch.Generator().manual_seed(0), []
    for _ in range(STEPS):
        tokens = torch.randint(VOCABULARY, (8, 33), generator=generator)
        for i in range(2, 33):
            tokens[:, i] = (tokens[:, i - 1] + 2 * tokens[:, i - 2]) % 7
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses, predicted = losses_of(tokens)
        loss = losses.sum() / predicted.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.detach())
    return torch.stack(seen)


def test_materialise_is_the_identity_in_both_directions():
    x = torch.randn(3, 4, requires_grad=True)
    torch.library.opcheck(_materialise, (x,))
    (gradient,) = torch.autograd.grad(_materialise(x).square().sum(), x)
    assert torch.equal(_materialise(x), x) and torch.equal(gradient, 2 * x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_torchs(dtype):
    ours, theirs = (torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(dtype) for _ in range(2))
    values = _gelu(ours.requires_grad_()), F.gelu(theirs.requires_grad_())
    torch.library.opcheck(_gelu, (ours,))
    torch.library.opcheck(_gelu_backward, (values[0].detach(), ours.detach()))
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for x, y in zip((ours, theirs), values, strict=True)]
    assert torch.equal(*values) and torch.equal(*gradients)


def test_embedding_is_torchs():
    tokens, weight = torch.tensor([[1, 4, 1], [0, 1, 4]]), torch.randn(5, 3, requires_grad=True)
    gradient = torch.randn(2, 3, 3)
    torch.library.opcheck(_embedding_backward, (gradient, tokens, 5))
    (expected,) = torch.autograd.grad(F.embedding(tokens, weight), weight, gradient)
    (found,) = torch.autograd.grad(_Embedding.apply(tokens, weight), weight, gradient)
    assert torch.equal(found, expected) and expected[2].abs().max() == 0


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])  # at 1e4 all but one exponential underflow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_cross_entropy_is_torchs(dtype, tolerance, size):
    generator = torch.Generator().manual_seed(0)
    logits = (size * torch.randn(64, 97, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(97, (64,), generator=generator)
    targets[:8] = logits[:8].argmax(dim=-1)  # well predicted: p − 1 is next to nothing, and must not be rounded away
    weights = torch.rand(64, generator=generator)
    expected = F.cross_entropy(logits.double(), targets, reduction="none")
    found = _CrossEntropy.apply(logits, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    (wanted,) = torch.autograd.grad(expected, logits, weights.double())
    (gradient,) = torch.autograd.grad(found, logits, weights)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted, rtol=tolerance, atol=2e-7)


@pytest.mark.parametrize(
    "name", ["rope", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "alibi", "t5"))]
)
def test_mixed_precision_trains_as_float32(name):
    plain, mixed = (train(module := language_model(name), module.token_losses, bf16) for bf16 in (False, True))
    assert plain[-1] < 0.75 * plain[0]
    torch.testing.assert_close(mixed, plain, rtol=0.02, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "rope", "alibi", "t5", "rope_learned", "kerple_log", "randomized"])
def test_compiled_training_is_eager_training(name):
    compiled_and_eager(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "extension", "settings"),
    [("rope", "yarn", {}), ("rope", "longrope", {"factors": [1.0 + k for k in range(8)]}), ("rope", "pose", {}),
     ("alibi", "random_positions", {}), ("none", "logit_scale", {"a": 0.4}), ("rope", "logn", {}),
     ("rope", "rerope", {}), ("alibi", "window", {}), ("learned", "table_interpolation", {}),
     ("alibi", "alibi_interpolation", {})],
)  # fmt: skip
def test_compiled_training_with_an_extension_is_eager_training(name, extension, settings):
    compiled_and_eager(name, extension, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_compiled_training_with_the_options_of_a_block_is_eager_training(options):
    compiled_and_eager("alibi" if options == "sink" else "rope", options=BlockOptions(**OPTIONS[options]))


def compiled_and_eager(*which, **settings):
    eager = language_model(*which, **settings)
    expected = train(eager, eager.token_losses, bf16=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found, again = (
        train(
            module := language_model(*which, **settings), compile_training(module.token_losses, gpu=False), bf16=False
        )
        for _ in range(2)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch.equal(found, again), "two compiled runs of one seed differ"
