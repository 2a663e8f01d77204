"""The same settings give the same results, and `python -m scripts.reproduce` says so, or says what differs.

python -m pytest tests/test_reproduce.py
"""

import json
import shutil

import numpy as np
import pytest

from eval.record.folder import RunFolder
from scripts.reproduce import differences, main
from train import train

SMOKE = ["experiment=smoke", "training.tokens=4096", "eval.windows=12", "eval.targets=8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def finished(composed, runs) -> RunFolder:
    settings = composed(*SMOKE, "encoding=alibi", "model.dropout=0.1", f"runs={runs}")
    train(settings)
    return RunFolder.of(settings)


def test_a_run_made_again_is_the_same(finished, capsys):
    before = (finished.path / "results.json").read_bytes()
    assert main([str(finished.path)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("the same again")
    assert (finished.path / "results.json").read_bytes() == before


@pytest.mark.slow
def test_rows_that_were_scored_later_are_left_out(finished, program, tmp_path, capsys):
    later = RunFolder(shutil.copytree(finished.path, tmp_path / finished.name))
    arguments = (
        f"run={later.path}",
        "eval.protocols=[sliding]",
    )
    done = program(*arguments, runs=None, command=("-m", "eval"))
    assert done.returncode == 0, done.stderr
    assert len(later.results["rows"]) > len(finished.results["rows"])
    assert main([str(later.path)]) == 0
    printed = capsys.readouterr().out
    assert "that `python -m eval` scored later" in printed and printed.rstrip().endswith("the same again")


@pytest.mark.slow
def test_what_differs_is_printed_and_sets_the_exit_code(finished, tmp_path, capsys):
    changed = tmp_path / finished.name
    shutil.copytree(finished.path, changed)
    results = finished.results
    results["rows"][1]["nats"] += 1e-9
    (changed / "results.json").write_text(json.dumps(results))
    assert main([str(changed)]) == 1
    printed = capsys.readouterr().out
    assert "/non_overlapping/none/32/nats: " in printed and printed.rstrip().endswith("1 differences")


def test_hashes_of_settings_corpus_and_tokenizer_stand_in_the_results(finished):
    for name in ("config_hash", "corpus_hash", "tokenizer_hash"):
        assert len(finished.results[name]) == 64


def test_a_run_that_is_not_finished_is_refused(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "part")
    RunFolder(tmp_path / "part").set_status("interrupted")
    with pytest.raises(ValueError, match="not finished"):
        main([str(tmp_path / "part")])


def test_differences_name_the_place_and_leave_timings_out():
    old = {"rows": {"a": {"nats": 1.0, "seconds": 2}}, "losses": {"a": np.array([1.0, 2.0])}}
    new = {"rows": {"a": {"nats": 1.5, "seconds": 9}}, "losses": {"a": np.array([1.0, 2.5])}}
    assert list(differences(old, new)) == [
        "rows/a/nats: 1.0, now 1.5",
        "losses/a: 1 of 2 values differ, by up to 0.5",
    ]
    assert list(differences(old, old)) == []
