"""PoSE and random positions: what is drawn in a stage's training, and that evaluation and resuming are as they should.

python -m pytest tests/test_drawn_positions.py
"""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from model.attention import attention
from model.encodings import build_encoding
from model.extensions.drawn import drawn_positions
from tests.extended import HEADS, L, encoding_of, extension_of
from tests.laws import Content, random_tokens, rig_model
from tests.references import softmax_rows
from tests.references.extensions import base_frequencies, rope_score

N = 4 * L
NONE = {"_target_": "model.extensions.none.NoExtension"}
METHODS = {
    "pose": ("pose", {"inner": NONE}),
    "random_positions": ("random_positions", {}),
    "real positions": ("random_positions", {"continuous": True}),
}


def view_of(kind: str, name: str = "rope", **settings):
    method, own = METHODS[kind]
    view = extension_of(method, **{**own, **settings}).apply(encoding_of(name), L, N)
    return copy.deepcopy(view).train()  # with a counter of its own


def draws(view, count: int, length: int = L) -> list[list[float]]:
    tokens_BT = torch.zeros(2, length, dtype=torch.long)
    return [view.positions(tokens_BT).tolist() for _ in range(count)]


# ------------------------------------------------------------------------------------------------------ what is drawn


def test_pose_has_two_runs_of_neighbours_cut_in_the_first_half_and_any_skip_up_to_the_end():
    cuts, skips, length, count = Counter(), Counter(), 7, 4000
    for positions in draws(view_of("pose"), count, length):
        jumps = [t for t in range(1, length) if positions[t] != positions[t - 1] + 1]
        assert positions[0] == 0 and len(jumps) <= 1 and positions[-1] < N
        skips[positions[-1] - (length - 1)] += 1
        cuts.update(jumps)
    assert set(cuts) == {1, 2, 3, 4} and set(skips) == set(range(N - length + 1))  # 1 .. (T + 1)/2; 0 .. N − T
    for found in (cuts, skips):
        expected = sum(found.values()) / len(found)
        chi = sum((n - expected) ** 2 / expected for n in found.values())
        assert chi < len(found) - 1 + 5 * (2 * (len(found) - 1)) ** 0.5, "not uniform"


def test_pose_meets_every_distance_below_its_length():
    met = {p[j] - p[i] for p in draws(view_of("pose"), 3000) for i in range(L) for j in range(i, L)}
    assert met == set(range(N))


def test_whole_positions_are_an_ordered_sample_without_repetition_and_real_ones_an_ordered_sample():
    whole, real = (np.array(draws(view_of(kind), 2000)) for kind in ("random_positions", "real positions"))
    for found in (whole, real):
        assert (np.diff(found) > 0).all() and found.min() >= 0 and found.max() < N
        # the k-th of n ordered uniform draws has the mean (k + 1)/(n + 1) of the range
        mean = (np.arange(L) + 1) / (L + 1) * (N + 1 if found is whole else N) - (found is whole)
        np.testing.assert_allclose(found.mean(axis=0), mean, atol=5 * found.std(axis=0).max() / 2000**0.5)
    assert set(whole.flatten()) == set(range(N)) and (real % 1 != 0).all()
    counts = np.bincount(whole.flatten().astype(int), minlength=N)
    assert abs(counts - 2000 * L / N).max() < 5 * (2000 * L / N * (1 - L / N)) ** 0.5


