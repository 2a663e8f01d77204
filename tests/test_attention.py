"""The executors of attention agree, refuse what they can't run, and hold no more memory than they promise.

    python -m pytest tests/test_attention.py

Every encoding of conf/encoding is held to the agreement of its executors in tests/test_laws.py.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import model.attention
from model.attention import EXECUTORS, attention, choose
from model.catalogue import encoding_config
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.alibi import ALiBi
from model.encodings.alibi_learned import LearnedALiBi
from model.encodings.fox import FoX
from model.encodings.none import NoPE
from model.encodings.rope import RoPE
from model.encodings.t5 import T5
from tests.laws import Content, assert_same, attend, perturb

SHAPE = Shape(dim=24, num_heads=3, num_layers=1, context=32)


class UniformWeights(PositionEncoding):
    """Needs whole rows: every visible token weighs the same."""

    rescores = True

    def weigh(self, scores, visible, *rest):
        return (visible / visible.sum(-1, keepdim=True)).to(scores.dtype).expand_as(scores)


class ContentBias(PositionEncoding):
    """A score_mod that is no bias of the distance: b, h, i and j all matter."""

    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score + x[b, i, 0] * x[b, j, 1] * (h + 1)


ENCODINGS = [NoPE, RoPE, ALiBi, T5, ContentBias, UniformWeights]


def attend_on_zeros(encoding, v_BHTK, **options):
    q = k = torch.zeros_like(v_BHTK)
    x_BTD = torch.zeros(v_BHTK.shape[0], v_BHTK.shape[2], encoding.shape.dim, dtype=v_BHTK.dtype)
    return attention(q, k, v_BHTK, encoding, torch.arange(v_BHTK.shape[2]), x_BTD, 0, **options)


def test_two_tokens_by_hand():
    # One head: the slope is 2^−8. The second row weighs the first token by e^(−slope) and itself by 1.
    encoding = ALiBi(Shape(dim=1, num_heads=1, num_layers=1, context=8)).double()
    out = attend_on_zeros(encoding, torch.tensor([10.0, 20.0], dtype=torch.float64).view(1, 1, 2, 1), executor="dense")
    weight = math.exp(-(2**-8))
    assert out.flatten().tolist() == pytest.approx([10.0, (10 * weight + 20) / (weight + 1)], rel=1e-12)


def test_scores_are_divided_by_the_root_of_the_head_width_also_where_rotate_widens():
    class Widens(PositionEncoding):
        def rotate(self, q, k, v, positions, x, layer):
            return torch.cat([q, q, q], -1), torch.cat([k, k.zero_().clone(), k], -1), v

    content = Content.random(SHAPE, 7)
    out = attend(Widens(SHAPE), content)
    assert_same(out, content.v.cumsum(2) / torch.arange(1, 8)[:, None], "all scores zero")

    class WidensByOne(PositionEncoding):
        """Adds ln 2 · √d for the first key, through one more coordinate."""

        def rotate(self, q, k, v, positions, x, layer):
            extra = torch.zeros_like(k[..., :1])
            extra[:, :, 0] = math.log(2) * k.shape[-1] ** 0.5
            return torch.cat([0 * q, torch.ones_like(q[..., :1])], -1), torch.cat([k, extra], -1), v

    content = Content.random(SHAPE, 7)
    doubled = (content.v.cumsum(2) + content.v[:, :, :1]) / torch.arange(2, 9)[:, None]
    assert_same(attend(WidensByOne(SHAPE), content), doubled, "the first key weighs twice")


@pytest.mark.parametrize("executor", ["dense", "blocked"])
@pytest.mark.parametrize("encoding", [cls(SHAPE) for cls in ENCODINGS], ids=lambda e: type(e).__name__)
def test_the_last_rows_alone_are_those_of_the_whole(encoding, executor):
    content = Content.random(SHAPE, 19)
    whole = attend(encoding.double(), content, executor=executor)
    inputs = (content.q, content.k, content.v, encoding, torch.arange(19), content.x, 0)
    for queries in (1, 4, 18):
        last = attention(*inputs, queries=queries, executor=executor)
        assert_same(last, whole[:, :, -queries:], f"the last {queries} rows")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_first_token_sees_itself_and_weights_sum_to_one(executor):
    encoding = ALiBi(SHAPE) if executor in ("hankel", "folded") else NoPE(SHAPE)
    content = Content.random(SHAPE, 23)
    out = attend(encoding.double(), content, executor=executor)
    assert_same(out[:, :, 0], content.v[:, :, 0], "the first row")
    constant = attend(encoding, content.map(lambda t: torch.ones_like(t)), executor=executor)
    assert_same(constant, torch.ones_like(constant), "weights sum to one", 1e-6)


@pytest.mark.parametrize("cls", [LearnedALiBi, FoX])
def test_a_bias_that_is_folded_has_the_gradients_of_one_that_is_added(cls):
    encoding, content = perturb(cls(SHAPE).double()), Content.random(SHAPE, 19)
    content = content.map(lambda t: t.requires_grad_())
    inputs = [content.q, content.k, content.v, *encoding.parameters()]
    if cls is FoX:
        inputs.append(content.x)  # its gates
    found = [
        torch.autograd.grad(attend(encoding, content, executor=executor).square().sum(), inputs)
        for executor in ("folded", "dense")
    ]
    for folded, added in zip(*found, strict=True):
        assert_same(folded, added, "folded and added", 1e-6)


def choice(name: str, tokens: int, training: bool) -> str:
    """The executor on a GPU for 16 texts of GPT-2's shape."""
    encoding = build_encoding(encoding_config(name), Shape(dim=768, num_heads=12, num_layers=1, context=1024))
    q = SimpleNamespace(shape=(16, 12, tokens, 64), is_cuda=True, dtype=torch.bfloat16)
    with torch.set_grad_enabled(training):
        return choose(encoding, None if name == "rope" else object(), q)


