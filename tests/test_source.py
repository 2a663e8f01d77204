"""The source of an encoding is part of a run's name: what it computes, and not how it is written down.

python -m pytest tests/test_source.py
"""

import subprocess
import sys

import pytest

from conf.schema import ROOT
from conf.source import source_hash
from model.catalogue import encoding_config

FORMULA = '''
"""One paper."""
from near.helper import slope


class Mine:
    """score = q·k/√d − slope · distance"""

    def score_mod(self, distance):
        # the further, the less
        return -slope() * distance
'''
HELPER = "def slope():\n    return 0.5\n"
CONFIG = {"name": "mine", "_target_": "near.mine.Mine"}


def hashed(folder, mine=FORMULA, helper=HELPER, config=CONFIG) -> str:
    """The hash that another process, which knows no other files, has of these."""
    for name, text in {"__init__": "", "mine": mine, "helper": helper, "unrelated": "x = 1\n"}.items():
        (folder / "near").mkdir(exist_ok=True)
        (folder / "near" / f"{name}.py").write_text(text)
    script = f"from conf.source import source_hash; print(source_hash({config!r}))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {script}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "changed",
    [
        {"mine": FORMULA.replace("One paper", "Another")},
        {"mine": FORMULA.replace("# the further, the less", "# less")},
        {"mine": FORMULA.replace("distance", "distance ").replace("\n\n", "\n\n\n")},
        {"config": {**CONFIG, "name": "other", "scale": 2}},
    ],
)
def test_words_and_layout_are_none_of_the_source(tmp_path, changed):
    assert hashed(tmp_path, **changed) == hashed(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"mine": FORMULA.replace("-slope()", "slope()")},
        {"helper": HELPER.replace("0.5", "0.25")},
        {"mine": FORMULA + "raise ("},
        {"config": {**CONFIG, "_target_": "near.unrelated.Mine"}},
        {"config": {**CONFIG, "inner": [{"_target_": "near.unrelated.X"}]}},
        {"config": {**CONFIG, "_target_": "nowhere.Mine"}},
    ],
)
def test_what_it_computes_is_the_source_with_what_its_neighbours_add(tmp_path, changed):
    assert hashed(tmp_path, **changed) != hashed(tmp_path)


def test_an_encoding_around_others_has_their_source_too():
    wrapped = [encoding_config("combined", [f"encoding@encoding.parts.second={name}"]) for name in ("alibi", "t5")]
    assert len({source_hash(config) for config in [*wrapped, encoding_config("alibi")]}) == 3


def test_a_variant_has_the_source_of_what_it_is_derived_from():
    from conf.source import _collect  # of which modules the hash is

    found = {}
    _collect("model.encodings.xpos", found)
    assert sorted(found) == ["model.encodings.rope", "model.encodings.xpos"]