@pytest.mark.parametrize("kind", METHODS)
def test_in_training_attention_is_that_of_the_drawn_positions(kind):
    view = view_of(kind)
    content = Content.random(view.shape, L, batch=1)
    positions = view.positions(content.tokens)
    q, k, v = (t[0].numpy() for t in content[2:])
    thetas, places = base_frequencies(view, view.shape.head_dim), positions.tolist()
    assert places != list(range(L))
    score = lambda h, i, j: rope_score(q[h, i], k[h, j], thetas, places[i] - places[j])  # noqa: E731
    out = attention(*content[2:], view, positions, content.x, 0, executor="dense")[0]
    np.testing.assert_allclose(out.numpy(), softmax_rows(score, HEADS, L, v), rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------ seeds, resuming, and evaluation


@pytest.mark.parametrize("kind", METHODS)
def test_a_stage_that_is_resumed_draws_what_one_without_a_break_does(kind):
    whole, first = draws(view_of(kind), 6), view_of(kind)
    assert draws(first, 3) == whole[:3] and len({tuple(d) for d in whole}) > 1
    resumed = view_of(kind)
    resumed.load_state_dict(first.state_dict())
    assert draws(resumed, 3) == whole[3:]
    assert draws(view_of(kind, seed=1), 6) != whole


@pytest.mark.parametrize("kind", METHODS)
def test_neither_evaluation_nor_the_global_generator_has_a_part_in_it(kind):
    torch.manual_seed(5)
    before, view = torch.get_rng_state(), view_of(kind)
    first = draws(view, 1)
    view.eval()
    at_test = draws(view, 2)
    assert at_test[0] == at_test[1] and torch.equal(torch.get_rng_state(), before)
    view.train()
    assert [*first, *draws(view, 1)] == draws(view_of(kind), 2)
    assert (at_test[0] == list(range(L))) == (kind != "real positions")


def test_at_test_positions_are_the_tokens_own_at_any_length_or_drawn_below_the_length():
    for kind in ("pose", "random_positions"):
        view = view_of(kind, "alibi").eval()
        assert view.distance_bias and view.prefix_consistent and view.reach is None
        assert not view.train().distance_bias
        plain, drawn = (rig_model(e).eval()(random_tokens(2, 2 * N)) for e in (encoding_of("alibi"), view.eval()))
        assert torch.equal(plain, drawn)
    real = view_of("real positions").eval()
    assert not real.prefix_consistent
    with pytest.raises(ValueError, match=f"not defined beyond {N} tokens"):
        rig_model(real)(random_tokens(1, N + 1))
    assert extension_of("pi").fits(real) and extension_of("logit_scale").fits(real) is None
    assert draws(view_of("real positions", at_test="plain").eval(), 1) == [list(range(L))]


def test_a_window_longer_than_the_range_can_not_be_drawn():
    with pytest.raises(ValueError, match=f"not defined beyond {N} tokens.*raise extension.length"):
        rig_model(view_of("pose")).train()(random_tokens(1, N + 1))


@pytest.mark.parametrize("name", ["t5", "cpb", "sandwich", "relative", "logn", "combined", "sinusoidal", "fire"])
@pytest.mark.parametrize("kind", ["pose", "random_positions"])
def test_biases_by_distance_reach_as_far_as_positions_are_drawn(kind, name):
    owner = rig_model(view_of(kind, name)).train()
    for _ in range(5):
        assert torch.isfinite(owner(random_tokens(2, L))).all()
    assert torch.isfinite(owner.eval()(random_tokens(1, 2 * N))).all()


def test_a_table_that_ends_before_the_range_is_refused_unless_it_is_interpolated():
    with pytest.raises(ValueError, match="not defined beyond"):
        extension_of("random_positions").apply(encoding_of("learned"), L, N)
    inner = {"_target_": "model.extensions.table_interpolation.TableInterpolation"}
    for kind in METHODS:
        owner = rig_model(view_of(kind, "learned", inner=inner)).train()
        assert torch.isfinite(owner(random_tokens(2, L))).all()


def test_real_positions_are_refused_by_tables_of_whole_ones():
    continuous = extension_of("random_positions", continuous=True)
    for name in ("learned", "cpb", "sandwich"):
        assert "nothing between whole numbers" in continuous.fits(encoding_of(name))
    for name in ("rope", "alibi", "sinusoidal", "kerple_log", "fire", "logn"):
        assert continuous.fits(encoding_of(name)) is None


# ------------------------------------------------------------------------------------------------- stages after stages


def test_a_later_extension_ends_the_draws_of_the_stage_before():
    for name in ("rope", "logn", "combined"):
        view = view_of("pose", name)
        later = extension_of("pi").apply(view, N, 2 * N).train()
        assert draws(later, 2) == [list(range(L))] * 2
        assert torch.isfinite(rig_model(later)(random_tokens(1, 2 * N))).all()
        assert all(part.reach is None for part in later.modules() if hasattr(part, "reach"))
        assert later.state_dict().keys() == view.state_dict().keys()  # so that the parent's state loads
        assert draws(view, 2)[0] != list(range(L))


def test_a_later_stage_that_draws_goes_on_from_the_number_of_the_one_before():
    first = view_of("pose")
    draws(first, 3)
    second = copy.deepcopy(extension_of("pose", inner=NONE, length=2 * N).apply(first.eval(), N, 2 * N)).train()
    assert int(second.position_draws) == 3 and second.draw_from == 2 * N and type(second) is type(first)
    assert max(max(positions) for positions in draws(second, 200)) >= N


def test_what_reads_distances_from_rows_reads_them_from_drawn_positions():
    view = view_of("pose", inner={"_target_": "model.extensions.rerope.ReRoPE", "window": 3})
    content = Content.random(view.shape, L, batch=1)
    positions = view.positions(content.tokens)
    q, k, v = (t[0].numpy() for t in content[2:])
    thetas, places = base_frequencies(view, view.shape.head_dim), positions.tolist()
    score = lambda h, i, j: rope_score(q[h, i], k[h, j], thetas, min(places[i] - places[j], 3))  # noqa: E731
    out = attention(*content[2:], view, positions, content.x, 0, executor="dense")[0]
    np.testing.assert_allclose(out.numpy(), softmax_rows(score, HEADS, L, v), rtol=0, atol=1e-9)


def test_neighbouring_seeds_and_draws_are_unrelated():
    found = {
        tuple(drawn_positions(torch.tensor(draw), seed, 8, 1000, "whole").tolist())
        for seed in range(20)
        for draw in range(-20, 20)
    }
    assert len(found) == 20 * 40


def test_an_untrained_encoding_can_be_built_with_the_extension_and_given_the_state_of_a_stage():
    owner = rig_model(view_of("pose", "rope_learned")).train()
    owner(random_tokens(2, L))
    config = {"_target_": "model.encodings.rope_learned.RoPELearned"}
    fresh = extension_of("pose", inner=NONE).apply(build_encoding(config, owner.encoding.shape).double(), L, N)
    again = rig_model(fresh).train()
    again.load_state_dict(owner.state_dict())
    assert torch.equal(again(random_tokens(2, L)), owner(random_tokens(2, L)))