def test_on_a_gpu_the_size_decides():
    assert [choice("rope", tokens, True) for tokens in (128, 1024)] == ["fused", "fused"]
    assert [choice("t5", tokens, True) for tokens in (128, 1024)] == ["dense", "flex"]
    assert [choice("alibi", tokens, True) for tokens in (128, 1024, 65536)] == ["dense", "folded", "flex"]
    assert [choice("t5", tokens, False) for tokens in (128, 1024, 8192)] == ["dense", "blocked", "flex"]
    assert [choice("cope", tokens, True) for tokens in (128, 1024)] == ["dense", "blocked"]


@pytest.mark.parametrize("length", [1, 2, 31, 300])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("encoding", [cls(SHAPE) for cls in ENCODINGS], ids=lambda e: type(e).__name__)
def test_the_executor_that_is_chosen_gives_what_dense_gives(encoding, training, length, monkeypatch):
    content = Content.random(SHAPE, length)
    encoding = encoding.double()
    for limit in (model.attention.BLOCK_SCORES, 1000):  # everything fits; nothing does
        monkeypatch.setattr(model.attention, "BLOCK_SCORES", limit)
        with torch.set_grad_enabled(training):
            assert_same(attend(encoding, content, executor=None), attend(encoding, content), "chosen and dense", 1e-6)


def test_the_choice_never_writes_all_scores_out_where_they_are_too_many(monkeypatch):
    monkeypatch.setattr(model.attention, "BLOCK_SCORES", 1000)
    q = torch.zeros(2, 3, 300, 8)
    for encoding in [cls(SHAPE) for cls in ENCODINGS]:
        mod = encoding.score_mod(q, q, torch.arange(300), torch.zeros(2, 300, 24), 0)
        for first in (0, 5):
            assert choose(encoding, mod, q, first) != "dense"


