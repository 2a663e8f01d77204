"""W&B as a mirror: what runs log is what the dashboard shows, a sweep is summed up, and W&B's end is not the run's.

python -m pytest tests/test_dashboard.py
"""

import json
import warnings

import pandas as pd
import pytest

from conf.schema import LoggerSettings
from eval.compare.comparison import Comparison
from eval.compare.sweep import track_sweep
from eval.record.tracking import choose_mode, track
from scripts.dashboard import as_json, build_workspace, main
from tests.wandb_records import offline_runs, records

LOGGER = LoggerSettings("auto", project="trainshort")


@pytest.fixture(autouse=True)
def logged_out(monkeypatch, tmp_path):
    """Not logged in, whoever runs the tests; W&B's files stay in the test's folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("wandb.login", lambda **_: False)


def logged(folder):
    """The sets of names that were logged together, and the names in the summary."""
    found = records(folder)
    return [set(each["item"]) for each in found["history"]], {
        name for each in found["summary"] for name in each.get("update", {})
    }


def panels():
    spec = as_json(build_workspace("someone", "trainshort"))["spec"]
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


@pytest.mark.slow
def test_every_panel_shows_what_a_run_really_logs(program, tmp_path):
    done = program(
        "experiment=smoke",
        "logger=auto",
        "training.tokens=2048",
        "eval.tokens=1024",
        "eval.lengths=[1,2]",
        "eval.protocols=[fixed_targets,non_overlapping,sliding,positions]",
        "eval.controls=[]",
        "eval.probes=[]",
        runs=tmp_path,
        WANDB_MODE="offline",
    )
    assert done.returncode == 0, done.stderr
    together, summary = logged(*offline_runs(tmp_path, "rope"))
    for panel in panels():
        settings = panel["config"]
        if panel["viewType"] == "Bar Chart":
            assert set(settings["metrics"]) <= summary, settings["chartTitle"]
        else:
            assert any({settings["xAxis"], *settings["metrics"]} <= names for names in together), settings["chartTitle"]


def test_panels_are_grouped_by_encoding():
    assert {panel["config"]["groupBy"] for panel in panels()} == {"encoding_name.value"}


def test_runs_are_grouped_by_encoding():
    (runset,) = as_json(build_workspace("someone", "trainshort"))["spec"]["section"]["runSets"]
    assert [each["name"] for each in runset["grouping"]] == ["encoding_name.value"]


def test_the_dashboard_is_written_where_it_cannot_be_saved(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "dashboard.json"), "--project", "mine"]) == 0
    assert json.loads((tmp_path / "dashboard.json").read_text())["project"] == "mine"
    assert "not logged in" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_MODE"])
def test_the_dashboard_ends_in_a_sentence_where_wandb_refuses(monkeypatch, tmp_path, capsys, name):
    def refuse(**_):
        raise ValueError("API key must have 40+ characters,\n has 5.")

    monkeypatch.setattr("wandb.login", refuse)
    monkeypatch.setenv(name, "short")
    assert main(["--out", str(tmp_path / "dashboard.json")]) == 0
    reason = {"WANDB_API_KEY": "has 5.", "WANDB_MODE": "none of W&B's modes"}[name]
    assert reason in capsys.readouterr().out and (tmp_path / "dashboard.json").exists()


def test_the_dashboard_is_written_where_wandb_does_not_save_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("scripts.dashboard.choose_mode", lambda: ("online", "logged in"))
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("wandb.Api", lambda: 1 / 0)
    assert main(["--out", str(tmp_path / "dashboard.json")]) == 0
    assert "not saved (division by zero)" in capsys.readouterr().out and (tmp_path / "dashboard.json").exists()


def test_a_sweep_is_summed_up_in_a_run_of_its_own(tmp_path):
    sweep = tmp_path / "compare"
    sweep.mkdir()
    row = {"protocol": "fixed_targets", "extension": "none", "label": "rope", "perplexity": 9.5, "perplexity_low": 9.0}
    rows = [{**row, "context_length": 32, "verdict": "better"}, {**row, "context_length": 64, "verdict": None}]
    (sweep / "report.html").write_text("<!doctype html>")
    comparison = Comparison(sweep, [], "rope", 0.95, summary=pd.DataFrame(rows))
    track_sweep(LOGGER, comparison, str(tmp_path))
    (folder,) = offline_runs(tmp_path, "summary-compare")
    found = records(folder)
    assert found["run"][0]["job_type"] == "sweep"
    assert found["artifact"], "report.html is an artifact"
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in folder.rglob("*.table.json")}
    assert [len(tables[name]["data"]) for name in ("curves", "comparison")] == [2, 1]
    assert dict(zip(tables["comparison"]["columns"], tables["comparison"]["data"][0], strict=True)) == {
        **rows[1],
        "context_length": 64.0,
    }


def test_a_sweep_without_a_comparison_is_summed_up_too(tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "report.html").write_text("<!doctype html>")
    track_sweep(LOGGER, Comparison(tmp_path / "odd", [], None, 0.95, objection="they differ"), str(tmp_path))
    assert records(*offline_runs(tmp_path, "summary-odd"))["artifact"]


def test_the_end_of_wandb_is_not_the_end_of_the_run(tmp_path):
    import psutil
    import wandb

    wandb.teardown()  # so that this run starts W&B's processes, which is how they are known
    before = set(psutil.Process().children(recursive=True))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with track(LOGGER, "dies", tmp_path, tmp_path) as tracker:
            for child in set(psutil.Process().children(recursive=True)) - before:
                child.kill()
                child.wait()
            for step in range(3):
                tracker.log_point({"step": step, "tokens": step, "loss": 1.0})
            tracker.summarise({"seconds": 1.0})
    assert sum("the run goes on" in str(each.message) for each in said) == 1
    with track(LOGGER, "next", tmp_path, tmp_path) as tracker:
        tracker.log_point({"step": 1, "tokens": 1, "loss": 1.0})
        assert tracker.run is not None, "the next run of this process has a W&B again"


def test_nothing_is_asked_without_a_login(monkeypatch):
    assert choose_mode() == ("offline", "not logged in")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert choose_mode() == ("offline", "not logged in")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode() == ("disabled", "WANDB_MODE")


def test_a_host_that_does_not_answer_means_offline(monkeypatch):
    import wandb

    monkeypatch.setattr("wandb.login", lambda **_: True)
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wandb.setup().settings, "base_url", "http://127.0.0.1:9")
    assert choose_mode() == ("offline", "127.0.0.1 does not answer")


def test_a_disabled_wandb_is_given_everything_and_keeps_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with track(LOGGER, "disabled", tmp_path, tmp_path) as tracker:
        tracker.log_point({"step": 1, "tokens": 1, "loss": 1.0})
    assert capsys.readouterr().out == "W&B: disabled (WANDB_MODE)\n"
    assert not list(tmp_path.rglob("*.wandb"))
