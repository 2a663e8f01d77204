"""Every file of conf: it composes, and every experiment runs.

python -m pytest tests/test_conf.py
"""

import json

import pytest
from hydra import compose, initialize_config_dir
from model.settings import check_types

from eval.record.identity import register_names
from model.build import build_transformer
from model.catalogue import extension_config, extension_names
from tests.conftest import ROOT

CONF = ROOT / "conf"
GROUPS = ("encoding", "model", "data", "tokenizer", "eval", "compare", "trainer", "logger", "experiment")
FILES = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
NEEDED = {  # settings that a file leaves to the user
    "data=text": ["data.path=corpus"],
    "data=hub": ["data.name=hub"],
    "tokenizer=pretrained": ["tokenizer.path=tokenizer.json"],
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
SWEEPS = {  # experiments that are sweeps: what makes them small, and how many runs they have then
    "compare": (["encoding=none,rope"], 2),
    "controls": ([], 2),
    "fair": (["tuning.lr=[1e-3,3e-3]"], 1),
}


@pytest.mark.parametrize("choice", FILES)
def test_every_file_composes_to_settings_of_the_right_kinds(composed, choice):
    config = composed(choice, *NEEDED.get(choice, []))
    check_types(config)
    group, option = choice.split("=")
    if group not in ("eval", "compare", "logger", "experiment"):
        assert config[group]["name"] == option
    if group == "model":
        assert build_transformer(config, 300, {}).count_parameters()["backbone"] > 0


def test_no_group_is_left_out():
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} == {*GROUPS, "extension", "hydra"}
    assert all(extension_config(name)["name"] == name for name in extension_names())


def experiments():
    """Every file of conf/experiment; those that other fast tests run in part are slow."""
    for file in sorted((CONF / "experiment").glob("*.yaml")):
        yield pytest.param(file.stem, marks=[] if file.stem == "fair" else pytest.mark.slow)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_runs(program, tmp_path, name):
    more, runs = SWEEPS.get(name, ([], 1))
    sweep = ["-m", "sweep=small"] if name in SWEEPS else []
    if name != "tasks":
        more = [*more, "tokenizer=byte"]
    done = program(*sweep, f"experiment={name}", *SCALED, *more, runs=tmp_path)
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
        register_names()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            assert compose("train", overrides=overrides).cache_dir == wanted