@pytest.mark.parametrize(
    "cls, executor, says",
    [
        (ALiBi, "fused", "ALiBi changes the scores; use dense"),
        (ContentBias, "hankel", "no bias of the distance alone"),
        (NoPE, "hankel", "no bias of the distance alone"),
        (UniformWeights, "fused", "needs whole rows of scores"),
        (UniformWeights, "hankel", "needs whole rows of scores"),
        (UniformWeights, "flex", "needs whole rows of scores"),
        (NoPE, "quick", "quick"),
    ],
)
def test_an_executor_that_cannot_run_the_encoding_is_refused(cls, executor, says):
    with pytest.raises(ValueError, match=says):
        attend(cls(SHAPE).double(), Content.random(SHAPE, 9), executor=executor)


@pytest.mark.parametrize("executor", ["fused", "hankel", "flex"])
def test_kernels_refuse_to_decode(executor):
    with pytest.raises(ValueError, match="decoding is by rows"):
        attend_on_zeros(ALiBi(SHAPE), torch.zeros(1, 3, 9, 8), queries=2, executor=executor)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest memory that any operation inside the block returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def largest_tensor(encoding, executor, length, training):
    content = Content.random(SHAPE, length, batch=1).to(torch.float32).map(lambda t: t.requires_grad_(training))
    with LargestTensor() as largest:
        out = attend(encoding, content, executor=executor)
        if training:
            out.sum().backward()
    return largest.elements


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cls", [ALiBi, T5, ContentBias, UniformWeights])
def test_the_memory_of_blocked_is_linear_in_the_length(cls, training, monkeypatch):
    monkeypatch.setattr(model.attention, "BLOCK_SCORES", 1 << 13)
    sizes = [largest_tensor(cls(SHAPE), "blocked", length, training) for length in (128, 256)]
    assert sizes[1] <= 2 * sizes[0] <= 4 << 13
    assert largest_tensor(cls(SHAPE), "dense", 256, training) >= SHAPE.num_heads * 256 * 256


@pytest.mark.parametrize("slope", [0.0, 0.3, 3.0])
def test_hankel_in_blocks_leaves_out_no_key_that_weighs(slope, monkeypatch):
    class Line(ALiBi):
        def score_mod(self, *rest):
            return lambda score, b, h, i, j: score - slope * (h + 1) * (i - j) ** 1.0

    monkeypatch.setattr(model.attention, "HANKEL_ROWS", 16)
    encoding, content = Line(SHAPE).double(), Content.random(SHAPE, 301)
    assert_same(attend(encoding, content, executor="hankel"), attend(encoding, content), "hankel and dense", 1e-12)


def test_hankel_passes_on_what_is_not_a_number(monkeypatch):
    monkeypatch.setattr(model.attention, "HANKEL_ROWS", 16)
    encoding, content = ALiBi(SHAPE).double(), Content.random(SHAPE, 50)
    content.q[0, 0, 20] = float("nan")
    q, k, v, x = content.q, content.k, content.v, content.x
    out = attention(q, k, v, encoding, torch.arange(50), x, 0, executor="hankel")
    assert torch.isnan(out[0, 0, 20]).all() and torch.isfinite(out[0, 0, :20]).all() and torch.isfinite(out[:, 1]).all()


@pytest.mark.parametrize("length", [128, 384, 1024])
def test_the_causal_block_mask_is_what_torch_makes_of_all_pairs(length):
    ours = model.attention._causal_blocks(length, torch.device("cpu"))
    torchs = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device="cpu")
    assert torch.equal(ours.to_dense(), torchs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(torchs, name)), name
    for count, which in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        for row, n in enumerate(getattr(ours, count)[0, 0].tolist()):
            assert set(getattr(ours, which)[0, 0, row, :n].tolist()) == set(
                getattr(torchs, which)[0, 0, row, :n].tolist()
            )


def test_hankel_holds_no_mask():
    with torch.no_grad():
        assert largest_tensor(ALiBi(SHAPE), "hankel", 512, training=False) < 512 * 512
