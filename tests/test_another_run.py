"""A figure is never another run's: what a run is, where its numbers depend on more than its settings.

python -m pytest tests/test_another_run.py
"""

from dataclasses import replace

import numpy as np
import pytest

from conf.typed import plain
from eval.compare.comparison import read_comparison
from eval.record import identity
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from model.training.trainer import choose_precision
from tests.shown import line
from tests.synthetic import make_run
from train import train

TINY = [
    "experiment=smoke",
    "training.tokens=1024",
    "eval.windows=4",
    "eval.targets=4",
    "logger=none",
    "eval.tokens=1024",
]
TINY += ["eval.tokens=1024", "eval.lengths=[1,2]", "context=16", "tokenizer=byte", "eval.controls=[]"]


@pytest.fixture
def run(composed, texts):
    """The settings of a short run on the folder of texts, named by itself."""

    def settings(*overrides):
        found = composed(*TINY, "data=text", f"data.path={texts}", *overrides)
        return replace(found, run_id=identity.run_id(plain(found)))

    return settings


def trained_at(folder: RunFolder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.checkpoints.iterdir()}


@pytest.mark.slow
def test_a_changed_text_is_another_run_and_the_message_says_so(run, texts, capsys):
    before = run()
    train(before)
    (texts / "00.txt").write_text("another text\n" * 50)
    after = run()
    assert after.run_id != before.run_id
    capsys.readouterr()
    train(after)
    said = capsys.readouterr().out
    assert f"{before.run_id} has the same settings and other files of its data or tokenizer" in said
    hashes = {RunFolder.of(each).results["corpus_hash"] for each in (before, after)}
    assert len(hashes) == 2 and RunFolder.of(before).finished


def test_a_changed_source_is_another_run(run, monkeypatch, capsys):
    before = run()
    train(before)
    monkeypatch.setattr(identity, "source_hash", lambda *configs: "edited")
    after = run()
    capsys.readouterr()
    train(after)
    said = capsys.readouterr().out
    assert f"{before.run_id} has the same settings and another source of its encoding" in said
    assert RunFolder.of(after).name != before.run_id and "is finished already" not in said


@pytest.mark.slow
def test_under_a_name_of_ones_own_it_is_refused_and_force_trains_it_anew(run, monkeypatch):
    settings = replace(run(), run_id="mine")
    train(settings)
    folder = RunFolder.of(settings)
    first = trained_at(folder)
    monkeypatch.setattr(identity, "source_hash", lambda *configs: "edited")
    with pytest.raises(ValueError, match=r"mine is a run with another source of its encoding or task: .* force=true"):
        train(settings)
    assert folder.finished and trained_at(folder) == first
    train(replace(settings, force=True))
    assert folder.finished and trained_at(folder) != first and folder.results["identity"]["source"] == "edited"


def test_more_lengths_and_protocols_are_scored_and_not_trained(run):
    settings = run()
    train(settings)
    folder = RunFolder.of(settings)
    first, rows = trained_at(folder), folder.results["rows"]
    for changed in ("eval.protocols=[sliding]", "eval.lengths=[1,2,4]"):
        assert run(changed).run_id == settings.run_id
        train(run(changed))
    assert {row["context_length"] for row in folder.results["rows"]} == {16, 32, 64}
    train(settings)
    known = [row for row in folder.results["rows"] if row["protocol"] != "sliding"]
    assert trained_at(folder) == first and known == rows


def test_a_model_that_was_trained_in_bfloat16_is_scored_as_its_rows_say(run, capsys):
    settings = run("trainer.precision=bf16-true")
    train(settings)
    reason = choose_precision(settings.trainer).reason  # it says more on processors without bf16
    assert reason.startswith("as set") and f"in bf16-true ({reason})" in capsys.readouterr().out
    folder = RunFolder.of(settings)
    assert folder.results["training"]["precision_reason"] == reason
    machine = folder.results["machine"]
    assert machine["waiting"] in ("asleep", "spinning") and machine["float32_products"] == "highest"
    rows, losses = folder.results["rows"], folder.losses
    assert {row["precision"] for row in rows} == {"32"} and folder.results["training"]["precision"] == "bf16-true"
    (folder.path / "losses.npz").unlink()
    folder.set_status("interrupted")
    train(settings)
    assert all(np.array_equal(values, losses[key]) for key, values in folder.losses.items()) and len(losses) > 0
    assert [row["nats"] for row in folder.results["rows"]] == [row["nats"] for row in rows]


@pytest.mark.parametrize(("given", "ran"), [("32", "32-true"), ("bf16", "bf16-mixed"), ("auto", "32-true")])
def test_a_precision_has_one_name_however_it_is_given(given, ran, monkeypatch):
    monkeypatch.setattr("model.training.trainer.bf16_unit", lambda gpu: None)
    assert choose_precision(settings_of("trainer=cpu", f"trainer.precision={given}").trainer).name == ran


def test_a_run_that_has_all_that_is_asked_for_reads_no_data(run, monkeypatch, capsys):
    train(run())
    monkeypatch.setattr("data.module.build_data", None)
    capsys.readouterr()
    train(run())
    (said,) = capsys.readouterr().out.splitlines()  # one line a job, not its table again
    assert "is finished already" in said


def test_runs_of_two_sources_are_two_labels_and_never_pooled(tmp_path):
    for seed, source in enumerate(("a" * 64, "b" * 64)):
        make_run(tmp_path, "rope", seed, line(4.0, 0.1), results={"identity": {"source": source}})
    comparison = read_comparison(tmp_path)
    assert comparison.encodings == ["rope (source=aaaaaa)", "rope (source=bbbbbb)"]
    assert set(comparison.summary["seeds"]) == {1}


def test_one_run_that_was_scored_otherwise_since_takes_part_as_it_was(tmp_path):
    for encoding in ("rope", "alibi", "none"):
        make_run(tmp_path, encoding, 0, line(4.0, 0.1), results={"evaluation": "first"})
    before = read_comparison(tmp_path)
    folder = next(run.folder for run in before.runs if run.encoding == "rope")
    folder.turn_to("longer")
    after = read_comparison(tmp_path)
    assert before.objection is None is after.objection
    assert after.summary.equals(before.summary) and len(after.summary)
