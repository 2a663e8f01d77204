"""docs/files.md names every file, field and column that is written, with its type, and no others; its example runs.

python -m pytest tests/test_files.py            # on runs that were made up
python -m pytest tests/test_files.py -m slow    # on trained ones

What a run leaves on disk is held to it in test_train.py too, where one is trained anyway.
"""

import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest
import torch

from conf.schema import ROOT
from eval.compare.comparison import read_comparison, write_comparison
from eval.compare.retrieval import retrieval_of, retrieval_rows
from eval.compare.stages import stage_rows, stages_of
from eval.measure.units import ANSWERED, RETRIEVED
from eval.record.files import write_table
from eval.record.folder import WINDOW, RunFolder
from eval.record.shape import Status, Trained
from tests import documented
from tests.documented import files, section, stray_files, table, wrong_cells, wrong_fields
from tests.synthetic import CONTEXT, make_run, make_stage

TABLES = [f"results.json: {name}" for name in ("rows", "retrieval", "tasks", "probes")]
TABLES += ["status.json", "results.json", "curve.csv", "comparison.csv", "summary.csv", "retrieval.csv", "stages.csv"]


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """Two sweeps that write every column: of encodings with all kinds of rows, and of second stages."""
    path = tmp_path_factory.mktemp("files")
    exact = {15: np.ones(40, bool), 30: np.arange(40) % 2 == 0}
    short = {"lengths": (CONTEXT, 2 * CONTEXT), "protocols": ("fixed_targets",)}
    rows = {
        "extensions": {"yarn": -0.1},
        "positions": True,
        "floor": True,
        "exact": exact,
        "needles": ("pair",),
        **short,
    }
    for seed in (0, 1):
        for name, loss in (("rope", 4.0), ("alibi", 4.1)):
            gain = lambda length, depth, extension: 3.0 - 0.001 * length  # noqa: E731
            nats = lambda length, loss=loss: loss - 0.2 * (length > CONTEXT)  # noqa: E731
            make_run(path / "encodings", name, seed, nats, gain=gain, **rows)
        make_run(path / "encodings", "learned", seed, lambda length: None if length > CONTEXT else 4.2, **short)
        parent = make_run(path / "stages", "rope", seed, extensions={"yarn": -0.1}, **short)
        for extension in (None, "yarn"):
            make_stage(parent, lambda length: 3.9, context=2 * CONTEXT, extension=extension, **short)
    for sweep in path.iterdir():
        comparison = read_comparison(sweep)
        write_comparison(comparison)
        if retrieval := retrieval_of(comparison):
            write_table(sweep / "retrieval.csv", retrieval_rows(retrieval))
        if stages := stages_of(comparison):
            write_table(sweep / "stages.csv", stage_rows(stages))
    return path


@pytest.mark.parametrize("title", TABLES)
def test_every_field_has_a_type_that_is_known_and_no_field_stands_twice(title):
    said = table(title)
    assert len(said) > 3 and {kind for kind, _ in said.values()} <= documented.JSON.keys()
    names = re.findall(r"^\| (`.*?`) \|", section(title), re.MULTILINE)
    assert sum(len(re.findall("`[^`]*`", each)) for each in names) == len(said)
    counted = {"nats": "nats a token", "tokens": "tokens", "context_length": "tokens"}
    own = {name: unit for name, (_, unit) in said.items() if unit and name in counted}
    assert own.items() <= counted.items()


@pytest.mark.parametrize("title", ["comparison.csv", "summary.csv", "retrieval.csv", "stages.csv"])
def test_a_sweeps_files_have_the_columns_that_are_documented_and_no_others(sweeps, title):
    paths = [*sweeps.glob(f"*/{title}")]
    assert [wrong_cells(path, title) for path in paths] == [[]] * len(paths)
    written = {name for path in paths for name in pd.read_csv(path)}
    missing = table(title).keys() - written
    of_rows = {"extension_settings", "extension_source", "settings", "interval_reason"}  # of what was really scored
    assert missing <= (of_rows if title == "comparison.csv" else set()), missing


def test_a_runs_files_have_the_fields_that_are_documented(sweeps):
    for run in [run for sweep in sweeps.iterdir() for run in RunFolder.all_in(sweep)]:
        for name in ("results.json", "status.json"):
            assert wrong_fields(json.loads((run.path / name).read_text()), name) == []
        assert wrong_cells(run.path / "curve.csv", "curve.csv") == []
    known = {name.split(".")[0] for name in table("results.json")}
    assert {*Trained.__annotations__} <= known, "what a reader goes by"
    assert table("status.json").keys() == {*Status.__annotations__, "traceback", "sha256"}


def test_losses_lie_as_documented(sweeps):
    said = section("losses.npz")
    for row, names in (("windows`", WINDOW), ("retrieval", RETRIEVED), ("task", ANSWERED)):
        (line,) = [each for each in said.splitlines() if each.startswith("| `KEY") and row in each.split("|")[1]]
        assert re.findall("`([a-z]+)`", line.split("|")[4]) == [*names]
    runs = RunFolder.all_in(sweeps / "encodings")
    kinds = {(own.dtype.name, own.ndim) for run in runs for own in run.losses.values()}
    assert kinds == {("float32", 1), ("int64", 2), ("float64", 2)}


@pytest.mark.slow
def test_the_example_runs_and_a_trained_sweep_has_what_is_documented(program, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "python.md").read_text().partition("\n## ")[0]
    command = re.search(r"`python train.py (.*?)`", text, re.DOTALL).group(1)
    command = shlex.split(command)
    done = program(*command, "eval.extensions=[none,yarn]", runs=tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    demo = tmp_path / "runs" / "demo"
    assert stray_files(demo, [*files("A sweep's folder"), *(f"*/{name}" for name in files("A run's folder"))]) == []
    for run in demo.glob("*-s0-*"):
        for name in ("results.json", "status.json"):
            assert wrong_fields(json.loads((run / name).read_text()), name) == []
        assert wrong_cells(run / "curve.csv", "curve.csv") == []
    for path in demo.glob("*.csv"):
        assert wrong_cells(path, path.name) == []
    assert (demo / "retrieval.csv").exists()

    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(example, found)
    assert found["run"].name.startswith("rope-s0-") and len(found["run"].curve) and len(found["demo"].summary)
    assert found["nats"].shape == (found["tokens"].shape[1] - 1, 1) and (found["nats"] > 0).all()
    assert found["logits"].shape == (1, found["tokens"].shape[1], 2048) and torch.isfinite(found["logits"]).all()
    assert (found["found"].prompt, found["found"].stopped) == ("To be", None) and found["found"].beyond
