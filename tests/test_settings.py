"""Settings as objects: what yaml gives, what is written and read back, what replaces them.

python -m pytest tests/test_settings.py
"""

import copy
import json
import re
from dataclasses import MISSING, fields, is_dataclass, replace

import pytest

import conf.typed
from conf.compose import composed as compose
from conf.schema import (
    CONF,
    CompareSettings,
    CorpusSettings,
    EvaluationSettings,
    LoggerSettings,
    ModelSettings,
    ScoringSettings,
    Settings,
    TaskSettings,
    TrainerSettings,
    TrainingSettings,
    TuningSettings,
    modules,
    options,
)
from conf.typed import plain, split, typed
from eval.record.identity import identity, run_id, settings_of

FAIR = "experiment=fair"
EXPERIMENTS = [f"experiment={name}" for name in options("experiment")]
ENCODINGS = [f"encoding={name}" for name in options("encoding")]


ODD = (None, True, 0, 3, -1, 1e3, 0.5, 2**64, float("nan"), "", "7", "true", "???", "word", [], [1, "b"], [[1]])
ODD += ({"a": 1},)


@pytest.mark.slow
def test_what_is_read_back_without_omegaconf_is_what_omegaconf_makes_of_it(monkeypatch):
    def both(values):
        """The settings, or what is wrong with them, as each way has them."""
        found = []
        for made in (conf.typed._made, lambda cls, values: None):
            with monkeypatch.context() as only:
                only.setattr(conf.typed, "_made", made)
                try:
                    found.append(repr(typed(Settings, values)))
                except (ValueError, TypeError) as error:
                    found.append(str(error))
        return found

    chosen = json.loads(json.dumps(plain(settings_of(FAIR, "encoding=rope_fox", "tokenizer=byte"))))
    assert conf.typed._made(Settings, chosen) == typed(Settings, chosen)
    places = [(key, None) for key in chosen]
    places += [(key, name) for key, group in chosen.items() if isinstance(group, dict) for name in [*group, "another"]]
    for number, (key, name) in enumerate(places):
        for odd in [*ODD, "left out"][number % 7 :: 7]:  # some of them at each place: all take a minute
            values = copy.deepcopy(chosen)
            group = values if name is None else values[key]
            group[name or key] = odd
            if odd == "left out":
                del group[name or key]
            one, other = both(values)
            assert one == other, (key, name, odd)


@pytest.mark.parametrize("choice", EXPERIMENTS + ENCODINGS)
def test_settings_that_are_written_and_read_back_are_the_same(choice):
    settings = settings_of(choice)
    values = json.loads(json.dumps(plain(settings)))
    again = typed(Settings, values)
    assert again == settings and plain(again) == values
    assert run_id(values) == settings.run_id == again.run_id
    assert identity(values) == identity(plain(settings))
    for field in fields(settings):
        kind, of_again = type(getattr(settings, field.name)), type(getattr(again, field.name))
        assert kind is of_again, field.name


def test_whole_multiples_stay_whole_and_fractions_stay_fractions():
    """They are part of what names a run."""
    settings = settings_of("eval.lengths=[0.5,1,2.0]")
    for lengths in (settings.eval.lengths, typed(Settings, plain(settings)).eval.lengths):
        assert [(type(value), value) for value in lengths] == [(float, 0.5), (int, 1), (float, 2.0)]


@pytest.mark.parametrize(
    "place", ["seed", "runs", "encoding.base", "data.source", "training.lr", "eval.lengths", "tuning"]
)
@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${run_id:}", "before ${seed} after"])
def test_an_interpolation_that_is_read_back_is_refused_and_not_resolved(monkeypatch, tmp_path, place, text):
    values = plain(settings_of())
    *groups, key = place.split(".")
    group = values
    for name in groups:
        group = group[name]
    group[key] = [text] if key == "lengths" else {"lr": [text]} if key == "tuning" else text
    monkeypatch.setattr("eval.record.identity._resolve_run_id", lambda _: pytest.fail("resolved"))
    with pytest.raises(ValueError, match="an interpolation") as error:
        typed(Settings, values)
    assert "HOME" not in str(error.value) and len(str(error.value).splitlines()) == 1


def test_an_interpolation_in_a_key_is_refused_too():
    with pytest.raises(ValueError, match="an interpolation"):
        typed(Settings, plain(settings_of()) | {"${oc.env:HOME}": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "abc"}, "seed=abc: "),
        ({"seed": None}, "seed: "),
        ({"sed": 1}, "sed: "),
        ({"training": {"tokens": "many"}}, "training.tokens="),
        ({"training": {"lrr": 1}}, "training.lrr: "),
        ({"training": {"lr": -1}}, "training.lr=-1.0: must be positive"),
        ({"eval": {"probe": {"windows": "few"}}}, "eval.probe.windows="),
        ({"tuning": {"lr": "high", "seed": 0}}, "tuning.lr: "),
        ({"tuning": {"lr": [1e-3]}}, "tuning.seed: needs a value"),
        ({"run_id": "../x"}, "run_id='../x': "),
        ({"context": 1}, "context=1: "),
    ],
)
def test_a_wrong_value_that_is_read_back_is_refused_by_its_name(change, message):
    def changed(values, change):
        return {
            **values,
            **{k: changed(values[k], v) if isinstance(v, dict) and values[k] else v for k, v in change.items()},
        }

    with pytest.raises(ValueError) as error:
        typed(Settings, changed(plain(settings_of()), change))
    assert re.match(message.replace(": ", "(=.+)?: "), str(error.value)) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("missing", [field.name for field in fields(Settings) if field.default is MISSING])
