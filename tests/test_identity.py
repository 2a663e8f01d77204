"""What names a run: its settings, however they are written, and nothing of where it is carried out.

python -m pytest tests/test_identity.py
"""

import pytest

from conf.typed import plain
from eval.record.identity import LATER, as_before, identity, run_id, settings_of
from eval.record.sweep import sweep_name
from tests.test_sweep import multirun

FAIR = "experiment=fair"
SETTINGS = {  # how the hash of their settings begins; the names themselves change with the source of an encoding
    "": "811dae",
    "experiment=fair": "69747f",
    "data=copy logger=none": "3b9f0d",
    "experiment=ceiling": "0db9d4",
}


@pytest.fixture(scope="module")
def default() -> str:
    return settings_of().run_id


@pytest.mark.parametrize("command", SETTINGS)
def test_the_standard_commands_have_the_hashes_that_they_had(command, monkeypatch):
    monkeypatch.delenv("TRAINSHORT_CACHE", raising=False)
    settings = settings_of(*command.split())
    assert identity(plain(settings))["settings"][:6] == SETTINGS[command]
    assert settings.run_id == run_id(plain(settings))
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
        "force=true",
        "eval.lengths=[1,16]",
        "eval=smoke",
    ],
)
def test_where_a_run_is_carried_out_and_how_it_is_scored_is_not_part_of_its_name(where, default):
    assert settings_of(where).run_id == default


@pytest.mark.parametrize("what", ["seed=1", "training.lr=1e-4", "encoding=alibi", "context=64"])
def test_what_a_run_computes_is_part_of_its_name(what, default):
    assert settings_of(what).run_id != default


def test_a_number_has_one_name_however_it_is_written():
    assert len({settings_of(f"training.lr={value}").run_id for value in ("3e-3", "0.003", "0.0030")}) == 1
    assert len({settings_of(f"training.clip={value}").run_id for value in ("1", "1.0")}) == 1


# Settings that came later, as they are when nothing is asked of them: all is named as it was before.
NOT_SET = {
    "training": {
        "context_schedule": {"kind": None, "start": None, "share": None},
        "keep": [],
        "schedule_from": None,
        "optimizer_from": None,
    },
    "data": {"min_tokens": None},
    "model": {"qk_norm": False, "sink": False, "output_gate": None, "token_shift": None},
}
SET = {
    "training": ["training.context_schedule.kind=skyladder"],
    "data": ["data.min_tokens=300"],
    "model": ["model.sink=true"],
}


@pytest.mark.parametrize("group", NOT_SET)
def test_a_setting_that_came_later_is_part_of_the_name_once_it_is_set(group, default):
    config = plain(settings_of())
    assert NOT_SET[group].keys() <= config[group].keys() and NOT_SET[group].keys() == set(LATER[group])
    assert {key: config[group][key] for key in NOT_SET[group]} == NOT_SET[group]
    before = {key: value for key, value in config[group].items() if key not in NOT_SET[group]}
    assert run_id({**config, group: before}) == run_id(config) == default
    assert settings_of(*SET[group]).run_id != default


@pytest.mark.parametrize("empty", [None, False, [], {"kind": None}, {"kind": {"deeper": None}}])
def test_what_says_nothing_is_not_set(empty):
    config = {"training": {"lr": 1.0, "context_schedule": empty}, "data": {"source": "text"}}
    assert as_before(config)["training"] == {"lr": 1.0}
    for said in (0, True, "", [None], {"kind": None, "start": 0}):
        config["training"]["context_schedule"] = said
        assert as_before(config) == config


def test_a_later_setting_that_is_not_set_leaves_a_sweep_its_name():
    with multirun("encoding=rope,alibi") as config:
        assert sweep_name(config) == "sweep-ee3805"
    with multirun("encoding=rope,alibi", *SET["training"]) as config:
        assert sweep_name(config) != "sweep-ee3805"


def test_a_learning_rate_that_is_chosen_is_not_part_of_the_name():
    assert settings_of(FAIR, "training.lr=1e-4").run_id == settings_of(FAIR).run_id
    assert settings_of(FAIR, "tuning.lr=[1e-4]").run_id != settings_of(FAIR).run_id
