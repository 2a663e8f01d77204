"""A command as it is typed: what of Hydra it takes and refuses, what it says, and to which terminals.

python -m pytest tests/test_command.py
"""

import re
import sys

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

import eval.record.jobs
from conf.schema import CONF, member
from eval.record.command import Command
from eval.record.identity import register_names, settings_of
from eval.record.jobs import ANSWERING, FULL_ERROR, check_machine, give_up
from scripts.command import folder_and_options
from tests.synthetic import make_run

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a terminal, and files, of ASCII alone
SETTLED = {
    "hydra.run.dir=there": "runs lie where runs, sweep and run_id say",
    "hydra.sweep.dir=there": "runs lie where runs, sweep and run_id say",
    "hydra.sweep.subdir=${hydra.job.num}": "runs lie where runs, sweep and run_id say",
    "hydra.job.chdir=true": "paths are read from the folder in which the command is given",
}


def begin(file, *overrides):
    """What Hydra tells a command of this file before its first job."""
    register_names()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = GlobalHydra.instance().hydra.compose_config(file, list(overrides), RunMode.RUN)
        Command(f"{file}.yaml").on_run_start(config)


@pytest.mark.parametrize("file", ["train", "eval"])
@pytest.mark.parametrize("setting", SETTLED)
def test_what_of_hydra_is_settled_is_refused_in_a_sentence(capsys, setting, file):
    begin(file, "hydra.verbose=true")
    with pytest.raises(SystemExit) as stop:
        begin(file, setting)
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.startswith(f"error: {setting.partition('=')[0]}=") and SETTLED[setting] in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("choice", ["model=nano", "eval=smoke", "tokenizer=byte", "tokenizer=char"])
def test_a_choice_that_an_experiment_leaves_nothing_of_is_refused(capsys, choice):
    with pytest.raises(SystemExit) as stop:
        begin("train", "experiment=standard", choice)
    group = choice.partition("=")[0]
    said = f"error: {choice}: experiment=standard settles all of {group} itself: leave one of them out\n"
    assert (stop.value.code, capsys.readouterr().err) == (1, said)


@pytest.mark.parametrize(
    "command",
    [
        ["experiment=standard", "model=tiny", "trainer=gpu", "encoding=alibi", "logger=none", "model.dim=64"],
        ["experiment=tasks", "model=tiny"],
        ["experiment=tasks", "context=64"],  # a number beside the experiment's
        ["experiment=ceiling", "eval=smoke"],
        ["model=nano"],
    ],
)
def test_choices_that_come_to_something_are_taken(command):
    begin("train", *command)


@pytest.mark.parametrize("command", ["train.py", "-m eval"])
def test_a_command_with_its_working_directory_changed_is_refused(program, tmp_path, command):
    arguments = [] if command == "train.py" else ["run=there"]
    done = program(*arguments, "hydra.job.chdir=true", runs=tmp_path, command=tuple(command.split()))
    assert done.returncode == 1 and done.stderr.startswith("error: hydra.job.chdir=True: ")


def test_help_offers_the_groups_of_a_run_and_those_that_a_command_adds(program, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n", encoding="utf-8")
    shown = program("--help", "--config-dir", str(tmp_path), runs=tmp_path).stdout.partition("Settings, as")[0]
    groups = dict(re.findall(r"^(\w+): (\w+(?:, \w+)*)$", shown, re.MULTILINE))
    assert "mine" in groups["experiment"] and "alibi" in groups["encoding"] and "yarn" in groups["extension"]


def test_a_terminal_of_ascii_gets_signs_that_it_can_show(program, tmp_path):
    for encoding, nats in {"rope": 5.0, "none": 4.8, "alibi": 4.5}.items():
        make_run(tmp_path, encoding, nats=lambda length, nats=nats: nats)
    done = program(str(tmp_path), runs=None, command=("-m", "scripts.report"), **ASCII)
    assert done.returncode == 0, done.stderr
    assert re.search(r"-\d\d\.\d %", done.stdout) and "?" not in done.stdout
    assert "\u2212" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_all_that_is_logged_is_shown_where_hydra_is_asked_for_it(program, tmp_path):
    done = program("hydra.verbose=true", "seed=-1", runs=tmp_path)
    assert "[DEBUG] hydra" in done.stderr and done.stderr.splitlines()[-1].startswith("error: seed=-1: ")


@pytest.mark.parametrize(("answering", "shown"), [(None, True), ("1", False)], ids=["by a user", "by a command"])
def test_a_traceback_that_a_user_asks_for_comes_with_the_sentence(monkeypatch, capsys, answering, shown):
    monkeypatch.setenv(FULL_ERROR, "1")
    monkeypatch.delenv(ANSWERING, raising=False)
    if answering:
        monkeypatch.setenv(ANSWERING, answering)
    with pytest.raises(SystemExit, match=r"^1$"):
        give_up(ValueError("seed=-1: must not be negative"))
    said = capsys.readouterr().err
    assert said.endswith("error: seed=-1: must not be negative\n")
    assert ("ValueError: seed=-1: must not be negative\nerror" in said) == shown


def test_what_a_machine_lacks_is_said_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(eval.record.jobs, "count_gpus", lambda: 0)
    with pytest.raises(ValueError, match=r"trainer\.accelerator=gpu .*: 0; trainer=auto"):
        check_machine(settings_of("trainer=gpu").trainer)
    monkeypatch.setattr(eval.record.jobs, "count_gpus", lambda: 2)
    with pytest.raises(ValueError, match=r"trainer\.devices=8: .*: 2; set trainer\.devices=2"):
        check_machine(settings_of("trainer=gpu", "trainer.devices=8", "training.batch_size=8").trainer)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"trainer\.compile=true: there is no gcc or clang here"):
        check_machine(settings_of("trainer=gpu").trainer)
    with pytest.raises(ValueError, match=r"trainer\.compile=true: there is no g\+\+ here"):
        check_machine(settings_of("trainer=cpu", "trainer.compile=true").trainer)
    monkeypatch.setenv("CXX", sys.executable)
    check_machine(settings_of("trainer=cpu", "trainer.compile=true").trainer)


def test_a_module_without_what_its_kind_must_have_is_named():
    assert member("eval/measure/protocols", "sliding", "Protocol").__name__ == "Protocol"
    with pytest.raises(ValueError, match=r"conf/mistakes\.py has no Source, which all modules there must have"):
        member("conf", "mistakes", "Source")


def test_a_folder_whose_name_has_an_equals_sign_is_a_folder(tmp_path):
    folder = str(tmp_path / "lr=0.1")
    assert folder_and_options([folder, "level=0.9"], "usage", {"level"}) == (folder, {"level": "0.9"})
    with pytest.raises(ValueError, match="usage"):
        folder_and_options([folder, "colour=red"], "usage", {"level"})
