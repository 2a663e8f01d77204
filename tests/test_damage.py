"""Whatever becomes of a file of a run's folder, every command mends it, or says in one sentence what to do, and doing
that works.

python -m pytest tests/test_damage.py            # ten of the cases
python -m pytest tests/test_damage.py -m slow    # all kinds of damage, also through reproduce
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.mistakes import one_sentence
from conf.schema import Settings
from eval.__main__ import score_run
from eval.compare.comparison import read_comparison
from eval.compare.report import write_report
from eval.record.files import read_json, write_json
from eval.record.folder import RunFolder, runs_of
from eval.record.identity import settings_of
from eval.record.jobs import MISTAKES
from model.training.checkpoint import AtomicCheckpointIO, checkpoints, digest_path, load_weights, newest
from scripts import explore, literature, reproduce
from tests.texts import write_texts
from train import train

TINY = ["experiment=smoke", "training.tokens=1536", "context=16", "tokenizer=byte", "data=text", "eval.lengths=[1,2]"]
TINY += ["eval.windows=4", "eval.targets=4", "eval.tokens=1024", "eval.controls=[]", "eval.probes=[]", "run_id=mine"]
FILES = ["config.json", "status.json", "results.json", "losses.npz", "curve.csv", "checkpoint", "checkpoint's digest"]
FILES += ["tokenizer.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Settings, RunFolder]:
    """A finished run, and the folder of another."""
    home = tmp_path_factory.mktemp("damage")
    text = write_texts(home / "texts")
    settings = settings_of(*TINY, f"data.path={text}", f"cache_dir={home / 'cache'}", f"runs={home / 'runs'}")
    other = replace(settings, seed=1, run_id="other")
    for each in (settings, other):
        train(each)
    return settings, RunFolder.of(other)


@pytest.fixture
def run(made, tmp_path, monkeypatch) -> Settings:
    """The settings of a copy of the finished run, whose report.html, which takes seconds, is left empty."""
    monkeypatch.setattr("eval.compare.report.page", lambda *parts: "")
    shutil.copytree(RunFolder.of(made[0]).path, tmp_path / "runs" / "mine")
    return replace(made[0], runs=str(tmp_path / "runs"))


def file_of(folder: RunFolder, name: str) -> Path:
    if not name.startswith("checkpoint"):
        return folder.path / name
    last = checkpoints(folder.checkpoints)[0]
    return last if name == "checkpoint" else digest_path(last)


def lose(path: Path, other: Path) -> None:
    path.unlink()


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path, other: Path) -> None:
    """A bit of a digit (in losses.npz and in a checkpoint, of a byte in the middle)."""
    content = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    place = digits[len(digits) // 2] if path.suffix in (".json", ".csv", ".sha256") else len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)


def change_kind(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def scribble(path: Path, other: Path) -> None:
    path.write_bytes(b'["\xff a picture, say"]')


def swap(path: Path, other: Path) -> None:
    shutil.copy(other, path)
    if path.suffix == ".ckpt":
        shutil.copy(digest_path(other), digest_path(path))


def change_schema(path: Path, other: Path) -> None:
    if path.suffix == ".ckpt":
        content = torch.load(path, weights_only=True)
        AtomicCheckpointIO().save_checkpoint({**content, "trainshort_schema": 99}, path)
    elif path.suffix == ".json":
        write_json(path, {**read_json(path), "schema": 99, "state": "paused"})
    else:
        pytest.skip("has no schema")


DAMAGES = [lose, empty, cut, flip, change_kind, scribble, swap, change_schema]


def rescore(run: Settings) -> None:
    (folder,) = runs_of(RunFolder.of(run).path)
    score_run(folder, folder.settings.eval, {"cache_dir": run.cache_dir})


def report(run: Settings) -> None:
    assert write_report(RunFolder.of(run).path) in (0, 1)


def hold_against_the_literature(run: Settings) -> None:
    try:
        literature.main([str(RunFolder.of(run).path)])
    except ValueError as error:
        assert "no published study" in str(error)  # has both sides of an ordering in one run


def make_again(run: Settings) -> None:
    reproduce.main([str(RunFolder.of(run).path), f"cache_dir={run.cache_dir}"])


def look_at(run: Settings) -> None:
    explore.trained_encoding(RunFolder.of(run))


COMMANDS = [rescore, report, hold_against_the_literature, look_at, make_again]
CASES = [(lose, "results.json"), (lose, "losses.npz"), (flip, "config.json"), (flip, "curve.csv"), (flip, "checkpoint")]
CASES += [(swap, "results.json"), (swap, "losses.npz"), (swap, "checkpoint"), (change_schema, "results.json")]
CASES += [(change_kind, "status.json"), (flip, "tokenizer.json")]


def said(command: Callable[[Settings], None], run: Settings) -> str | None:
    """What a command says was wrong, None where it came to its end. It raises nothing but mistakes."""
    try:
        command(run)
    except MISTAKES as error:
        return one_sentence(error)


def figures(folder: RunFolder) -> list[tuple]:
    return [(row["protocol"], row["context_length"], row["nats"], row["tokens"]) for row in folder.results["rows"]]


def check_that_it_ends_well(run: Settings, damage: Callable, name: str, other: RunFolder, commands: list) -> None:
    folder = RunFolder.of(run)
    rows, weights = figures(folder), load_weights(newest(folder.checkpoints))
    damage(file_of(folder, name), file_of(other, name))
    for command in commands:
        if problem := said(command, run):
            assert "own command" in problem, (command, problem)
    if problem := said(train, run):
        assert "force=true" in problem
        train(replace(run, force=True))
    assert folder.finished and folder.faults() == [] and figures(folder) == rows
    again = load_weights(newest(folder.checkpoints)) if damage is not change_schema else weights
    assert all(torch.equal(again[key], weight) for key, weight in weights.items())
    for command in commands:
        if problem := said(command, run):  # of a checkpoint alone, which the run's report doesn't go by
            assert "force=true" in problem
            train(replace(run, force=True))
            assert said(command, run) is None
    assert read_comparison(folder.path).left_out == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("damage", "name"), CASES)
def test_a_damaged_file_is_mended_or_the_remedy_that_is_said_works(run, made, damage, name):
    check_that_it_ends_well(run, damage, name, made[1], [rescore, look_at])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_mended_or_the_remedy_that_is_said_works(run, made, damage, name):
    check_that_it_ends_well(run, damage, name, made[1], COMMANDS)


def test_what_is_set_aside_is_said_and_kept(run):
    path = RunFolder.of(run).path / "losses.npz"
    cut(path, path)
    content = path.read_bytes()
    with pytest.warns(UserWarning, match=r"losses\.npz is damaged .*stands aside as \*\.damaged, and it is made anew"):
        train(run)
    assert path.with_name("losses.npz.damaged").read_bytes() == content


@pytest.mark.parametrize("name", ["results.json", "config.json", "status.json", "curve.csv", "losses.npz"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_flipped_bit_changes_a_figure_in_silence(run, name):
    folder, chance = RunFolder.of(run), np.random.default_rng(0)
    path, expected = folder.path / name, read_comparison(folder.path)
    content = path.read_bytes()
    for place, bit in zip(chance.integers(0, len(content), 12), chance.integers(0, 8, 12), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        found = read_comparison(folder.path)
        assert found.left_out or (found.rows.equals(expected.rows) and found.summary.equals(expected.summary))
    path.write_bytes(content)


def test_a_file_that_was_edited_by_hand_is_taken_once_its_digest_is_removed(run):
    path = RunFolder.of(run).path / "results.json"
    text = path.read_text().replace('"corpus": "text"', '"corpus": "mine"')
    path.write_text(text)
    with pytest.raises(ValueError, match="of a file edited by hand, remove that line"):
        read_json(path)
    write_json(path, {})  # whose digest is that of nothing else
    path.write_text("".join(f"{line}\n" for line in text.splitlines() if '"sha256"' not in line).replace(",\n}", "\n}"))
    assert RunFolder.of(run).results["corpus"] == "mine"


FIELDS = [("schema", None), ("rows", None), ("rows", [{"status": "ok"}]), ("training", {}), ("training", "fast")]
FIELDS += [("parameters", None), ("probes", []), ("others", {"1f2e": 3}), ("identity", "x"), ("tuning", {"seed": "a"})]


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_a_field_of_another_kind_is_damage_and_takes_no_sweep_down(run, field, value):
    folder = RunFolder.of(run)
    write_json(folder.path / "results.json", {**folder.results, field: value})
    (left_out,) = read_comparison(folder.path).left_out
    assert left_out.state == "damaged" and f"results.json is damaged ({field}" in left_out.problem


def test_weights_that_came_out_otherwise_keep_none_of_the_old_rows(run):
    folder = RunFolder.of(run)
    facts = folder.results
    folder.describe({**facts, "weights_hash": "of others"}, [])
    assert folder.results["rows"] == [] and "training" in folder.results


def test_a_run_that_has_given_up_its_checkpoints_is_left_alone_and_others_say_how_to_get_them(run, capsys):
    folder = RunFolder.of(run)
    shutil.rmtree(folder.checkpoints)
    train(run)
    assert "is finished already" in capsys.readouterr().out
    for command in (rescore, look_at):
        assert "has no checkpoint: give the run's own command again, with force=true" in said(command, run)
