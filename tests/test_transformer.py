"""The backbone: its parameters, initial values, layers, dropout, and what it refuses.

python -m pytest tests/test_transformer.py
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.block import MLP, Past
from model.catalogue import encoding_config
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.learned import Learned
from model.encodings.none import NoPE
from model.encodings.rope import RoPE
from model.transformer import Transformer

SHAPE = Shape(dim=48, num_heads=4, num_layers=3, context=16)
TOKENS = torch.arange(20).view(2, 10)


@pytest.mark.parametrize("mlp, matrices", [("gelu", 2), ("relu2", 2), ("swiglu", 3)])
def test_parameters_are_those_of_the_formula(mlp, matrices):
    counts = Transformer(100, Learned(SHAPE), mlp=mlp, mlp_ratio=3).count_parameters()
    D, layers = SHAPE.dim, SHAPE.num_layers
    backbone = layers * (4 * D * D + matrices * 3 * D * D + 2 * D) + D
    assert counts == {
        "embedding": 100 * D,
        "encoding": 16 * D,
        "backbone": backbone,
        "total": 116 * D + backbone,
    }


def test_weights_start_at_the_size_of_what_they_read_and_small_into_the_residual_stream():
    shape = replace(SHAPE, dim=192)
    for name, weight in Transformer(500, NoPE(shape)).named_parameters():
        if weight.ndim == 1:
            assert (weight == 1).all(), name
            continue
        into_the_residual_stream = name.endswith(("out.weight", "down.weight"))
        wanted = 0.02 / math.sqrt(6) if into_the_residual_stream else weight.shape[1] ** -0.5
        assert weight.std().item() == pytest.approx(wanted, rel=0.03), name
        assert abs(weight.mean().item()) < 0.1 * wanted, name


def test_the_seed_alone_decides_the_weights():
    first, other = Transformer(50, NoPE(SHAPE), seed=1), Transformer(50, NoPE(SHAPE), seed=2)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    again = Transformer(50, NoPE(SHAPE), seed=1)
    torch.set_rng_state(state)
    for (name, weight), same, different in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(weight, same), name
        assert weight.ndim == 1 or not torch.equal(weight, different), name


def test_the_head_is_the_embedding():
    model = Transformer(50, NoPE(SHAPE)).double()
    with torch.no_grad():
        for block in model.blocks:
            block.out.weight.zero_()
            block.mlp.down.weight.zero_()
    x_BTD = model.embedding.weight[TOKENS]  # with blocks that add nothing, what is left is the norm of the embedding
    normal = x_BTD / (x_BTD.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt()
    torch.testing.assert_close(model(TOKENS), normal @ model.embedding.weight.T)
    assert sum("embedding" in name for name in model.state_dict()) == 1


def test_one_block_is_the_formula():
    shape = replace(SHAPE, num_layers=1)
    model = Transformer(50, NoPE(shape)).double()
    block, x = model.blocks[0], model.embedding.weight[TOKENS]
    q, k, v = (F.rms_norm(x, (48,)) @ block.qkv.weight.T).view(2, 10, 3, 4, 12).permute(2, 0, 3, 1, 4)
    x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2) @ block.out.weight.T
    x = x + F.gelu(F.rms_norm(x, (48,)) @ block.mlp.up.weight.T) @ block.mlp.down.weight.T
    torch.testing.assert_close(model.hidden(TOKENS), F.rms_norm(x, (48,)))


def test_the_kinds_of_mlp_are_their_formulas():
    x = torch.randn(5, 8, dtype=torch.float64)
    for kind, formula in {
        "gelu": lambda up: F.gelu(up),
        "relu2": lambda up: up.clamp_min(0) ** 2,
        "swiglu": lambda up: up[:, :12] * torch.sigmoid(up[:, :12]) * up[:, 12:],
    }.items():
        mlp = MLP(8, 12, kind).double()
        torch.testing.assert_close(mlp(x), formula(x @ mlp.up.weight.T) @ mlp.down.weight.T)


def test_encoding_parameters_stand_once_in_the_state_dict():
    names = list(Transformer(50, Learned(SHAPE)).state_dict())
    assert [name for name in names if "table" in name] == ["encoding.table"]


def test_dropout_acts_in_training_alone():
    plain, dropping = (Transformer(50, NoPE(SHAPE), dropout=dropout) for dropout in (0.0, 0.5))
    assert torch.equal(plain.train()(TOKENS), plain.eval()(TOKENS))
    assert torch.equal(dropping.eval()(TOKENS), plain(TOKENS))
    dropping.train()
    assert not torch.equal(dropping(TOKENS), dropping(TOKENS))


def test_dropout_acts_on_the_embeddings_and_on_what_each_block_adds():
    model = Transformer(50, NoPE(SHAPE), dropout=0.25).train()
    block = model.blocks[0]
    dropped = block._drop(torch.ones(100_000))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    with torch.no_grad():
        for block in model.blocks:
            block.out.weight.zero_()
            block.mlp.down.weight.zero_()
    assert (model.hidden(TOKENS) == 0).float().mean().item() == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"vocab_size": 1}, "vocab_size=1"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"dropout": -0.1}, "model.dropout=-0.1"),
        ({"mlp": "silu"}, "model.mlp='silu'"),
        ({"mlp_ratio": 0.0}, "model.mlp_ratio=0.0"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says):
    with pytest.raises(ValueError, match=says):
        Transformer(**{"vocab_size": 50, "encoding": NoPE(SHAPE), **settings})


@pytest.mark.parametrize(
    "sizes, says",
    [
        ({"dim": 0}, "dim=0"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"num_layers": -1}, "num_layers=-1"),
        ({"context": 0}, "context=0"),
        ({"num_heads": 5}, "model.dim=48 is not divisible by model.num_heads=5"),
    ],
)
def test_bad_shapes_are_refused_by_name(sizes, says):
    with pytest.raises(ValueError, match=says):
        replace(SHAPE, **sizes)


def test_another_encoding_can_take_the_place_of_its_own_for_a_call():
    model = Transformer(50, RoPE(SHAPE)).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight.mul_(10)
    replaced = model(TOKENS, encoding=NoPE(SHAPE))
    nope = Transformer(50, NoPE(SHAPE)).eval()
    nope.load_state_dict(model.state_dict())
    assert torch.equal(replaced, nope(TOKENS))
    assert not torch.allclose(replaced, model(TOKENS))
    assert isinstance(model.encoding, RoPE)


def test_the_length_limit_is_that_of_the_encoding_in_use():
    model = Transformer(50, RoPE(SHAPE))
    long = torch.zeros(1, 17, dtype=torch.long)
    assert model(long).shape == (1, 17, 50)
    with pytest.raises(ValueError, match="not defined beyond 16 tokens"):
        model(long, encoding=Learned(SHAPE))
    past = Past()
    model(long[:, :16], past=past, encoding=Learned(SHAPE))
    with pytest.raises(ValueError, match="not defined beyond 16 tokens"):
        model(long[:, 16:], past=past, encoding=Learned(SHAPE))


def test_decoding_is_refused_where_early_rows_change_with_the_length():
    class LooksAtTheLength(PositionEncoding):
        prefix_consistent = False

    with pytest.raises(ValueError, match="LooksAtTheLength can't decode token by token"):
        Transformer(50, LooksAtTheLength(SHAPE))(TOKENS, past=Past())


def test_it_learns_a_sequence_by_heart():
    model = Transformer(20, RoPE(SHAPE))
    tokens = torch.randperm(20).repeat(2)[None, :30]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < math.log(20)


def test_a_wrapper_trains_its_own_parameters_at_its_own_rate():
    encoding = build_encoding(encoding_config("ssmax", ["encoding@encoding.inner=t5"]), SHAPE)
    groups = encoding.parameters_by_lr_scale()
    assert {scale: sum(p.numel() for p in group) for scale, group in groups.items()} == {
        1.0: sum(p.numel() for p in encoding.parameters(recurse=False)),
        encoding.inner.lr_scale: sum(p.numel() for p in encoding.inner.parameters()),
    }
