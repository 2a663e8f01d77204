"""Token losses: from as few forward passes as possible, in memory that is linear in the length.

python -m pytest tests/test_scoring.py          # the slow ones: -m slow
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eval.measure.scoring
from data.windows import Windows
from eval.measure.protocols import plan
from eval.measure.scoring import Scorer
from model.block import MLP
from model.transformer import Transformer
from tests.small import PROTOCOLS, SETTINGS, small_model, small_stream, token_loss

STREAM = small_stream(41, 26, 60)
LENGTHS = [4, 8, 16]


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, int]]:
    """The shape (B, T) of every forward pass."""
    seen, hidden = [], Transformer.hidden
    monkeypatch.setattr(
        Transformer,
        "hidden",
        lambda self, tokens, *a, **k: seen.append(tuple(tokens.shape)) or hidden(self, tokens, *a, **k),
    )
    return seen


def plans_at(length: int, **settings) -> list[Windows]:
    protocols = [p for p in PROTOCOLS if p != "positions" or length == max(LENGTHS)]
    return [plan(p, STREAM, length, LENGTHS, replace(SETTINGS, **settings)) for p in protocols]


@pytest.mark.parametrize("length", LENGTHS)
def test_all_protocols_share_their_forward_passes(passes, length):
    plans = plans_at(length)
    Scorer(small_model(), STREAM, batch_tokens=10**6).score(plans)
    windows = {}
    for start, stop, count in (row for p in plans for row in zip(*(part.tolist() for part in p), strict=True)):
        windows[start, stop] = max(count, windows.get((start, stop), 0))
    assert sum(batch for batch, _ in passes) == len(windows)  # each window once, whoever asks for it
    alike = {(stop - start, count > (stop - start) // 2) for (start, stop), count in windows.items()}
    assert len(passes) == len(alike)  # and all of one length together, of which most is scored or little
    assert len(windows) < sum(len(p.starts) for p in plans)


def test_protocols_that_ask_for_the_same_windows_cost_nothing_more(passes):
    scorer = Scorer(small_model(), STREAM, batch_tokens=10**6)
    scorer.score([plan("non_overlapping", STREAM, 16, LENGTHS, SETTINGS)])
    alone = len(passes)
    scorer.score([plan(p, STREAM, 16, LENGTHS, replace(SETTINGS, stride=16)) for p in ("positions", "non_overlapping")])
    assert len(passes) == 2 * alone


@pytest.mark.parametrize("batch_tokens", [1, 64, 10**6])
def test_how_much_is_scored_is_said_after_each_pass_and_ends_at_all(passes, batch_tokens):
    said = []
    Scorer(small_model(), STREAM, batch_tokens, report=said.append).score(plans_at(16))
    tokens = np.cumsum([batch * length for batch, length in passes])
    assert said == pytest.approx((tokens / tokens[-1]).tolist())


def test_the_batch_changes_no_loss():
    plans = plans_at(16)
    one, many = (Scorer(small_model(), STREAM, batch_tokens=n).score(plans) for n in (1, 10**6))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_last_block_computes_the_rows_that_are_scored_and_no_others(monkeypatch):
    rows, forward = [], MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, x: rows.append(tuple(x.shape[:2])) or forward(self, x))
    model = small_model()
    starts = np.array([0, 50])
    few, half, most = (Windows(starts, starts + 10, np.array([2, n])) for n in (3, 5, 6))
    for windows, last in ((few, [(2, 3)]), (half, [(2, 5)]), (most, [(1, 2), (1, 10)])):
        rows.clear()
        (losses,) = Scorer(model, STREAM, 64).score([windows])
        assert rows[len(model.blocks) - 1 :: len(model.blocks)] == last
        assert set(rows) - set(last) <= {(2, 10), (1, 10)}  # all before it see whole windows
        wanted = [
            token_loss(model, STREAM.tokens, start, stop - back)
            for start, stop, count in zip(*windows, strict=True)
            for back in reversed(range(count))
        ]
        np.testing.assert_allclose(losses, wanted, rtol=1e-9)


def test_losses_come_in_the_order_of_the_windows():
    model = small_model()
    windows = Windows(np.array([70, 3]), np.array([74, 9]), np.array([2, 1]))
    (losses,) = Scorer(model, STREAM, 64).score([windows])
    wanted = [token_loss(model, STREAM.tokens, *pair) for pair in ((70, 73), (70, 74), (3, 9))]
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)


def test_the_head_by_parts_is_the_head_at_once(monkeypatch):
    plans = plans_at(8)
    whole = Scorer(small_model(), STREAM, 64).score(plans)
    monkeypatch.setattr(eval.measure.scoring, "HEAD_LOGITS", 80)
    monkeypatch.setattr(eval.measure.scoring, "CACHED_LOGITS", 30)
    for a, b in zip(whole, Scorer(small_model(), STREAM, 64).score(plans), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_bf16_is_close_to_float32():
    model = small_model().float()
    windows = plans_at(8)[:1]
    exact, close = (Scorer(model, STREAM, 64, precision).score(windows)[0] for precision in ("32", "bf16"))
    assert not np.array_equal(exact, close)
    np.testing.assert_allclose(close.mean(), exact.mean(), rtol=0.02)


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch, passes):
    counted = Transformer.hidden

    def hidden(self, tokens, *arguments, **settings):
        if tokens.numel() > 20:
            raise torch.OutOfMemoryError
        return counted(self, tokens, *arguments, **settings)

    plans = plans_at(8)[:1]
    wanted = Scorer(small_model(), STREAM, 20).score(plans)[0]
    monkeypatch.setattr(Transformer, "hidden", hidden)
    with pytest.warns(UserWarning, match="eval.batch_tokens is halved"):
        halved = Scorer(small_model(), STREAM, 64).score(plans)[0]
    np.testing.assert_allclose(halved, wanted, rtol=1e-12)
    with pytest.raises(MemoryError, match="one window of 32 tokens"):
        Scorer(small_model(), STREAM, 64).score([Windows(np.array([0]), np.array([32]), np.array([1]))])


@pytest.mark.parametrize(
    ("settings", "named"), [({"precision": "16"}, "eval.precision='16'"), ({"batch_tokens": 0}, "batch_tokens=0")]
)
def test_bad_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        replace(SETTINGS, **settings)


LONG = """
import resource, sys
import numpy as np
from data.stream import TokenStream
from data.windows import Windows
from eval.measure.scoring import Scorer
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.transformer import Transformer

name, length, vocab = sys.argv[1], 65536, 4096
tokens = np.random.default_rng(0).integers(1, vocab, length + 1).astype(np.uint16)
stream = TokenStream(tokens, np.ones_like(tokens), np.array([0, length + 1]), ("one",), 0)
shape = Shape(dim=128, num_heads=1, num_layers=1, context=128)
model = Transformer(vocab, build_encoding(encoding_config(name), shape))
(losses,) = Scorer(model, stream, 16384).score([Windows(*(np.array([n]) for n in (0, length, length)))])
assert len(losses) == length and np.isfinite(losses).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["rope", "transformer_xl", "alibi", "fox"]
)  # fused, fused with wider q and k, hankel, blocked
def test_65536_tokens_of_context_fit_into_4_gigabytes(name):
    done = subprocess.run(
        [sys.executable, "-c", LONG, name],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 4, f"{done.stdout} GiB"
