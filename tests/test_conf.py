"""Every file of conf: it composes, and every experiment runs.

python -m pytest tests/test_conf.py
"""

import json

import pytest

from conf.compose import composed_each
from conf.schema import CONF, CorpusSettings, Settings, TaskSettings, corpus_of, fewest_layers, options, task_of
from conf.signature import check_types, parameters
from conf.typed import split
from data.corpus import source_class
from data.recipe import build_recipe
from data.task import Task
from eval.record.identity import settings_of
from model.build import build_transformer, check_model
from model.catalogue import encoding_config, extension_config, extension_names
from model.extensions import build_extension

GROUPS = ("encoding", "model", "data", "tokenizer", "eval", "compare", "trainer", "logger", "experiment", "arm")
FILES = [f"{group}={option}" for group in GROUPS for option in options(group)]
NEEDED = {  # settings that a file leaves to the user
    "data=text": ["data.path=corpus"],
    "data=hub": ["data.path=owner/name"],
    "tokenizer=pretrained": ["tokenizer.path=tokenizer.json"],
    **{f"arm={name}": ["experiment=extend"] for name in options("arm")},
}
SCALED = [
    "model=nano",
    "context=32",
    "training.tokens=2048",
    "eval=smoke",
    "eval.targets=4",
    "eval.windows=12",
    "logger=none",
]
STANDARD = ["model.dim=32", "model.num_layers=1", "data.max_tokens=30_000", "tokenizer.vocab_size=300"]
STANDARD += [
    "eval.tokens=1024",
    "context=32",
    "training.tokens=2048",
    "eval.targets=4",
    "eval.windows=12",
    "logger=none",
]
SWEEPS = {  # experiments that are sweeps: what makes them small, and how many runs they have then
    "compare": (["encoding=none,rope"], 2),
    "controls": ([], 2),
    "fair": (["tuning.lr=[1e-3,3e-3]"], 1),
    "retrieval": (["encoding=none,rope", "seed=0", "data=shakespeare"], 2),
}


@pytest.mark.parametrize("choice", FILES)
def test_every_file_composes_to_settings_of_the_right_kinds(composed, choice):
    group, option = choice.split("=")
    layers = [f"model.num_layers={max(4, fewest_layers(encoding_config(option)))}"] if group == "encoding" else []
    settings = composed(choice, *layers, *NEEDED.get(choice, []))
    assert isinstance(settings, Settings)
    check_model(settings)
    check_data(settings)
    if group not in ("eval", "compare", "logger", "experiment", "arm"):
        chosen = getattr(settings, group)
        assert (chosen["name"] if isinstance(chosen, dict) else chosen.name) == option
    if group == "model":
        assert build_transformer(settings, 300, {}).count_parameters()["backbone"] > 0


def check_data(settings):
    """Every key of data and tokenizer is one that its class takes, of the right kind; no text is read."""
    parts = {corpus_of: CorpusSettings, task_of: TaskSettings}
    given = {kind: own for part, kind in parts.items() if (own := part(settings.data)) is not None}
    for kind, values in given.items():
        source = source_class(values["source"])
        assert issubclass(source, Task) == (kind is TaskSettings)
        _, own = split(kind, values, "data")
        assert own.keys() <= parameters(source).keys()
        check_types(source, own, "data")
    if settings.tokenizer != {"name": "none"}:
        build_recipe(settings.tokenizer)
    assert CorpusSettings in given or settings.tokenizer == {"name": "none"}


@pytest.mark.parametrize("choice", [choice for choice in NEEDED if not choice.startswith("arm=")])
def test_a_setting_that_is_left_to_the_user_is_asked_for_by_name(composed, program, tmp_path, choice):
    (needed,) = NEEDED[choice]
    key = needed.partition("=")[0]
    with pytest.raises(ValueError, match=rf"{key}: needs a value"):
        composed(choice)
    done = program(choice, runs=tmp_path)
    assert done.returncode == 1 and done.stderr == f"error: {key}: needs a value\n"


def test_no_group_is_left_out():
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} == {*GROUPS, "extension", "hydra"}
    assert all(extension_config(name)["name"] == name for name in extension_names())


@pytest.mark.parametrize("name", extension_names())
def test_every_extension_is_scored_with_by_its_name_and_made_from_its_file(name):
    assert settings_of(f"eval.extensions=[{name}]").eval.extensions == [name]
    assert build_extension(extension_config(name)).describe() is not None


def experiments():
    """Every file of conf/experiment; those that other fast tests run in part are slow."""
    for name in options("experiment"):
        yield pytest.param(name, marks=[] if name == "fair" else pytest.mark.slow)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_runs(program, tmp_path, name):
    more, runs = SWEEPS.get(name, ([], 1))
    sweep = ["-m", "sweep=small"] if name in SWEEPS else []
    if name not in ("tasks", "standard"):
        more = [*more, "tokenizer=byte"]
    done = program(*sweep, f"experiment={name}", *(STANDARD if name == "standard" else SCALED), *more, runs=tmp_path)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "small" if sweep else tmp_path).glob("*/results.json"))
    assert len(files) == runs
    for file in files:
        results = json.loads(file.read_text())
        rows = results["tasks"] if name == "tasks" else results["rows"]
        assert {row["context_length"] for row in rows if row["status"] == "ok"}


def test_the_cache_is_where_the_environment_or_the_command_line_says(monkeypatch):
    for variable, overrides, wanted in [
        (None, [], ".cache"),
        ("there", [], "there"),
        ("there", ["cache_dir=here"], "here"),
    ]:
        monkeypatch.delenv("TRAINSHORT_CACHE", raising=False)
        if variable:
            monkeypatch.setenv("TRAINSHORT_CACHE", variable)
        assert settings_of(*overrides).cache_dir == wanted


@pytest.mark.parametrize("group", ["encoding", "extension"])
def test_composed_at_once_they_are_what_each_is_alone(group):
    alone = {"encoding": encoding_config, "extension": extension_config}[group]
    assert composed_each(group, options(group)) == {name: alone(name) for name in options(group)}
