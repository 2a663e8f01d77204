"""What a run and a sweep say in the terminal: tables that fit it and lose nothing, a reason said once.

python -m pytest tests/test_terminal.py
"""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from eval.compare.comparison import read_comparison
from eval.compare.report import print_comparison
from eval.compare.show import show_interval, show_perplexity
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from eval.record.terminal import announce, in_a_line, print_results
from tests.synthetic import CONTEXT, LENGTHS, make_run

EXTENDED = {"yarn": -0.3, "self_extend": 0.1, "alibi_interpolation": 0.2}


def falling(length):
    return 4.0 + 0.4 * np.log2(length / CONTEXT)


def table_alone(length):
    return 4.1 if length == CONTEXT else None


def gain(length, depth, extension):
    return None if length > CONTEXT and extension == "none" else 3 * CONTEXT / length + depth


RUNS = {
    "plain": (falling, {}),
    "with floors": (falling, {"floor": True, "positions": True}),
    "not defined beyond its table": (table_alone, {"floor": True}),
    "several extensions": (falling, {"extensions": EXTENDED, "floor": True}),
    "many lengths": (falling, {"extensions": EXTENDED, "lengths": [CONTEXT * 2**n for n in range(9)]}),
    "retrieval": (falling, {"gain": gain}),
    "retrieval, several extensions": (falling, {"gain": gain, "extensions": EXTENDED}),
    "a perplexity that says nothing": (lambda length: 9.0 + 60 * (length > CONTEXT), {}),
    "a task": (falling, {"exact": {15: np.arange(40) > 3, 30: np.arange(40) > 30}}),
}


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What a function prints into a terminal of so many columns; None: into a pipe."""

    def printed(columns, print_it, *arguments):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
            monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        capsys.readouterr()
        print_it(*arguments)
        return capsys.readouterr().out

    return printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What `print_results` is given of each of RUNS."""
    path = tmp_path_factory.mktemp("runs")
    folders = {what: make_run(path / what, "rope", 0, nats, **more) for what, (nats, more) in RUNS.items()}
    return {what: (folder.results, folder.settings, folder.windows) for what, folder in folders.items()}


def show(folder):
    print_results(folder.results, folder.settings, folder.windows)


def figures(text: str) -> set[str]:
    return set(re.findall(r"\d[\d.,%x-]*", text))


