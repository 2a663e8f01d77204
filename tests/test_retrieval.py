"""Retrieval on text: the grid against brute force, what is asked, what is kept.

python -m pytest tests/test_retrieval.py
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conf.schema import ProbeSettings
from eval.measure.retrieval import FEWEST, Retrieval, words_of
from eval.measure.rows import row_key
from eval.measure.streams import Streams
from eval.measure.units import RETRIEVED, means_of
from eval.record.files import DamagedError
from eval.record.folder import RunFolder
from tests.small import CONTEXT, SEPARATOR, SETTINGS, VOCABULARY, small_model, small_stream, token_loss

STREAM = small_stream(90, 70, 130)
DEPTHS = [0.0, 0.3, 1.0]
GRID = replace(
    SETTINGS,
    lengths=[1, 2],
    retrieval=["span", "pair"],
    depths=DEPTHS,
    probe=ProbeSettings(windows=12, longest=2, span=3),
)


class Letters:
    """A tokenizer of tokens that are no words."""

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)


def grid(stream=STREAM, **changes) -> Retrieval:
    settings = replace(GRID, **changes)
    key = settings.targets_key(CONTEXT)
    return Retrieval(settings, Streams(stream, stream, stream), Letters(), CONTEXT, key)


def measured(model, asked=None, folder=None) -> list[dict]:
    known = (folder.results.get("retrieval", []), folder.losses.keys()) if folder else ([], [])
    found = list((asked or grid()).rows(model, *known))
    for each in found if folder else []:
        folder.add(each)
    return [row for each in found for row in each.retrieval]


def test_every_cell_of_the_grid_is_brute_force():
    model, asked = small_model(), grid()
    rows = measured(model, asked)
    assert [(r["needle"], r["context_length"], r["depth"]) for r in rows] == [
        (needle, length, depth) for length in (8, 16) for needle in ("span", "pair") for depth in DEPTHS
    ]
    for row in rows:
        length, scored = row["context_length"], {"span": 2, "pair": 2}[row["needle"]]
        without, found, exact = [], [], []
        for end, needle in zip(asked.haystack.ends, asked.needles[row["needle"]].tokens_Wn, strict=True):
            text = STREAM.tokens[end - length : end + 1].copy()
            text[-len(needle) :] = needle
            without.append([token_loss(model, text, 0, t) for t in range(length + 1 - scored, length + 1)])
            start = len(text) - len(needle) - row["distance"]
            text[start : start + len(needle)] = needle
            found.append([token_loss(model, text, 0, t) for t in range(length + 1 - scored, length + 1)])
            with torch.no_grad():
                said = model(torch.from_numpy(text[:-1].astype(np.int64))[None])[0, -scored:].argmax(-1).numpy()
            exact.append((said == text[-scored:]).all())
        assert row["nats_without"] == pytest.approx(np.mean(without), rel=1e-9)
        assert row["nats_found"] == pytest.approx(np.mean(found), rel=1e-9)
        assert row["gain"] == pytest.approx(np.mean(without) - np.mean(found), abs=1e-9)
        assert row["exact_match"] == np.mean(exact) and row["tokens"] == scored * row["windows"]


def test_a_span_is_the_windows_own_end_and_stands_before_it_at_its_depth():
    asked = grid()
    needle = asked.needles["span"]
    for end, tokens in zip(asked.haystack.ends, needle.tokens_Wn, strict=True):
        np.testing.assert_array_equal(tokens, STREAM.tokens[end - 2 : end + 1])
    rows = [row for row in measured(small_model(), asked) if row["needle"] == "span" and row["context_length"] == 16]
    assert [row["distance"] for row in rows] == [14, 11, 3]  # from the window's first token to right before its end


def test_all_is_asked_of_the_same_windows_at_every_length_and_depth():
    rows = measured(small_model())
    by_needle = {row["needle"]: row for row in rows}
    assert {row["targets_id"] for row in rows} == {row["targets_id"] for row in by_needle.values()}
    spans = [row["nats_without"] for row in rows if row["needle"] == "span" and row["context_length"] == 8]
    assert len(set(spans)) == 1 and len({row["targets_id"] for row in by_needle.values()}) == 2


def test_words_are_whole_words_of_the_text_and_any_token_where_there_are_few():
    class Words:
        def decode(self, ids):
            (token,) = ids
            return {1: " the", 2: "piece", 3: " a1b", 4: " né"}.get(token, f" word{'x' * token}")

    tokens = np.concatenate([[SEPARATOR], np.arange(1, 5), np.arange(10, 10 + FEWEST)]).astype(np.uint16)
    stream = replace(small_stream(len(tokens)), tokens=tokens)
    assert words_of(Words(), stream).tolist() == [1, *range(10, 10 + FEWEST)]
    assert words_of(Letters(), STREAM).tolist() == list(range(1, VOCABULARY))


def test_an_extension_stands_beside_the_untreated_control_and_one_that_does_not_fit_says_why():
    rows = measured(small_model("rope"), grid(extensions=["none", "pi", "alibi_interpolation"]))
    places = {name: [row for row in rows if row["extension"] == name] for name in ("none", "pi", "alibi_interpolation")}
    assert len({len(own) for own in places.values()}) == 1
    assert all(row["status"] == "undefined" and row["reason"] for row in places["alibi_interpolation"])
    for plain, other in zip(places["none"], places["pi"], strict=True):
        same = plain["context_length"] == CONTEXT
        assert (plain["gain"] == pytest.approx(other["gain"], abs=1e-9)) == same
        assert plain["targets_id"] == other["targets_id"]


def test_a_length_without_definition_is_undefined_and_a_model_that_breaks_has_diverged():
    rows = measured(small_model("learned"))
    assert {row["context_length"] for row in rows if row["status"] == "undefined"} == {16}
    broken = small_model()
    with torch.no_grad():
        broken.norm.weight.fill_(torch.nan)
    assert {row["status"] for row in measured(broken)} == {"diverged"}


def test_only_what_is_missing_is_measured_again(tmp_path):
    folder, model = RunFolder(tmp_path), small_model()
    first = measured(model, folder=folder)
    assert folder.results["retrieval"] == first
    assert measured(model, folder=folder) == []
    more = measured(model, grid(depths=[0.3, 0.6]), folder)
    assert {row["depth"] for row in more} == {0.6} and len(folder.results["retrieval"]) == len(first) + 4
    folder.path.joinpath("losses.npz").unlink()
    assert len(measured(model, folder=folder)) == len(first)


def test_rows_of_other_windows_do_not_stand_beside_new_ones(tmp_path):
    folder, model = RunFolder(tmp_path), small_model()
    measured(model, folder=folder)
    fewer = measured(model, grid(depths=[0.5], probe=ProbeSettings(windows=11, longest=2, span=3)), folder)
    assert folder.results["retrieval"] == fewer


def test_what_is_behind_a_row_is_kept_and_held_against_it(tmp_path):
    folder = RunFolder(tmp_path)
    rows = measured(small_model(), folder=folder)
    units = folder.units_of(rows)
    assert units.groupby("key").size().to_dict() == {row_key(row): row["windows"] for row in rows}
    gains = units.assign(gain=units["without"] - units["found"]).groupby("key")[["gain", "tokens"]].sum()
    for row in rows:
        assert gains.loc[row_key(row), "gain"] / gains.loc[row_key(row), "tokens"] == pytest.approx(row["gain"])
    with pytest.raises(DamagedError, match="differs"):
        folder.units_of([{**rows[0], "gain": rows[0]["gain"] + 1}])
    with pytest.raises(DamagedError, match="lacks"):
        folder.units_of([{**rows[0], "depth": 0.123}])
    losses = folder.losses
    losses[row_key(rows[0])] = losses[row_key(rows[0])] * np.nan
    np.savez(folder.path / "losses.npz", **losses)
    with pytest.raises(DamagedError, match="differs"):
        folder.units_of(rows)


def test_a_window_in_which_nothing_was_scored_is_damage_whatever_follows_from_it(tmp_path):
    folder = RunFolder(tmp_path)
    row, *_ = measured(small_model(), folder=folder)
    losses = folder.losses
    units = losses[row_key(row)].copy()
    units[0, RETRIEVED.index("tokens")] = 0
    np.savez(folder.path / "losses.npz", **{**losses, row_key(row): units})
    with pytest.raises(DamagedError, match="differs"):
        folder.units_of([{**row, **means_of(row, units.astype(float))}])


def test_what_no_row_has_any_more_is_dropped(tmp_path):
    folder, model = RunFolder(tmp_path), small_model()
    measured(model, folder=folder)
    measured(model, grid(depths=[0.5], probe=ProbeSettings(windows=11, longest=2, span=3)), folder)
    assert folder.losses.keys() == {row_key(row) for row in folder.results["retrieval"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probe": ProbeSettings(windows=12, longest=2, span=5)}, "eval.probe.span=5"),
        ({"lengths": [0.75, 2]}, "eval.retrieval=pair: its 4 tokens don't fit twice"),
        ({"probe": ProbeSettings(windows=12, longest=0.1, span=None)}, "eval.probe.longest=0.1"),
    ],
)
def test_a_needle_that_does_not_fit_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        grid(**changes)
