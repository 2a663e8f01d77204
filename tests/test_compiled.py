"""Compiled and mixed-precision training against the plain float32 one.

python -m pytest tests/test_compiled.py -m ""
"""

import pytest
import torch

from model.catalogue import encoding_config
from model.encodings import Shape, _materialise, build_encoding
from model.language_model import LanguageModel, Optimization
from model.transformer import Transformer

SHAPE = Shape(dim=64, num_heads=4, num_layers=2, context=32)
STEPS, VOCABULARY = 50, 97
RULE = Optimization(3e-3, 0.1, 0.05, "cosine", 0.1, (0.9, 0.95), 1.0, 1.0)


def language_model(name: str) -> LanguageModel:
    return LanguageModel(Transformer(VOCABULARY, build_encoding(encoding_config(name), SHAPE)), RULE, STEPS)


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


@pytest.mark.parametrize("name", ["none", "rope", "alibi", "t5"])
def test_mixed_precision_trains_as_float32(name):
    plain, mixed = (train(module := language_model(name), module.token_losses, bf16) for bf16 in (False, True))
    assert plain[-1] < 0.75 * plain[0]
    torch.testing.assert_close(mixed, plain, rtol=0.02, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "rope", "alibi", "t5", "rope_learned", "kerple_log"])
def test_compiled_training_is_eager_training(name):
    eager, compiled = language_model(name), language_model(name)
    expected = train(eager, eager.token_losses, bf16=False)
    torch._dynamo.reset()
    found = train(compiled, torch.compile(compiled.token_losses, fullgraph=True), bf16=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
