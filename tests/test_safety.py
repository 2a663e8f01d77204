"""Nothing that a run reads can run code, and no name leads out of the runs' folder.

python -m pytest tests/test_safety.py
"""

import csv
import html
import os
import pickle
import re
import shutil
import sys
import tempfile
import zipfile
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from markdown_it import MarkdownIt

from conf.schema import check_names
from conf.typed import plain
from eval.compare.comparison import read_comparison
from eval.compare.literature import check
from eval.compare.report import markdown
from eval.record.bounds import DEEPEST, read_arrays
from eval.record.command import CONTROL, answering
from eval.record.files import PARTIAL, read_json, read_table, write_atomic, write_json, write_table
from eval.record.folder import RunFolder, placed_here
from eval.record.identity import settings_hash, settings_of
from eval.record.sweep import _make_list
from eval.record.terminal import console
from eval.record.trained import load
from model.encodings import Shape, build_encoding
from model.extensions import build_extension
from model.training.checkpoint import SCHEMA, AtomicCheckpointIO, load_weights
from scripts.reproduce import main as reproduce
from tests.synthetic import make_run
from tests.texts import write_texts
from train import train

SMOKE = ["experiment=smoke", "training.tokens=4096", "eval.windows=12", "eval.targets=8"]


TINY = [*SMOKE, "data=text", "logger=none", "tokenizer=byte", "eval.controls=[]"]
TINY += ["eval.protocols=[non_overlapping]", "eval.lengths=[1]"]


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_bomb_goes_off_where_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark"))).close()
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("load", [load_weights, AtomicCheckpointIO().load_checkpoint])
def test_a_checkpoint_runs_no_code(tmp_path, load):
    torch.save({"trainshort_schema": SCHEMA, "state_dict": Bomb(tmp_path / "mark")}, tmp_path / "bomb.ckpt")
    with pytest.raises(ValueError, match=r"bomb\.ckpt"):
        load(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "mark").exists()


def test_stored_losses_run_no_code(tmp_path):
    np.savez(tmp_path / "losses.npz", losses=np.array([Bomb(tmp_path / "mark")], dtype=object))
    with pytest.raises(ValueError, match=r"losses\.npz is damaged"):
        RunFolder(tmp_path).losses  # noqa: B018
    assert not (tmp_path / "mark").exists()


FOREIGN = [
    "os.system",
    "subprocess.Popen",
    "model.encodings.importlib.import_module",
    "model.training.checkpoint.Checkpoint",
    "rope",
]


@pytest.mark.parametrize("target", FOREIGN)
def test_a_config_makes_nothing_but_encodings_and_extensions(target):
    shape = Shape(dim=16, num_heads=2, num_layers=1, context=8)
    with pytest.raises(ValueError, match="_target_"):
        build_encoding({"_target_": target, "name": "x"}, shape)
    with pytest.raises(ValueError, match="_target_"):
        build_encoding({"_target_": "model.encodings.randomized.Randomized", "inner": {"_target_": target}}, shape)
    with pytest.raises(ValueError, match="_target_"):
        build_extension({"_target_": target, "name": "x"})


SWEEPS = [("sweep", name) for name in ("../other", "/other", "a/../../b", "a/" + "é" * 150)]
RUNS = [("run_id", name) for name in ("../rope", "a/b", "..", "", "n" * 300)]


@pytest.mark.parametrize(("key", "name"), SWEEPS + RUNS)
def test_a_name_that_leads_out_of_the_runs_folder_is_refused(key, name):
    with pytest.raises(ValueError, match=f"{key}="):
        check_names(**{"run_id": "rope-s0-123456", "sweep": None, key: name})
    with pytest.raises(ValueError, match=f"{key}="):
        RunFolder.of(replace(settings_of(), **{key: name}))


def test_plain_names_are_taken():
    check_names("rope-s0-123456", None)
    check_names("rope-s0-123456", "demo/tuning")


@pytest.mark.parametrize("name", ["${oc.env:HOME}", "${run_id:}", "${oc.decode:'1'}", "x${seed}"])
def test_a_config_that_is_read_back_resolves_nothing(tmp_path, name):
    values = plain(settings_of())
    values["encoding"]["name"] = name
    write_json(tmp_path / "config.json", values)
    with pytest.raises(ValueError, match=r"config\.json can't be read: .*an interpolation"):
        RunFolder(tmp_path).settings  # noqa: B018


def test_an_encodings_name_cannot_lead_out_of_the_runs_folder(composed, tmp_path):
    with pytest.raises(ValueError, match=r"encoding\.name="):
        train(composed(*SMOKE, "encoding.name=../../escaped", f"runs={tmp_path}/a/b"))
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_sweep_that_leads_out_of_the_runs_folder_ends_before_anything_is_written(program, tmp_path):
    done = program("-m", *SMOKE, "sweep=../escaped", "seed=0,1", runs=tmp_path / "runs")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: sweep='../escaped'")
    assert not (tmp_path / "escaped").exists()


