"""The benchmark runs, and its ratios are what it says they are; no figure is judged.

python -m pytest tests/test_benchmark.py -m ""
"""

import csv
import sys
from types import SimpleNamespace

import pytest
import torch

from scripts import benchmark


def rows(tmp_path, monkeypatch, *arguments):
    path = tmp_path / "rows.csv"
    monkeypatch.setattr(
        sys, "argv", ["benchmark", *arguments, "--shape", "nano", "--seconds", "0.01", "--csv", str(path)]
    )
    benchmark.main()
    return list(csv.DictReader(path.open()))


@pytest.mark.slow
def test_encodings_are_set_against_none(tmp_path, monkeypatch):
    none, rope = rows(tmp_path, monkeypatch, "encodings", "--encodings", "rope", "--rounds", "3", "--threads", "1")
    assert (none["contestant"], none["ratio"], none["ratio_to"], none["setting"]) == ("none", "1.0", "none", "bf16")
    assert rope["contestant"] == "rope" and 0 < float(rope["ratio_least"]) <= float(rope["ratio"])
    assert float(rope["least"]) <= float(rope["tokens_per_second"]) <= float(rope["most"])


def test_ratios_are_to_the_fastest_reference():
    seconds = {"ours": 1.28, "peer": 5.12, "slow peer": 10.24}
    process = SimpleNamespace(
        names=list(seconds), time=lambda name, count: seconds[name], peak_memory=lambda name: 3_000_000_000
    )
    options = SimpleNamespace(rounds=3, seconds=1.0, shape="nano", profile=None, device=benchmark.torch.device("cpu"))
    found = benchmark.contest([process], ["slow peer", "peer"], benchmark.SHAPES["nano"], options)  # of 128 tokens
    assert [row["peak_memory_gb"] for row in found] == [3.0, 3.0, 3.0]
    assert [(row["contestant"], row["tokens_per_second"], row["ratio"], row["ratio_to"]) for row in found] == [
        ("ours", 100, 4.0, "peer"),
        ("peer", 25, 1.0, "peer"),
        ("slow peer", 12, 0.5, "peer"),
    ]


@pytest.mark.slow
def test_what_cannot_be_built_is_left_out_by_name(monkeypatch, capsys):
    monkeypatch.setitem(benchmark.SHAPES, "nano", benchmark.Sizes(32, 2, 5, 97, 32, 4))  # 5 heads in a width of 32
    options = SimpleNamespace(device=benchmark.torch.device("cpu"), threads=1)
    entries = [benchmark.Entry("rope", "rope", "fp32")]
    process = benchmark.Process(entries, benchmark.SHAPES["nano"], options, prepared=True).ready()
    assert process.names == []
    process.close()
    assert "rope: left out (ValueError" in capsys.readouterr().out


@pytest.mark.slow
def test_attention_alone_is_timed_by_every_executor(tmp_path, monkeypatch):
    names = [
        row["contestant"] for row in rows(tmp_path, monkeypatch, "attention", "--encodings", "alibi", "--rounds", "1")
    ]
    assert names == ["none, fused", "alibi, dense"]


@pytest.mark.parametrize("unit, compiled", [("AMX", "bf16 compiled"), (None, "fp32 compiled")])
def test_quick_compiles_what_a_run_takes_on_this_processor(monkeypatch, unit, compiled):
    monkeypatch.setattr(benchmark, "bf16_unit", lambda gpu: unit)
    assert benchmark._worth_a_look(torch.device("cpu")) == ("fp32", "bf16", compiled)


@pytest.mark.slow
def test_quick_says_what_to_choose(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "available_cores", lambda: 2)
    quick = rows(tmp_path, monkeypatch, "quick", "--settings", "fp32,bf16", "--rounds", "1", "--threads", "2")
    names = ["fp32, 2 threads", "bf16, 2 threads", "fp32, 1 thread", "bf16, 1 thread"]
    assert [row["contestant"] for row in quick] == names
    for row in quick:  # of the default job's 1.5 million tokens
        assert float(row["seconds_of_the_default_job"]) == pytest.approx(1.5e6 / int(row["tokens_per_second"]), abs=0.1)
    assert "fastest without compiling: " in capsys.readouterr().out


def test_advice_follows_from_the_rows():
    names = ["fp32, 4 threads", "bf16, 4 threads", "bf16 compiled, 4 threads", "bf16, 1 thread"]

    def said(*ratios: float) -> list[str]:
        rows = zip(names, ratios, strict=True)
        rows = [{"contestant": name, "tokens_per_second": round(100 * ratio), "ratio": ratio} for name, ratio in rows]
        return benchmark.advice(rows).splitlines()

    first, second, third = said(1, 2, 2.6, 0.8)
    assert first == "fastest without compiling: bf16, 4 threads, 200 tokens/s"
    assert second == "compiled: 1.30 times that, for 10 to 60 s at the start (trainer.compile=true)"
    assert third.startswith("a job with one thread: 0.40 times that")
    assert said(1, 0.8, 1.02, 0.5)[:2] == [
        "fastest without compiling: fp32, 4 threads, 100 tokens/s",
        "compiled: 1.02 times that, too little to pay for its start",
    ]


def test_operations_of_a_step_are_those_of_palm():
    gpt2 = benchmark.SHAPES["gpt2"]  # 85 million weights that multiply in the blocks, 38.6 million in the head
    assert benchmark.operations(gpt2) == 6 * (12 * 12 * 768**2 + 50304 * 768) + 12 * 12 * 768 * 1024


@pytest.mark.slow
def test_peers_are_as_torch_comes_and_prepared(tmp_path, monkeypatch):
    arguments = ("peers", "--encodings", "none", "--settings", "fp32", "--rounds", "2")
    found = rows(tmp_path, monkeypatch, *arguments)
    assert {("trainshort none", "kept"), ("nanogpt", "torch's"), ("nanogpt", "kept")} <= {
        (row["contestant"], row["memory"]) for row in found
    }
    (reference,) = {row["ratio_to"] for row in found}
    assert ("1.0", "torch's") in {(row["ratio"], row["memory"]) for row in found if row["contestant"] == reference}
    assert not reference.startswith("trainshort")
