"""W&B's records: each whole by itself, under an id of its own; online against a server on this machine.

python -m pytest tests/test_tracking.py
"""

import dataclasses
import importlib
import json
import math
import os
import re
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import wandb

from conf.schema import ROOT, LoggerSettings, options
from eval.compare.comparison import read_comparison
from eval.compare.report import write_files
from eval.compare.sweep import track_sweep
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from eval.record.sample import CONTINUATION, PROMPT, samples
from eval.record.tracking import (
    CONTEXT_LENGTH,
    CURVE,
    FIGURES,
    ID_FILE,
    OBJECTIVE,
    POSITION,
    Tracker,
    metric,
    record_id,
    track,
    track_run,
    track_scored,
)
from eval.record.trained import load
from tests.synthetic import CONTEXT, make_run
from tests.test_resume import Killed, stop_at
from tests.wandb_records import history, offline_runs, records, summary
from tests.wandb_server import KEY, wandb_server
from train import train

LOGGER = LoggerSettings("auto", project="trainshort")
SMOKE = [
    "experiment=smoke",
    "logger=auto",
    "tokenizer=byte",
    "training.tokens=20480",
    "training.log_every=2",
    "eval.windows=12",
]
SMOKE += ["eval.targets=8", "eval.lengths=[1,2]", "eval.protocols=[fixed_targets,positions]", "eval.probes=[]"]
SMOKE += ["eval.retrieval=[]"]
NAMES = ["a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "a;b", "a'b", "a b", "a,b", "ä", " ", "x" * 300]
AXES = {"x/step", "x/tokens", "x/context_length", "x/position"}
STEPS = [*range(2, 21, 2)]


def point(step: int) -> dict[str, float]:
    return {"step": step, "tokens": 32 * step, "loss": 1 / step, "lr": 1e-3, "grad_norm": 2.0, "tokens_per_second": 9.0}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Not logged in, whoever runs the tests, and a W&B that knows of none before."""
    wandb.teardown()  # first: of the variables below one names its process, and is given back in the end
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch):
    with wandb_server() as (url, runs):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield runs


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_every_name_gets_an_id_that_wandb_takes_and_no_two_share_it(tmp_path):
    found = [record_id(tmp_path / str(n), f"rope-s0-70e3d1-{name}") for n, name in enumerate([*NAMES, *NAMES])]
    assert len(set(found)) == 2 * len(NAMES)
    for identifier in found:
        assert wandb.Settings(run_id=identifier).run_id == identifier and len(identifier) <= 128
        assert identifier.startswith("rope-s0-70e3d1")


def test_an_id_stays_its_folders(tmp_path):
    first = record_id(tmp_path, "rope")
    assert record_id(tmp_path, "rope") == first == (tmp_path / ID_FILE).read_text()
    assert record_id(tmp_path, "rope", given="of-an-agent") == "of-an-agent" == record_id(tmp_path, "rope")


def test_wandbs_launch_which_takes_a_second_is_not_imported_to_start(offline, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("wandb.sdk.launch")]:
        monkeypatch.delitem(sys.modules, name)
    with track(LOGGER, "run", tmp_path, tmp_path) as tracker:
        assert tracker.run is not None and not [name for name in sys.modules if name.startswith("wandb.sdk.launch")]
    assert importlib.import_module("wandb.sdk.launch.inputs.internal").StagedLaunchInputs  # W&B's own, for who asks


@pytest.mark.slow
def test_a_sweep_of_any_name_leaves_its_records_in_the_one_folder(composed, offline, tmp_path):
    run = composed(*SMOKE, "sweep='a/b #?%:;c'")
    train(run)
    comparison = read_comparison(tmp_path / run.sweep)
    write_files(comparison)
    track_sweep(run.logger, comparison, str(tmp_path))
    (of_run,) = offline_runs(tmp_path, "rope")
    (of_sweep,) = offline_runs(tmp_path, "summary-a-b-c")
    assert len(list(tmp_path.rglob("*.wandb"))) == 2
    assert records(of_run)["run"][0]["run_group"] == records(of_sweep)["run"][0]["run_group"] == run.sweep


def untabled(entry: dict) -> dict:
    """An entry without the table in it, whose file has a name of its own."""
    return {name: value for name, value in entry.items() if not name.startswith("sample")}


def test_a_record_says_everything_once(composed, offline, tmp_path):
    run = composed(*SMOKE, "logger.checkpoint=true")
    train(run)
    (folder,) = offline_runs(tmp_path)
    entries, last, found = history(folder), summary(folder), records(folder)
    results = RunFolder.of(run).results

    by_length = [entry for entry in entries if "x/context_length" in entry]
    assert [entry["x/context_length"] for entry in by_length] == [32, 64]
    places = [entry["x/position"] for entry in entries if "x/position" in entry]
    assert places == sorted(set(places)) and len(places) > 2
    trained = [entry for entry in entries if "train/loss" in entry]
    assert [entry["x/step"] for entry in trained] == STEPS
    assert [entry["x/tokens"] for entry in trained] == [1024 * step for step in STEPS]
    assert {"train/lr", "train/grad_norm", "train/tokens_per_second"} <= trained[0].keys()

    perplexity = {
        row["context_length"]: row["perplexity"]
        for row in results["rows"]
        if row["protocol"] == "fixed_targets" and "control" not in row
    }
    assert [last[f"fixed_targets/perplexity/{multiple}x"] for multiple in (1, 2)] == [perplexity[32], perplexity[64]]
    assert last[OBJECTIVE] == pytest.approx(math.log(perplexity[64]))
    assert last["parameters/total"] == results["parameters"]["total"]
    assert last["tokens_per_second"] == results["training"]["tokens_per_second"]
    assert last["train/loss"] == pytest.approx(results["training"]["loss"])
    numbers = [value for name, value in last.items() if isinstance(value, float)]
    assert len(set(numbers)) == len(numbers), "no figure stands under two names"

    defined = {record["name"]: record for record in found["metric"]}
    assert all(record["options"].get("hidden", False) == (name in AXES) for name, record in defined.items())
    curves = {name for entry in entries for name in entry if "/" in name and not name.startswith("x/")}
    axis = {"train": "x/tokens", "val": "x/tokens", "eval": "x/context_length", "fixed": "x/context_length"}
    axis["pos"] = "x/position"
    assert {name.partition("/")[0] for name in curves} == axis.keys()
    assert all(defined[name]["step_metric"] == axis[name.partition("/")[0]] for name in curves)

    kinds = {record["type"] for record in found["artifact"]}
    assert {"report", "model"} <= kinds
    (table,) = (json.loads(path.read_text()) for path in folder.rglob("samples*.table.json"))
    assert table["columns"] == ["prompt", "text", "document", "tokens"] and len(table["data"]) == 3

    trained = load(RunFolder.of(run).path)
    track_scored(trained.folder, trained.model, trained.data)
    (again,) = offline_runs(tmp_path)
    assert again != folder, "the record of a run that is scored again stands for the one before"
    assert [untabled(entry) for entry in history(again)] == [untabled(entry) for entry in entries]


def test_retrieval_is_a_table_heat_maps_and_figures_to_sort_by(composed, offline, tmp_path):
    asked = ["eval.retrieval=[pair]", "eval.depths=[0.25,0.75]", "eval.extensions=[none,pi]", "eval.probe.windows=12"]
    settings = composed(*SMOKE, *asked, f"runs={tmp_path}")
    train(settings)
    rows = RunFolder.of(settings).results["retrieval"]
    assert len(rows) == 2 * 2 * 2
    (run,) = offline_runs(tmp_path)
    last = summary(run)
    for ratio in (1, 2):
        gains = [row["gain"] for row in rows if row["length_ratio"] == ratio and row["extension"] == "none"]
        assert last[f"retrieval/pair/gain/{ratio}x"] == pytest.approx(sum(gains) / 2)
        assert f"retrieval/pair/pi/exact_match/{ratio}x" in last
    logged = {key: value for entry in history(run) for key, value in entry.items()}
    assert logged["retrieval._type"] == "table-file" and logged["retrieval.nrows"] == len(rows)
    assert {logged[f"{name}._type"] for name in ("retrieval/pair", "retrieval/pair/pi")} == {"plotly-file"}


def test_a_second_stage_is_a_run_of_its_own_that_begins_where_its_parent_ends(composed, offline, tmp_path):
    parent = composed(*SMOKE, "sweep=both")
    train(parent)
    stage = composed(f"init={RunFolder.of(parent).path}", "training.tokens=4096", "training.log_every=1", "sweep=both")
    train(stage)
    ids = [(RunFolder.of(run).path / ID_FILE).read_text() for run in (parent, stage)]
    before, after = (offline_runs(tmp_path, identifier)[0] for identifier in ids)
    ends = [[entry["x/tokens"] for entry in history(folder) if "train/loss" in entry] for folder in (before, after)]
    assert ends[0][-1] < ends[1][0] == stage.stage.tokens + stage.training.batch_size * stage.context
    record = records(after)["run"][0]
    assert record["run_group"] == records(before)["run"][0]["run_group"] == "both"
    assert ids[0] in json.dumps(record["config"])


def test_a_run_that_goes_on_offline_leaves_one_record_with_the_whole_curve(composed, offline, tmp_path, monkeypatch):
    run = composed(*SMOKE)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 13)
        train(run)
    (first,) = offline_runs(tmp_path)
    assert [entry["x/step"] for entry in history(first) if "train/loss" in entry][-1] == 12
    train(run)
    (whole,) = offline_runs(tmp_path)
    assert whole != first
    assert [entry["x/step"] for entry in history(whole) if "train/loss" in entry] == STEPS


def test_what_a_stopped_run_left_and_what_it_became_are_one_run_at_the_server(tmp_path, offline, server, monkeypatch):
    with pytest.raises(KeyError), track(LOGGER, "rope", tmp_path / "run", tmp_path) as tracker:
        for step in (1, 2, 3):
            tracker.log_point(point(step))
        raise KeyError
    (first,) = offline_runs(tmp_path)
    kept = tmp_path / "elsewhere" / first.name
    first.rename(kept.parent.mkdir() or kept)
    with track(LOGGER, "rope", tmp_path / "run", tmp_path) as tracker:
        for step in (1, 2, 3, 4, 5):
            tracker.log_point(point(step))
    (second,) = offline_runs(tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    command = [sys.executable, "-m", "wandb", "sync", kept, second]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (identifier,) = server.history
    assert identifier == (tmp_path / "run" / ID_FILE).read_text()
    assert server.column(identifier, "x/step") == server.column(identifier, "_step") == [1, 2, 3, 4, 5]


def test_online_a_run_that_goes_on_is_the_run_that_was_stopped(tmp_path, server, capsys):
    for last in (3, 5):
        with track(LOGGER, "rope", tmp_path / "run", tmp_path) as tracker:
            for step in range(1, last + 1):
                tracker.log_point(point(step))
    (identifier,) = server.history
    assert server.column(identifier, "x/step") == [1, 2, 3, 4, 5]
    assert server.summary[identifier]["train/loss"] == pytest.approx(1 / 5)
    assert "W&B: online (logged in): http" in capsys.readouterr().out


def test_two_users_of_one_project_with_the_same_settings_have_two_runs(tmp_path, server):
    for user in ("one", "other"):
        with track(LOGGER, "rope-s0-70e3d1", tmp_path / user / "rope-s0-70e3d1", tmp_path / user) as tracker:
            tracker.log_point(point(1))
    assert len(server.history) == 2


def test_a_key_that_the_server_refuses_leaves_an_offline_record(tmp_path, monkeypatch, capsys):
    with wandb_server(refuse=True) as (url, _):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with track(LOGGER, "rope", tmp_path, tmp_path) as tracker:
            tracker.log_point(point(1))
    assert "W&B: offline (online W&B says: user is not logged in)" in capsys.readouterr().out
    assert history(*offline_runs(tmp_path))[0]["x/step"] == 1


MISTAKES = {
    "WANDB_API_KEY": ("short", "API key must have 40+ characters, has 5"),
    "WANDB_MODE": ("ofline", "WANDB_MODE='ofline' is none of W&B's modes: online, offline, disabled"),
    "WANDB_BASE_URL": ("nowhere", "valid URL"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_wandbs_variables_leaves_an_offline_record_and_a_sentence(tmp_path, monkeypatch, capsys, name):
    value, reason = MISTAKES[name]
    monkeypatch.setenv(name, value)
    with track(LOGGER, "rope", tmp_path, tmp_path) as tracker:
        tracker.log_point(point(1))
    monkeypatch.delenv(name)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("W&B: offline (") and reason in said
    assert history(*offline_runs(tmp_path))[0]["x/step"] == 1


VARIABLES = {
    "WANDB_PROJECT": "mine",
    "WANDB_ENTITY": "team",
    "WANDB_TAGS": "a,b c",
    "WANDB_NAME": "shown",
    "WANDB_RUN_GROUP": "together",
    "WANDB_NOTES": "why",
}
FIELDS = ["project", "entity", "tags", "display_name", "run_group", "notes"]
OVERRIDES = ["project=ours", "entity=us", "tags=[c]", "display_name=seen", "run_group=apart", "notes=how"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ["mine", "team", ["a", "b c"], "shown", "together", "why"]),
        (OVERRIDES, ["ours", "us", ["c"], "seen", "apart", "how"]),
    ],
)
def test_the_command_line_goes_before_wandbs_variables(tmp_path, offline, monkeypatch, overrides, expected):
    for name, value in {**VARIABLES, "WANDB_DIR": str(tmp_path / "variables")}.items():
        monkeypatch.setenv(name, value)
    given = (f"logger.{override}" for override in overrides)
    settings = settings_of(*given, f"runs={tmp_path}", "model.qk_norm=true", "model.output_gate=head")
    with track_run(settings) as tracker:
        tracker.log_point(point(1))
    (record,) = records(*offline_runs(tmp_path / "variables"))["run"]
    expected[2] = [*expected[2], "rope", "qk_norm", "output_gate=head"]
    assert [record[field] for field in FIELDS] == expected


def test_an_agents_id_is_the_runs_but_not_that_of_a_sweeps_jobs(composed, offline, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_RUN_ID", "of-an-agent")
    for sweep in (None, "compare"):
        with track_run(composed(*SMOKE, f"sweep={sweep or 'null'}")) as tracker:
            assert (tracker.run.id == "of-an-agent") == (sweep is None)


WIDTH = 22  # of a chart's title in the terminal, where three charts stand side by side in 160 columns
OF_TEXT, OF_TASKS = FIGURES[:3], FIGURES[3:]


def titles(rows) -> list[str]:
    """What a run with these rows logs, as the terminal's dashboard sorts it."""
    logged = set()
    run = SimpleNamespace(step=0, define_metric=lambda *_, **__: None, log=lambda entry, **_: logged.update(entry))
    tracker = Tracker(run)
    for field in CURVE:
        tracker.log_point({"step": 1, "tokens": 1, field: 1.0})
    tracker.log_rows(rows)
    return sorted(logged)


def shown(title: str, width: int = WIDTH) -> str:
    """What `wandb leet` shows of a chart's title: of one that is too long its beginning, to a separator."""
    if len(title) <= width:
        return title
    end = width - len("...")
    cuts = (title.rfind(separator, 0, end) for separator in "/_.-:")
    return title[: next((cut + 1 for cut in cuts if cut > end * 2 // 3), end)] + "..."


@pytest.mark.parametrize(
    ("title", "seen"),
    [
        ("a/bcdefghijklmnopqrst", "a/bcdefghijklmnopqrst"),
        ("c/bcdefghijklmnopqrstuv", "c/bcdefghijklmnopqr..."),
        ("e/bcdefghijklmno/qrstuvwxyz", "e/bcdefghijklmno/..."),
        ("f/bcdefg/hijklmnopqrs/tuvwxyz", "f/bcdefg/hijklmnopq..."),
    ],
)
def test_titles_are_cut_as_the_terminal_was_seen_to_cut_them(title, seen):
    assert shown(title) == seen


def scored(protocol, *figures, **more):
    row = {"status": "ok", "protocol": protocol, "extension": "none", "context_length": 64, **more}
    return row | dict.fromkeys(figures, 1.0)


def test_charts_can_be_told_apart_by_what_is_shown_of_their_titles_and_the_extrapolation_curve_comes_first():
    protocols = [path.stem for path in (ROOT / "eval" / "measure" / "protocols").glob("[a-z]*.py")]
    of = [*({"extension": name} for name in options("extension")), {"control": "unigram"}, {"control": "bigram"}]
    rows = [scored(protocol, *OF_TEXT, **what) for protocol in protocols for what in of]
    found = titles([*rows, scored("positions", *OF_TEXT, position=64)])
    assert len(found) == len(protocols) * len(of) * len(OF_TEXT) + len(CURVE) + len(AXES)
    assert len({shown(title) for title in found}) == len(found)
    assert found[0] == metric("fixed_targets", "perplexity") == "eval/ppl" and found[1].startswith("eval/ppl/")
    assert found[-4:] == sorted(AXES)


@pytest.mark.parametrize("longest", [5.0, None])
def test_a_run_without_a_figure_at_its_longest_context_has_no_objective(tmp_path, longest):
    folder = make_run(tmp_path, "learned", nats=lambda length: 4.0 if length == CONTEXT else longest)
    run = SimpleNamespace(step=0, summary={}, config={}, define_metric=lambda *_, **__: None, log=lambda *_, **__: None)
    Tracker(run).log_run(folder, None, None)
    assert run.summary["parameters/total"]
    assert run.summary.get(OBJECTIVE) == (longest and folder.results["rows"][-1]["nats"])


def test_of_a_task_the_share_of_right_answers_comes_first():
    found = titles(scored("exact_match", *OF_TASKS, extension=name) for name in options("extension"))
    assert len(found) == 2 * len(options("extension")) + len(CURVE) + len(AXES) - 1  # it has no position
    assert len({shown(title) for title in found}) == len(found) and found[0] == "eval/exact"


PAGE = (ROOT / "docs" / "wandb.md").read_text(encoding="utf-8")


def listed(head: str) -> list[list[list[str]]]:
    """The names in each cell of the table that begins so, row by row."""
    lines = PAGE.partition(f"\n| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[re.findall("`([^`]+)`", cell) for cell in line.split("|")[1:-1]] for line in lines]


def test_the_page_names_the_charts_as_they_are_called():
    shipped, rows = {path.stem for path in (ROOT / "eval" / "measure" / "protocols").glob("[a-z]*.py")}, listed("chart")
    named = {(protocol, figure) for _, (protocol,), figures, _ in rows for figure in figures}
    assert named == {*product(shipped, OF_TEXT), *product(["exact_match"], OF_TASKS)}
    for charts, (protocol,), figures, (axis,) in rows:
        assert charts == [metric(protocol, figure) for figure in figures]
        assert axis == (POSITION if protocol == "positions" else CONTEXT_LENGTH)
    assert all(f"`{name}`" in PAGE for name in CURVE.values())


def test_the_page_names_every_setting_of_the_logger_and_its_variable():
    file = (ROOT / "conf" / "logger" / "auto.yaml").read_text(encoding="utf-8")
    variables = {f"logger.{key}": [name] for key, name in re.findall(r"^(\w+):.*?(WANDB_\w+)", file, re.MULTILINE)}
    fields = {f"logger.{field.name}" for field in dataclasses.fields(LoggerSettings)} - {"logger.name"}
    assert {name: variable for (name,), variable, _ in listed("setting")} == {
        name: variables.get(name, []) for name in fields
    }


@pytest.mark.parametrize("setting", ["project=a/b", "tags=['']"])
def test_what_wandb_would_refuse_is_refused_by_its_name(setting):
    with pytest.raises(ValueError, match=f"logger.{setting.partition('=')[0]}=.*W&B takes"):
        settings_of(f"logger.{setting}")


def test_samples_are_the_most_likely_continuations_of_held_out_texts(composed):
    run = composed(*SMOKE, "logger=none", "context=48")
    train(run)
    trained = load(RunFolder.of(run).path)
    found = samples(trained.model, trained.data, run.context)
    assert found == samples(trained.model, trained.data, run.context)
    assert len({each["document"] for each in found}) == 3
    stream = trained.data.streams["validation"]
    longest = sorted((stream.document(index) for index in range(len(stream.offsets) - 1)), key=len)[:-4:-1]
    assert [each["prompt"] for each in found] == [trained.data.tokenizer.decode(each[:24]) for each in longest]
    for each in found:
        prompt = trained.encode(each["prompt"])
        assert prompt.shape[1] == min(PROMPT, 24)
        best = trained.model(prompt)[0, -1].argmax()
        assert each["text"].startswith(trained.decode(best[None]))
        assert each["tokens"] == run.context - 24
        texts = [trained.encode(each["prompt"] + each[part]).shape[1] for part in ("text", "document")]
        assert max(texts) <= PROMPT + CONTINUATION