# ------------------------------------------------------------------------------- what a downloaded run's config may say


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was trained on texts of its own."""
    place = tmp_path_factory.mktemp("trained")
    data = write_texts(place / "texts")
    settings = settings_of(*TINY, f"data.path={data}")
    settings = replace(settings, runs=str(place / "runs"), cache_dir=str(place / "cache"))
    train(settings)
    return RunFolder.of(settings).path


@pytest.fixture
def downloaded(trained, tmp_path):
    """A copy of that run, as if it came from elsewhere, and what changes its config.json."""
    folder = RunFolder(shutil.copytree(trained, tmp_path / "elsewhere" / trained.name))

    def changed(**changes):
        config = plain(folder.settings)
        for key, value in changes.items():
            *groups, name = key.split("__")
            reduce(dict.__getitem__, groups, config)[name] = value
        write_json(folder.path / "config.json", config)
        folder.update(identity={**folder.results["identity"], "settings": settings_hash(config)})
        return folder

    return changed


def test_a_downloaded_runs_folders_are_those_of_this_machine(downloaded, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINSHORT_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "records"))
    folder = downloaded(cache_dir=str(tmp_path / "theirs"), runs=str(tmp_path / "theirs"), logger__dir="/theirs")
    settings = folder.settings
    assert settings.cache_dir == str(tmp_path / "mine") and settings.logger.dir == str(tmp_path / "records")
    assert settings.runs == str(folder.path.parent)
    assert load(folder.path).data.streams
    assert (tmp_path / "mine").is_dir() and not (tmp_path / "theirs").exists()


def test_where_runs_lie_is_read_off_the_folder_and_the_sweep(tmp_path):
    settings = replace(settings_of("sweep=a/b"), runs="/theirs")
    assert placed_here(settings, tmp_path / "a" / "b" / "rope").runs == str(tmp_path)
    assert placed_here(settings, tmp_path / "c" / "rope").runs == str(tmp_path / "c")
    assert placed_here(replace(settings, sweep=None), tmp_path / "b" / "rope").runs == str(tmp_path / "b")


@pytest.mark.parametrize("there", [True, False])
def test_files_that_a_run_was_not_trained_on_are_named_and_not_read(downloaded, tmp_path, there):
    secret = tmp_path / "secret.txt"
    if there:
        secret.write_text("a secret of this machine. " * 2000)
    folder = downloaded(data__path=str(secret))
    for command in (lambda path: load(path).data, lambda path: reproduce([str(path)])):
        with pytest.raises(ValueError, match=rf"trained on files .*: data\.path={secret}: put them there"):
            command(folder.path)
    assert not list(folder.path.parent.rglob("*.tokens"))


@pytest.mark.parametrize("target", FOREIGN)
def test_a_downloaded_run_imports_nothing_but_encodings(downloaded, target):
    folder = downloaded(encoding___target_=target)
    before = {*sys.modules}
    with pytest.raises(ValueError, match="_target_"):
        load(folder.path)
    assert {*sys.modules} == before


# ---------------------------------------------------------------------------------------------------------------- links

FILES = ["config.json", "status.json", "results.json", "losses.npz", "curve.csv", "wandb-id", "report.md"]
FILES += ["tokenizer.json"]
FILES += ["report.html", "comparison.csv", "summary.csv", f".results.json.{os.getpid()}{PARTIAL}"]


def test_nothing_in_a_runs_folder_is_written_through_a_link(composed, texts, tmp_path):
    settings = composed(*TINY, f"data.path={texts}")
    folder, victim = RunFolder.of(settings).path, tmp_path / "victim"
    victim.write_text("precious")
    (folder / "checkpoints").mkdir(parents=True)
    own = [folder / name for name in FILES if not name.endswith(("results.json", "status.json", "config.json"))]
    last = folder / "checkpoints" / f"step-{settings.steps:09d}"
    own += [last.with_suffix(suffix) for suffix in (".sha256", ".partial")]
    for path in own:
        if path.name != "losses.npz":
            path.symlink_to(victim)
    train(settings)
    assert victim.read_text() == "precious"
    assert RunFolder(folder).finished and last.with_suffix(".ckpt").exists()
    assert not last.with_suffix(".sha256").is_symlink() and not (folder / "report.html").is_symlink()


@pytest.mark.parametrize("name", FILES, ids=[re.sub(r"\d+", "N", name) for name in FILES])
def test_every_file_is_made_anew_beside_its_target(tmp_path, name):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "victim")
    write_atomic(tmp_path / name, b"new")
    assert (tmp_path / "victim").read_text() == "precious" and (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("name", [".lock", "checkpoints"])
def test_a_link_that_cannot_be_replaced_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match=f"{name} is a link"), RunFolder(tmp_path / "run").hold():
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_sweep_writes_its_list_of_jobs_through_no_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    for name in ("multirun.yaml", "jobs-1.txt"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="can't be written"):
        _make_list(tmp_path / "jobs-1.txt")
    _make_list(tmp_path / "jobs-2.txt")
    assert (tmp_path / "victim").read_text() == "precious" and not (tmp_path / "multirun.yaml").exists()


def test_a_root_that_a_sweep_cannot_write_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/sweep can't be written \(Not a directory\): .*set runs"):
        _make_list(tmp_path / "file" / "sweep" / "jobs-1.txt")


# ------------------------------------------------------------------------------------------- what exhausts its reader


def test_losses_that_unpack_to_far_more_than_losses_can_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.record.bounds.LARGE", 2**24)
    np.savez_compressed(tmp_path / "losses.npz", a=np.zeros(2**23, dtype=np.float32))
    with pytest.raises(ValueError, match=r"losses\.npz is damaged \(it would unpack to 33,554,560 bytes\)"):
        RunFolder(tmp_path).losses  # noqa: B018


def test_losses_that_say_they_are_larger_than_they_are_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "losses.npz", "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (2**45,), "fortran_order": False, "descr": "<f4"})
    with pytest.raises(ValueError, match=r"losses\.npz is damaged"):
        RunFolder(tmp_path).losses  # noqa: B018


@given(st.dictionaries(st.text("ab/", min_size=1), arrays(st.sampled_from(["<f4", "<i8"]), array_shapes(max_dims=3))))
def test_arrays_come_back_as_numpy_wrote_them(stored):
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez_compressed(file, **{name: np.asfortranarray(array) for name, array in stored.items()})
        file.flush()
        found = read_arrays(Path(file.name))
    assert found.keys() == stored.keys()
    assert all(np.array_equal(found[name], stored[name], equal_nan=True) for name in stored)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 100_000])
@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_json_that_is_nested_without_end_is_refused(tmp_path, name, depth):
    (tmp_path / name).write_text('{"a":' * depth + "1" + "}" * depth)
    with pytest.raises(ValueError, match=rf"{name.partition('.')[0]}\.json is damaged"):
        read_json(tmp_path / name)
    (tmp_path / name).write_text('{"a":' * DEEPEST + "1" + "}" * DEEPEST)
    read_json(tmp_path / name)


# ---------------------------------------------------------------------------------------------- texts that are no text

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\x08\r"


def test_the_terminal_is_sent_no_control_character(capfd, monkeypatch):
    for name in ("stdout", "stderr"):  # put back afterwards
        monkeypatch.setattr(sys, name, getattr(sys, name))
    with pytest.raises(SystemExit), answering():
        print(f"name {ESCAPES}\tä")
        console().print(ESCAPES + "[bold]x[/] [/y]")
        raise ValueError(f"no {ESCAPES}")
    sys.stdout.flush(), sys.stderr.flush()
    said = capfd.readouterr()
    assert not {*said.out + said.err} & {*map(chr, CONTROL)} - {"\n", "\t"}
    assert r"name \x1b[2J\x1b]0;title\x07\x9b31m\x08\x0d" in said.out and "ä" in said.out
    assert "[bold]x[/] [/y]" in said.out and r"error: no \x1b[2J" in said.err


FORMULAS = ["=1+1", "+1", "-1", "@a", "\tx", "'=1", "'", "it's", "plain", "1e5x"]


def test_no_text_of_a_csv_is_a_formula_and_all_read_back_the_same(tmp_path):
    rows = [{"=name": text, "number": number} for number, text in zip((-1.5, 2, None) * 4, FORMULAS, strict=False)]
    write_table(tmp_path / "t.csv", rows)
    with open(tmp_path / "t.csv", newline="") as file:
        header, *cells = csv.reader(file)
    assert header == ["'=name", "number"] and [number for _, number in cells[:3]] == ["-1.5", "2", ""]
    assert not any(text.startswith(("=", "+", "-", "@", "\t")) for text, _ in cells)
    found = read_table(tmp_path / "t.csv")
    assert found["=name"].tolist() == FORMULAS and found["number"].dtype == float


LINKS = ["[x](javascript:alert(1))", "![x](https://example.com/a.png)", "`code`", "a|b", r"\|", "<b>", "_x_", "$x$"]


@pytest.mark.parametrize("text", LINKS)
def test_markdown_shows_texts_from_data_as_they_are(tmp_path, text):
    make_run(tmp_path, "alibi", state="failed", error=f"{text} {ESCAPES}")
    make_run(tmp_path, "rope")
    comparison = read_comparison(tmp_path)
    written = markdown(comparison, check(comparison))
    assert "\x1b" not in written and r"\\x1b\[2J" in written
    shown = MarkdownIt("commonmark").enable("table").render(written)
    assert not re.search("<(a|img|code|em|b)[ >]", shown) and html.escape(text) in shown
