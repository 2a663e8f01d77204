"""Which encoding when: each sentence and table says what the sweep was made to show.

python -m pytest tests/test_which.py
"""

import pytest

from eval.compare.comparison import read_comparison
from eval.compare.conclusion import ONE_SEED
from eval.compare.ranking import ranked
from eval.compare.show import show_percent
from eval.compare.which import above, growth, which_part
from tests.synthetic import make_run

FIRST, LAST = 32, 256
EXTENSIONS = {"yarn": -0.3, "pose": -0.3, "pi": 0.2}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """At the training context t5 is the lowest; at the longest alibi, which stays where rope and none rise."""
    folder = tmp_path_factory.mktemp("sweep")
    losses = {"t5": (4.0, 4.2), "alibi": (4.1, 4.1), "rope": (4.05, 4.75), "none": (4.3, 4.35), "learned": (4.2, None)}
    losses |= {"fire": (4.4, 4.3)}
    for name, (near, far) in losses.items():
        for seed in range(5):
            extensions = EXTENSIONS if name == "rope" else {}
            nats = lambda length, near=near, far=far: near if length == FIRST else far  # noqa: E731
            make_run(folder, name, seed, nats, lengths=(FIRST, LAST), extensions=extensions, noise=0.01)
    return read_comparison(folder)


@pytest.fixture(scope="module")
def part(comparison):
    return which_part(comparison, ranked(comparison), "c0ffee")


def cells(part: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has that title, by what stands in it."""
    tables = [block.splitlines() for block in part.split("\n\n") if block.startswith(f"| {first} |")]
    (table,) = tables
    return {row[0]: row[1:] for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:])}


def test_a_rise_is_that_of_the_same_targets_with_its_interval(comparison):
    found = growth(comparison, FIRST, LAST)
    assert found.keys() == {"t5", "alibi", "rope", "none", "fire"}, "learned has no figure at the longest"
    for name, rise in {"t5": 0.2, "alibi": 0.0, "rope": 0.7, "none": 0.05, "fire": -0.1}.items():
        assert found[name].low <= rise <= found[name].high and found[name].nats == pytest.approx(rise, abs=0.03)
        assert found[name].verdict == ("not separable" if not rise else "worse" if rise > 0 else "better")


def test_what_lies_above_the_lowest_is_corrected_for_all(comparison):
    found = above(comparison, "t5", FIRST)
    assert {*found.index} == {"alibi", "rope", "none", "learned", "fire"}
    assert (found["difference_nats"] > 0).all() and (found["p_holm"] >= found["p"]).all()
    assert (found["verdict"] == "worse").all()


def test_the_bands_are_those_of_the_rises(comparison, part):
    rows = cells(part, "the perplexity")
    assert {title: [each.split()[0] for each in text.split("), ")] for title, (text,) in rows.items()} == {
        "falls (by more than 1 %)": ["fire"],
        "stays (to 1 %)": ["alibi"],
        "rises a little (to 10 %)": ["none"],
        "rises (to 50 %)": ["t5"],
        "breaks": ["rope"],
    }
    assert rows["breaks"][0].startswith(f"rope {show_percent(growth(comparison, FIRST, LAST)['rope'].percent)} (+")


def test_the_best_are_named_at_each_end_and_for_both(part):
    assert "At 32 (1x) t5 is the best of 6: " in part and "At 256 (8x) alibi is the best of 5: " in part
    assert "Among the best at 32 (1x) and at 256 (8x) are none." in part
    shown = {row.split("|")[1].strip() for row in part.splitlines() if row.endswith("| worse |")}
    assert {"alibi", "rope", "none", "learned"} == shown - {"pi", "fire"}


def test_extensions_stand_lowest_first_each_but_once(part):
    rows = cells(part, "extension")
    assert list(rows) == ["yarn", "pi"], "pose lies around it, and acts in training alone"
    assert [row[-1] for row in rows.values()] == ["better", "worse"]
    assert "1 of 2 extensions are better, 1 worse" in part


def test_one_that_is_lower_and_yet_behind_is_named(comparison):
    """Of an encoding whose seeds differ much less can be said than of one that is always a little behind."""
    rows = ranked(comparison)
    rows.loc[rows["label"] == "none", "group"] = 1
    said = which_part(comparison, rows, "c0ffee")
    assert "At 32 (1x) 2 of 6 can't be told from the best: t5" in said
    assert "Lower than none, and yet not among them, are rope, alibi and learned: their seeds agree" in said


def test_what_has_no_figure_at_the_longest_is_said(part):
    assert "\nlearned: not defined there, or not trained in every seed.\n" in part


def test_of_one_length_and_one_seed_nothing_is_said_of_longer_texts(tmp_path):
    for name, nats in (("alibi", 4.0), ("rope", 4.2)):
        make_run(tmp_path, name, 0, lambda length, nats=nats: nats, lengths=(FIRST,), noise=0.01)
    comparison = read_comparison(tmp_path)
    said = which_part(comparison, ranked(comparison), "c0ffee")
    assert ONE_SEED in said and "At 32 (1x) alibi is the best of 2: " in said
    assert "Longer texts" not in said and "Both at once" not in said and "extended" not in said


def test_it_names_its_bank(part):
    assert part.startswith("<!-- of results/standard-v1.parquet, sha256 c0ffee -->")
