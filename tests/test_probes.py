"""The probes against brute force and against closed forms.

python -m pytest tests/test_probes.py
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conf.schema import ProbeSettings
from eval.measure.probes import Probed, run_probes
from eval.measure.probes.attention import probe as attention
from eval.measure.probes.bias import last_row_bias
from eval.measure.probes.bias import probe as bias
from eval.record.folder import RunFolder
from model.catalogue import encoding_names
from model.encodings.alibi import alibi_slopes
from tests import laws
from tests.small import CONTEXT, SETTINGS, small_model, small_stream

STREAM = small_stream(90, 70, 130)
PROBE = replace(SETTINGS, lengths=[1, 2, 4], probe=ProbeSettings(windows=12, longest=2, span=3))


def probed(model, **changes) -> Probed:
    return Probed(model, STREAM, replace(PROBE, **changes))


def test_attention_that_is_even_has_the_distance_and_entropy_of_an_average():
    model = small_model("none")
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight[: 2 * model.shape.dim] = 0  # queries and keys
    for row in attention(probed(model)):
        last = range(row["context_length"] - row["rows"], row["context_length"])
        assert row["attention_distance"] == pytest.approx(np.mean([i / 2 for i in last]))
        assert row["attention_entropy"] == pytest.approx(np.mean([math.log(i + 1) for i in last]))


def test_attention_of_a_steep_bias_is_on_the_token_itself():
    for row in attention(probed(small_model("alibi", exponent=1e-3))):
        assert row["attention_distance"] < 1.0


def test_attention_by_blocks_of_rows_is_attention_at_once(monkeypatch):
    whole = attention(probed(small_model("rope")))
    monkeypatch.setattr("model.attention.BLOCK_SCORES", 100)
    for row, again in zip(whole, attention(probed(small_model("rope"))), strict=True):
        assert row == pytest.approx(again)


@pytest.mark.parametrize("name", encoding_names())
def test_attention_of_every_encoding_can_be_watched_and_changes_nothing(name):
    model = small_model(name)
    tokens = torch.from_numpy(STREAM.tokens[:CONTEXT].astype(np.int64))[None]
    before = model(tokens)
    rows = attention(probed(model))
    assert torch.equal(model(tokens), before)
    assert {row["context_length"] for row in rows} == {8, 16}
    for row in rows:
        if row["status"] == "ok":
            assert 0 <= row["attention_distance"] < row["context_length"]
            assert 0 <= row["attention_entropy"] <= math.log(row["context_length"])
        else:
            assert "not defined" in row["reason"]


@pytest.mark.parametrize("name", ["learned", "randomized"])
def test_a_length_without_definition_says_so(name):
    rows = probed(
        small_model(name), lengths=[1, 20], probe=ProbeSettings(windows=12, longest=None, span=3), cross_documents=True
    )
    assert [row["status"] for row in attention(rows)][-1] == "undefined"


def test_alibis_curve_is_its_slopes():
    rows = bias(probed(small_model("alibi")))
    slopes = alibi_slopes(4).tolist()
    assert {row["layer"] for row in rows} == {0} and {row["context_length"] for row in rows} == {16}
    assert [row["distance"] for row in rows if row["head"] == 0][-1] == 15
    for row in rows:
        assert row["bias"] == pytest.approx(-slopes[row["head"]] * row["distance"])


def test_a_curve_of_each_layer_stands_by_itself_and_one_that_stretches_at_every_length():
    def encoding_of(name):
        model = small_model(name)
        laws.perturb(model.encoding)
        return bias(probed(model))

    assert {row["layer"] for row in encoding_of("cpb")} == {0, 1}
    assert {row["context_length"] for row in encoding_of("fire")} == {8, 16}


@pytest.mark.parametrize("name", ["t5", "kerple_log", "sandwich", "fire", "cpb", "relative"])
def test_a_curve_is_what_score_mod_adds(name):
    encoding = laws.perturb(small_model(name).encoding)
    content = laws.Content.random(encoding.shape, 16, batch=1)
    _, _, mod, _ = laws.hooks(encoding, content, layer=1)
    scores = torch.randn(1, encoding.shape.num_heads, 16, 16, dtype=torch.float64)
    added = (mod(scores, *laws.index_tensors(*scores.shape[:3])) - scores)[0, :, -1]
    torch.testing.assert_close(last_row_bias(encoding, 16, layer=1).double(), added, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "why"), [("rope", "adds nothing"), ("fox", "content"), ("shaw", "content"), ("cope", "whole rows")]
)
def test_an_encoding_without_a_curve_says_why(name, why):
    (row, *_) = bias(probed(small_model(name)))
    assert row["status"] == "undefined" and why in row["reason"]


def test_what_a_window_hides_is_not_in_its_curve():
    rows = bias(probed(small_model("window")))
    assert {row["distance"] for row in rows} == set(range(CONTEXT // 2))


def test_probes_are_run_once_and_again_with_other_settings(tmp_path, monkeypatch):
    folder, model, settings = RunFolder(tmp_path), small_model(), replace(PROBE, probes=["attention", "bias"])

    def run(settings):
        for found in run_probes(model, STREAM, settings, folder.results.get("probe_settings", {})):
            folder.add(found)

    run(settings)
    found = folder.results["probes"]
    assert list(found) == settings.probes and all(found.values())
    monkeypatch.setattr("eval.measure.probes.Probed", None)
    run(settings)
    monkeypatch.undo()
    run(replace(settings, probes=["bias"], lengths=[1]))
    again = folder.results["probes"]
    assert again["attention"] == found["attention"] and again["bias"] != found["bias"]