def test_a_value_that_is_missing_from_what_is_read_back_is_asked_for(missing):
    values = plain(settings_of())
    del values[missing]
    with pytest.raises(ValueError, match=rf"^{missing}(\.\w+)?: needs a value$"):
        typed(Settings, values)


def test_a_part_of_the_settings_is_named_by_its_group():
    with pytest.raises(ValueError, match=r"^tuning\.lr: "):
        typed(TuningSettings, {"lr": "high", "seed": 0}, "tuning")
    with pytest.raises(ValueError, match=r"^tuning: an interpolation"):
        typed(TuningSettings, {"lr": ["${x}"], "seed": 0}, "tuning")


def test_replacing_a_setting_checks_it_again():
    settings = settings_of()
    assert replace(settings, seed=3).seed == 3 and settings.seed == 0
    with pytest.raises(ValueError, match="seed=-1"):
        replace(settings, seed=-1)
    with pytest.raises(ValueError, match=r"training\.lr=0"):
        replace(settings.training, lr=0)
    with pytest.raises(ValueError, match="shared by 3"):
        replace(settings, trainer=replace(settings.trainer, devices=3))


def test_every_group_of_the_settings_is_an_object_of_its_class():
    settings = settings_of(FAIR)
    groups = {"model": ModelSettings, "training": TrainingSettings, "eval": EvaluationSettings}
    groups |= {"compare": CompareSettings, "trainer": TrainerSettings, "logger": LoggerSettings}
    groups |= {"tuning": TuningSettings}
    for name, cls in groups.items():
        assert type(getattr(settings, name)) is cls
    assert is_dataclass(settings.eval.probe) and settings_of().tuning is None
    for name in ("encoding", "data", "tokenizer"):
        assert type(getattr(settings, name)) is dict


def test_what_can_be_chosen_is_what_lies_in_the_folders():
    assert options("experiment") == [
        "ceiling",
        "compare",
        "controls",
        "extend",
        "fair",
        "layouts",
        "retrieval",
        "smoke",
        "standard",
        "tasks",
    ]
    assert modules("eval/measure/protocols") == ["fixed_targets", "non_overlapping", "positions", "sliding"]
    assert all((CONF / "encoding" / f"{name}.yaml").exists() for name in options("encoding"))
    assert "__init__" not in modules("data/sources") and "text" in modules("data/sources")


def test_the_settings_of_scoring_are_all_left_to_the_run():
    scoring = compose("eval")
    assert scoring._metadata.object_type is ScoringSettings
    assert scoring.run is scoring.cache_dir is scoring.num_workers is scoring.extension is None
    assert compose("eval", "extension=yarn", "extension.tune=true").extension.tune is True


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (CorpusSettings, {"source": "x", "validation_windows": 0}, "data.validation_windows=0: "),
        (CorpusSettings, {"source": "x", "max_tokens": 1}, "data.max_tokens=1: "),
        (CorpusSettings, {"source": "x", "max_documents": -1}, "data.max_documents=-1: "),
        (
            CorpusSettings,
            {"source": "x", "cross_documents": "maybe"},
            "data.cross_documents='maybe': must be true or false",
        ),
        (CorpusSettings, {"source": "x", "cross_documents": "no"}, "data.cross_documents='no': must be true or false"),
        (CorpusSettings, {"source": None}, "data.source=None: must be a word"),
        (CorpusSettings, {}, "data.source: needs a value"),
        (TaskSettings, {"source": "x", "name": "x", "examples": 0, "validation_windows": 1}, "data.examples=0: "),
        (
            TaskSettings,
            {"source": "x", "name": "x", "examples": 1, "validation_windows": 0},
            "data.validation_windows=",
        ),
        (TaskSettings, {"source": "x", "name": "x", "examples": 1}, "data.validation_windows: needs a value"),
    ],
)
def test_settings_that_all_data_have_are_refused_by_name(cls, values, message):
    with pytest.raises(ValueError) as error:
        split(cls, values, "data")
    assert str(error.value).startswith(message)


def test_the_other_settings_of_data_are_the_sources_own():
    common, own = split(CorpusSettings, {"source": "text", "path": "x", "max_tokens": 9, "column": "c"}, "data")
    assert common == CorpusSettings("text", max_tokens=9) and own == {"path": "x", "column": "c"}
