"""Every encoding on a GPU against float64 on the CPU: executors, gradients, precision, recorded steps.

python -m pytest tests/test_cuda.py -m gpu -n 8
"""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from eval.record.identity import settings_of
from model.attention import choose
from model.catalogue import encoding_config, encoding_names
from model.encodings import PositionEncoding, Shape
from model.training.graphs import Recorded
from model.training.language_model import LanguageModel
from model.transformer import Transformer
from tests import laws

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("name", encoding_names())]

SHAPE = Shape(dim=192, num_heads=6, num_layers=2, context=256, separators=laws.SEPARATORS)
LENGTHS = 300, 421


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def on_cpu_and_gpu(name: str) -> tuple[PositionEncoding, PositionEncoding]:
    """In float64 on the CPU, and in float32 on the GPU."""
    exact = laws.rig(laws.of_config(encoding_config(name)), SHAPE)
    return exact, copy.deepcopy(exact).float().cuda()


def output_and_gradients(encoding: PositionEncoding, content: laws.Content, executor: str, layer: int):
    """Attention's output, and the gradients of q, k, v, x and of the encoding's parameters."""
    content = content.map(lambda t: t.detach().requires_grad_())
    out = laws.attend(encoding, content, layer, executor=executor)
    inputs = [content.q, content.k, content.v, content.x, *(p for p in encoding.parameters() if p.requires_grad)]
    return out, *torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)


def assert_equal_to_cpu(name: str, executor: str | None, lengths=LENGTHS):
    exact, ours = on_cpu_and_gpu(name)
    for length in {laws.length_for(exact, length): None for length in lengths}:
        content = laws.Content.random(SHAPE, length)
        for layer in range(exact.shape.num_layers):
            expected = output_and_gradients(exact, content, "dense", layer)
            found = output_and_gradients(ours, content.to(torch.float32).to("cuda"), executor, layer)
            for index, (theirs, own) in enumerate(zip(expected, found, strict=True)):
                assert (own is None) == (theirs is None), index
                if own is not None:
                    what = f"at {length} tokens, layer {layer}, {'gradient' if index else 'output'} {index} on CUDA"
                    laws.assert_same(own.cpu(), theirs, what, 1e-2 if index else 1e-3)


def test_the_output_and_the_gradients_are_those_on_the_cpu(name):
    encoding = on_cpu_and_gpu(name)[0]
    content = laws.Content.random(SHAPE, laws.length_for(encoding))
    bent = any(laws.hooks(encoding, content, layer)[2] for layer in range(encoding.shape.num_layers))
    assert_equal_to_cpu(name, "dense" if encoding.rescores or bent else "fused")


def test_a_recorded_step_is_the_step(name):
    """Ten optimizer steps, each of its kernels launched or all of them replayed."""
    training = settings_of("training.lr=1e-3", "training.warmup=0.1").training
    losses = []
    for record in (False, True):
        encoding = laws.of_config(encoding_config(name))(SHAPE)
        module = LanguageModel(Transformer(laws.VOCABULARY, encoding), training, 10).cuda()
        if not module.transformer.capturable:
            pytest.skip("draws on the CPU")
        recorded = module.recorded = Recorded(module.mean_loss, module.transformer) if record else None
        optimizer = module.configure_optimizers()["optimizer"]
        seen = []
        for step in range(10):
            batch = laws.random_tokens(4, SHAPE.context + 1, seed=step).cuda()
            with torch.autocast("cuda", torch.bfloat16):
                loss = (recorded or module.mean_loss)(batch)
            module.backward(loss)
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.detach().clone())
        assert recorded is None or recorded.graph is not None
        losses.append(torch.stack(seen).cpu())
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)  # sums in another order: learned biases' gradients
    assert losses[0][-1] < losses[0][0]


def test_bf16_is_close(name):
    exact, ours = on_cpu_and_gpu(name)
    content = laws.Content.random(SHAPE, laws.length_for(exact, 300))
    with torch.no_grad():
        expected = laws.attend(exact, content)
        found = laws.attend(ours, content.to(torch.bfloat16).to("cuda"), executor=None)
    assert found.dtype == torch.bfloat16
    laws.assert_same(found.double().cpu(), expected, "bf16 on CUDA", 5e-2)


def test_flex_attention_is_dense(name):
    """Compiled once for all lengths and all layers of a kind, forward and backward."""
    encoding = on_cpu_and_gpu(name)[0]
    if encoding.rescores:
        pytest.skip("needs whole rows of scores")
    counters.clear()
    assert_equal_to_cpu(name, "flex")
    content, layers = laws.Content.random(SHAPE, laws.length_for(encoding)), range(encoding.shape.num_layers)
    kinds = {(laws.hooks(encoding, content, layer)[2] is None, encoding.at(layer).band) for layer in layers}
    assert counters["stats"]["unique_graphs"] == len(kinds)


def test_long_texts_are_not_written_out(name):
    """T × T scores of 16,384 tokens would be 4 GB for one head in float32."""
    encoding = on_cpu_and_gpu(name)[1]
    if encoding.rescores or (encoding.max_length and encoding.max_length < 16384):
        pytest.skip("needs whole rows of scores, or ends before")
    q = torch.empty(1, SHAPE.num_heads, 16384, SHAPE.head_dim, device="cuda", dtype=torch.bfloat16)
    mod = None if name == "none" else object()
    assert choose(encoding, mod, q) in ("flex", "fused") or encoding.band <= SHAPE.context
