"""Rows: what each carries, when it is scored again, the floors beside the model, and what can't be scored.

python -m pytest tests/test_perplexity.py
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conf.schema import CONTROLS, ProbeSettings
from eval.measure.extended import extension_configs
from eval.measure.measurement import fingerprint
from eval.measure.ngram import NGram
from eval.measure.perplexity import Perplexity
from eval.measure.protocols import plan
from eval.measure.rows import row_key
from eval.measure.streams import Streams
from eval.measure.targets import targets_of
from eval.record.folder import RunFolder
from eval.record.terminal import print_rows
from model.catalogue import extension_config
from model.transformer import Transformer
from tests.small import CONTEXT, SEPARATOR, SETTINGS, VOCABULARY, evaluate, small_model, small_stream, token_loss

STREAM = small_stream(41, 26, 60)
TRAINING = small_stream(300, 200, seed=1)
BELIEVED = ("protocol", "tokens", "windows", "interval_covers", "extension", "precision", "executor", "seconds")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def passes(monkeypatch) -> list:
    seen, hidden = [], Transformer.hidden
    monkeypatch.setattr(Transformer, "hidden", lambda self, *a, **k: seen.append(1) or hidden(self, *a, **k))
    return seen


def test_every_row_carries_what_it_needs_to_be_believed(folder):
    settings = replace(SETTINGS, controls=["unigram", "bigram"])
    rows = evaluate(small_model(), STREAM, folder, settings, floors=TRAINING)
    assert {row["protocol"] for row in rows} == set(SETTINGS.protocols)
    assert {row.get("control") for row in rows} == {None, "unigram", "bigram"}
    for row in rows:
        assert row["status"] == "ok"
        assert not [name for name in (*BELIEVED, "targets_id", "split", "block_tokens") if name not in row]
        assert row["perplexity_low"] is not None or "interval_reason" in row
        assert row["interval_covers"] == "windows"  # one run has one seed


def test_stored_losses_and_windows_give_the_row_again(folder):
    for row in evaluate(small_model(), STREAM, folder, SETTINGS):
        losses = folder.losses[row_key(row)].astype(np.float64)
        starts, stops, scored, document, _ = folder.losses[row_key(row) + "/windows"].T
        assert len(losses) == row["tokens"] == scored.sum()
        assert losses.mean() == pytest.approx(row["nats"], rel=1e-6)
        assert (STREAM.offsets[document] <= starts).all() and (stops < STREAM.offsets[document + 1]).all()


def test_what_is_scored_is_not_scored_again(folder, passes):
    model, settings = small_model(), replace(SETTINGS, controls=["bigram"])
    rows = evaluate(model, STREAM, folder, settings, floors=TRAINING)
    done = len(passes)
    perplexity = Perplexity(settings, Streams(STREAM, STREAM, TRAINING), CONTEXT)
    assert not list(perplexity.rows(model, folder.results["rows"], folder.losses.keys()))
    assert perplexity.asked(folder.results["rows"]) == rows
    assert len(passes) == done
    more = evaluate(
        model, STREAM, folder, replace(settings, extensions=["none", "alibi_interpolation"]), floors=TRAINING
    )
    assert len(more) > len(rows) and len(passes) > done


def test_another_precision_is_shown_in_the_place_of_the_first(folder):
    model, settings = small_model().float(), replace(SETTINGS, protocols=["fixed_targets"])
    before = evaluate(model, STREAM, folder, settings)
    after = evaluate(model, STREAM, folder, replace(settings, precision="bf16"))
    assert folder.results["rows"] == after and {row["precision"] for row in after} == {"bf16"}
    assert any(a["nats"] != b["nats"] for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    "change",
    [{"split": "validation"}, {"targets": 2}, {"windows": 3}, {"lengths": [1, 2, 3, 7]}, {"precision": "bf16"}],
)
def test_rows_on_other_targets_or_in_another_precision_replace_none_and_come_back_unscored(folder, passes, change):
    model, settings = small_model("rope").float(), replace(SETTINGS, extensions=["none", "pi"])
    before = evaluate(model, STREAM, folder, settings)
    changed = replace(settings, extensions=["ntk"], **change)
    after = evaluate(model, STREAM, folder, changed)
    assert folder.results["rows"] == after and {row["extension"] for row in after} == {"ntk"}
    windows, done = folder.windows, len(passes)
    assert evaluate(model, STREAM, folder, settings) == before == folder.results["rows"]
    assert evaluate(model, STREAM, folder, changed) == after
    assert len(passes) == done and folder.windows.equals(windows)


def test_settings_that_give_no_figure_replace_no_row_that_has_one(folder, monkeypatch):
    model, settings = small_model("rope"), replace(SETTINGS, protocols=["fixed_targets"], extensions=["rerope"])
    rows = evaluate(model, STREAM, folder, settings)

    def refuse(*args):
        raise ValueError("out of range")

    monkeypatch.setattr("eval.measure.perplexity.extended_encoding", refuse)
    changed = replace(settings, extension_settings={"rerope": {"window": 3}})
    with pytest.raises(ValueError, match=r"extension=rerope with window=3 gives no figure at .*\(out of range\).*kept"):
        evaluate(model, STREAM, folder, changed)
    assert folder.results["rows"] == rows


def test_an_extension_with_other_settings_is_scored_again(folder, passes):
    model, settings = small_model("rope"), replace(SETTINGS, protocols=["fixed_targets"], extensions=["rerope"])
    evaluate(model, STREAM, folder, settings)
    done = len(passes)
    changed = replace(settings, extension_settings={"rerope": {"window": 3}})
    rows = evaluate(model, STREAM, folder, changed)
    assert len(passes) > done and all(row["extension_settings"] == "window=3" for row in rows)
    done = len(passes)
    evaluate(model, STREAM, folder, changed)
    assert len(passes) == done
    again = evaluate(model, STREAM, folder, settings)
    assert all(row["extension_settings"] == "window=None" for row in again)


def test_rows_whose_losses_are_gone_are_scored_again(folder, passes):
    model, settings = small_model(), replace(SETTINGS, protocols=["fixed_targets"])
    evaluate(model, STREAM, folder, settings)
    (folder.path / "losses.npz").unlink()
    done = len(passes)
    evaluate(model, STREAM, folder, settings)
    assert len(passes) > done and folder.losses


def test_a_longer_length_moves_the_fixed_targets_of_all(folder):
    model, settings = small_model(), replace(SETTINGS, protocols=["fixed_targets"])
    evaluate(model, STREAM, folder, settings)
    rows = evaluate(model, STREAM, folder, replace(settings, lengths=[*SETTINGS.lengths, 4]))
    assert len({row["targets_id"] for row in rows}) == 1 and len(rows) == len(folder.results["rows"]) == 4


@pytest.mark.parametrize("protocol", ["fixed_targets", "non_overlapping", "sliding"])
@pytest.mark.parametrize("control", CONTROLS)
def test_a_floor_is_the_ngram_on_the_same_targets(folder, protocol, control):
    settings = replace(SETTINGS, protocols=[protocol], controls=[control])
    rows = evaluate(small_model(), STREAM, folder, settings, floors=TRAINING)
    ngram = NGram.fit(TRAINING.tokens, VOCABULARY, 1 + CONTROLS.index(control), document_starts=TRAINING.offsets[:-1])
    for length in (4, 8, 16):
        targets = targets_of(plan(protocol, STREAM, length, [4, 8, 16], settings))
        losses = [ngram.token_losses(STREAM.tokens[target - 1 : target + 1])[1] for target in targets]
        own, floor = (
            [row for row in rows if row["context_length"] == length and row.get("control") == c]
            for c in (None, control)
        )
        assert floor[0]["nats"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-9)
        for name in ("tokens", "bytes", "windows", "targets_id"):
            assert floor[0][name] == own[0][name]


@pytest.mark.parametrize("protocol", SETTINGS.protocols)
def test_across_documents_separators_are_context_and_never_targets(folder, protocol):
    model, stream = small_model(), small_stream(*[5] * 30)
    settings = replace(SETTINGS, protocols=[protocol], cross_documents=True, lengths=[2], targets=1)
    rows = evaluate(model, stream, folder, settings)
    windows = plan(protocol, stream, 16, [16], settings)
    losses, sizes = [], []
    for start, stop, count in zip(*windows, strict=True):
        for target in range(stop + 1 - count, stop + 1):
            if stream.tokens[target] != SEPARATOR:
                losses.append(token_loss(model, stream.tokens, start, target))
                sizes.append(int(stream.token_bytes[target]))
    assert 0 < len(losses) < windows.scored.sum()
    assert sum(row["tokens"] for row in rows) == len(losses)
    assert sum(row["bytes"] for row in rows) == sum(sizes)
    assert sum(row["nats"] * row["tokens"] for row in rows) == pytest.approx(math.fsum(losses), rel=1e-9)
    for row in rows:
        assert row["windows"] == len(folder.losses[row_key(row) + "/windows"])


def test_a_length_on_which_an_encoding_is_not_defined_has_a_row_that_says_so(folder):
    rows = evaluate(small_model("learned"), STREAM, folder, replace(SETTINGS, protocols=["fixed_targets"]))
    assert [row["status"] for row in rows] == ["ok", "ok", "undefined"]
    assert "not defined beyond 8 tokens" in rows[-1]["reason"] and rows[-1]["targets_id"] == rows[0]["targets_id"]


def test_losses_that_are_not_finite_give_a_row_that_says_so(folder):
    model = small_model()
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    rows = evaluate(model, STREAM, folder, SETTINGS)
    assert {row["status"] for row in rows} == {"diverged"}
    assert "not finite" in rows[0]["reason"]


def test_too_few_windows_give_no_interval_and_say_how_many_are_needed(folder):
    few = replace(SETTINGS, protocols=["fixed_targets"], windows=4)
    for row in evaluate(small_model(), STREAM, folder, few):
        assert row["perplexity_low"] is row["perplexity_high"] is None
        assert "at least 10 blocks" in row["interval_reason"] and "there are 4" in row["interval_reason"]
        assert row["perplexity"] > 1


def test_an_interval_of_one_run_lies_around_its_perplexity(folder):
    stream = small_stream(*[70] * 12)
    for row in evaluate(small_model(), stream, folder, replace(SETTINGS, protocols=["fixed_targets"])):
        assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"]
        assert row["interval_covers"] == "windows" and row["blocks"] >= 10


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"protocols": ["fixed"]}, "fixed_targets, non_overlapping"),
        ({"extensions": ["yarm"]}, "yarn"),
        ({"controls": ["trigram"]}, "unigram, bigram"),
        ({"probes": ["bais"]}, "attention, bias"),
        ({"lengths": [1, 8]}, r"only \[8\] are possible"),
        ({"lengths": []}, "multiples of the training context"),
        ({"probes": ["bias"], "probe": ProbeSettings(windows=0, longest=4, span=None)}, "eval.probe.windows=0"),
        ({"probe": ProbeSettings(windows=2, longest=4, span=3)}, "eval.probe.span=3"),
        ({"probes": ["bias"], "probe": ProbeSettings(windows=2, longest=0.1, span=None)}, "eval.probe.longest=0.1"),
    ],
)
def test_bad_settings_are_refused_before_training(wrong, named):
    with pytest.raises(ValueError, match=named):
        settings = replace(SETTINGS, **wrong)
        Perplexity(settings, Streams(STREAM, STREAM, STREAM), CONTEXT)
        settings.span(CONTEXT)


def test_an_extensions_setting_is_its_own_and_none_is_ignored():
    both = replace(SETTINGS, extensions=["pi", "yarn"], extension_settings={"yarn": {"tune": True}})
    pi, yarn = extension_configs(both)
    assert yarn == {**extension_config("yarn"), "tune": True} and pi == extension_config("pi")
    for name in ("pi", "yarn"):
        with pytest.raises(ValueError, match=rf"extension_settings\.{name}\.wide=8: no such setting of {name}"):
            extension_configs(replace(both, extension_settings={name: {"wide": 8}}))


def test_a_perplexity_beyond_what_a_float_holds_is_written_and_shown_as_such(folder, capsys):
    model = small_model().float()
    with torch.no_grad():
        model.norm.weight.mul_(1e4)
    rows = evaluate(model, STREAM, folder, replace(SETTINGS, protocols=["fixed_targets"]))
    assert all(row["nats"] > 800 and row["perplexity"] is None and row["status"] == "ok" for row in rows)
    print_rows(rows, "a model that is very sure, and wrong")
    assert capsys.readouterr().out.count(" overflow ") == len(rows)


def test_rows_of_an_extension_whose_source_has_changed_are_scored_again(folder, passes, monkeypatch):
    model, settings = small_model("rope"), replace(SETTINGS, protocols=["fixed_targets"], extensions=["none", "pi"])
    evaluate(model, STREAM, folder, settings)
    before, asked = len(passes), fingerprint(settings)
    monkeypatch.setattr("eval.measure.extended.source_hash", lambda *configs: "edited")
    monkeypatch.setattr("eval.measure.measurement.source_hash", lambda *configs: "edited")
    rows = evaluate(model, STREAM, folder, settings)
    again = len(passes) - before
    assert [row.get("extension_source") for row in rows] == [None] * 3 + ["edited"] * 3
    assert 0 < again < before and fingerprint(settings) != asked
