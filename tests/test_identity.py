"""What names a run: its settings, however they are written, and nothing of where it is carried out.

python -m pytest tests/test_identity.py
"""

import pytest

from conf.typed import plain
from eval.record.identity import run_id, settings_of

FAIR = "experiment=fair"
NAMED = {
    "": "rope-s0-eacd9b",
    "experiment=fair": "rope-s0-4bf60f",
    "data=copy logger=none": "rope-s0-68c0f2",
    "experiment=ceiling": "rope-s0-cf6ba8",
}


@pytest.mark.parametrize("command", NAMED)
def test_the_standard_commands_have_the_names_that_they_had(command, monkeypatch):
    monkeypatch.delenv("TRAINSHORT_CACHE", raising=False)
    settings = settings_of(*command.split())
    assert settings.run_id == NAMED[command] == run_id(plain(settings))
    assert settings.cache_dir == ".cache"


@pytest.mark.parametrize(
    "where",
    [
        "runs=there",
        "cache_dir=there",
        "num_workers=2",
        "logger=none",
        "compare.level=0.9",
        "sweep=demo",
        "trainer=auto",
    ],
)
def test_where_a_run_is_carried_out_is_not_part_of_its_name(where):
    assert settings_of(where).run_id == NAMED[""]


@pytest.mark.parametrize("what", ["seed=1", "training.lr=1e-4", "encoding=alibi", "eval.targets=8", "context=64"])
def test_what_a_run_computes_is_part_of_its_name(what):
    assert settings_of(what).run_id != NAMED[""]


def test_a_number_has_one_name_however_it_is_written():
    assert len({settings_of(f"training.lr={value}").run_id for value in ("3e-3", "0.003", "0.0030")}) == 1
    assert len({settings_of(f"training.clip={value}").run_id for value in ("1", "1.0")}) == 1


def test_a_learning_rate_that_is_chosen_is_not_part_of_the_name():
    assert settings_of(FAIR, "training.lr=1e-4").run_id == NAMED[FAIR]
    assert settings_of(FAIR, "tuning.lr=[1e-4]").run_id != NAMED[FAIR]