@pytest.mark.parametrize("columns", [60, 80, 160])
@pytest.mark.parametrize("what", RUNS)
def test_what_a_run_says_fits_the_terminal_and_nothing_is_cut(runs, terminal, columns, what):
    results, *_ = runs[what]
    piped, shown = (terminal(width, print_results, *runs[what]) for width in (None, columns))
    assert "…" not in shown and max(map(len, shown.splitlines())) <= columns
    assert figures(shown) == figures(piped)
    for row in results["rows"]:
        if row["status"] == "ok" and row["protocol"] != "positions" and row["perplexity"] < 1000:
            assert f"{row['perplexity']:.2f}" in shown
            assert f"{row['context_length']} ({row['length_ratio']:g}x)" in shown


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A sweep with one of everything, of which a run has failed."""
    path = tmp_path_factory.mktemp("runs") / "sweep"
    for name, nats in {"rope": falling, "learned": table_alone, "sinusoidal": lambda length: 4.2}.items():
        make_run(path, name, 0, nats, floor=True)
    make_run(path, "t5", state="failed", error="out of memory " * 20)
    return read_comparison(path)


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_what_a_sweep_says_fits_the_terminal_and_nothing_is_cut(comparison, terminal, columns):
    shown = terminal(columns, print_comparison, comparison)
    assert "…" not in shown and max(len(line) for line in shown.splitlines()[:-1]) <= columns  # the last is a path
    here = comparison.summary.query("protocol == 'fixed_targets'").dropna(subset="perplexity_low")
    wanted = [show_interval(row.perplexity_low, row.perplexity_high, show_perplexity) for row in here.itertuples()]
    assert len(wanted) == 4 + 4 + 1 + 1 and all(each in shown for each in wanted)
    assert " ".join(shown.split()).count("out of memory") == 20


@pytest.mark.parametrize("more", [{}, {"extensions": EXTENDED}, {"gain": gain}], ids=["plain", "extended", "retrieval"])
def test_why_there_is_no_figure_is_said_once_and_a_dash_stands_in_its_place(tmp_path, terminal, more):
    folder = make_run(tmp_path, "learned", 0, table_alone, **more)
    shown = " ".join(terminal(80, show, folder).split())
    reasons = {row["reason"] for row in folder.results["rows"] if row["status"] != "ok"}
    (reason,) = reasons
    assert shown.count(reason) == 1 and shown.count(" - ") >= 2 * 3
    of = " of none, yarn, self_extend, alibi_interpolation" if "extensions" in more else ""
    assert f"- at 64, 128, 256{of}: {reason}" in shown


def test_the_length_that_was_asked_for_makes_no_second_reason(tmp_path, terminal):
    folder = make_run(tmp_path, "learned", 0, table_alone)
    rows = [{**row} for row in folder.results["rows"]]
    for row in rows:
        if row["status"] != "ok":
            row["reason"] = (
                f"Learned is not defined beyond 32 tokens (asked for {row['context_length']}): choose another"
            )
    folder.update(rows=rows)
    shown = " ".join(terminal(80, show, folder).split())
    assert shown.count("Learned is not defined") == 1
    assert "- at 64, 128, 256: Learned is not defined beyond 32 tokens: choose another" in shown


def test_several_extensions_are_a_table_of_extension_by_length(tmp_path, terminal):
    folder = make_run(tmp_path, "rope", 0, falling, extensions=EXTENDED, floor=True)
    shown = terminal(80, show, folder)
    for protocol in ("fixed_targets", "non_overlapping"):
        own = shown.partition(f"perplexity, {protocol}\n")[2].partition("\n\n")[0].splitlines()
        assert re.split(r"\s{2,}", own[0]) == ["extension", *(f"{n} ({n / CONTEXT:g}x)" for n in LENGTHS)]
        for name in ("none", *EXTENDED):
            rows = {
                row["context_length"]: row
                for row in folder.results["rows"]
                if (row["protocol"], row["extension"]) == (protocol, name) and "control" not in row
            }
            wanted = [name, *(f"{rows[length]['perplexity']:.2f}" for length in LENGTHS)]
            assert wanted in [line.split() for line in own]


def test_a_needle_under_several_extensions_is_the_mean_over_its_depths(tmp_path, terminal):
    folder = make_run(tmp_path, "rope", 0, falling, gain=gain, extensions=EXTENDED)
    shown = terminal(80, show, folder).partition("retrieval, pair")[2].partition("\n\n")[0]
    lines = [line.split() for line in shown.splitlines()]
    for name in ("none", "yarn"):
        own = [row for row in folder.results["retrieval"] if (row["needle"], row["extension"]) == ("pair", name)]
        gains = [[row.get("gain") for row in own if row["context_length"] == length] for length in LENGTHS]
        assert [name, *("-" if None in each else f"{np.mean(each):.3f}" for each in gains)] in lines


def test_a_job_beside_others_is_a_line(runs):
    results, *_ = runs["several extensions"]
    rows = [row for row in results["rows"] if row["protocol"] == "fixed_targets" and row["extension"] == "none"]
    wanted = [f"{row['perplexity']:.2f} at {row['length_ratio']:g}x" for row in rows if "control" not in row]
    assert len(wanted) == 4 and in_a_line(results) == f"perplexity {', '.join(wanted)}"
    assert in_a_line(runs["not defined beyond its table"][0]).count(" at ") == 1
    assert in_a_line({"rows": []}) == "done"
    assert in_a_line(runs["a task"][0]).startswith("exact match 90.0% at 1x, 22.5% at 2x; perplexity ")


@pytest.mark.parametrize("what", RUNS)
def test_a_pipe_gets_plain_lines(runs, terminal, what):
    shown = terminal(None, print_results, *runs[what])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_an_announcement_breaks_between_words_in_a_terminal_alone(terminal, tmp_path):
    settings = settings_of("encoding=rope", f"runs={tmp_path}")
    counts = {"total": 1_049_728, "embedding": 262_144, "encoding": 0}
    module = SimpleNamespace(transformer=SimpleNamespace(count_parameters=lambda: counts))
    data = SimpleNamespace(describe=lambda: "documents and tokens of train, validation and test " * 3)
    arguments = announce, settings, data, module, RunFolder(tmp_path / "rope-s0-1f2e3d")
    whole, broken = (terminal(columns, *arguments) for columns in (None, 80))
    assert max(map(len, broken.splitlines())) <= 80 < max(map(len, whole.splitlines()))
    assert broken.split() == whole.split()
