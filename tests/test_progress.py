"""What long work says meanwhile: a line that is written over in a terminal, plain lines now and then anywhere else.

python -m pytest tests/test_progress.py
"""

import io
import re
from dataclasses import replace

import pytest

from conf.progress import FIRST, SELDOM, SHOWN, SIDE_BY_SIDE, Progress, duration, speak_as
from data.corpus import Corpus, Document
from data.prepare import prepare
from data.recipe import build_recipe
from eval.measure.perplexity import Perplexity
from eval.measure.probes import run_probes
from eval.measure.streams import Streams
from eval.record.command import Shown
from tests.small import CONTEXT, SETTINGS, small_model, small_stream

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Clock:
    """Time that goes on by `pace` seconds each time somebody looks at it."""

    def __init__(self, pace=0.0):
        self.now, self.pace = 0.0, pace

    def __call__(self):
        self.now += self.pace
        return self.now


@pytest.fixture
def terminal(monkeypatch):
    """Puts a terminal in the place of stdout, as a command has it."""

    def opened():
        screen = io.StringIO()
        screen.isatty = lambda: True
        monkeypatch.setattr("sys.stdout", Shown(screen))
        return screen

    return opened


@pytest.fixture
def hurried(monkeypatch):
    """A clock by which everything takes long."""
    clock = Clock(pace=2 * FIRST)
    monkeypatch.setattr(Progress.__init__, "__defaults__", ((), clock))
    return clock


def work(clock, steps, seconds):
    with Progress("scoring", [1] * steps, clock) as progress:
        for step in range(steps):
            progress.step(f"step {step}")
            for part in range(10):
                clock.now += seconds / 10
                progress.share((part + 1) / 10)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (59.9, "60 s"), (170, "3 min"), (3600, "1 h 0 min"), (9000, "2 h 30 min")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_what_is_over_within_seconds_says_nothing(capsys):
    work(Clock(), steps=4, seconds=FIRST / 5)
    assert capsys.readouterr().out == ""


def test_a_pipe_gets_plain_lines_with_the_share_and_the_time_left_ever_less_often(capsys):
    work(Clock(), steps=4, seconds=250)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scoring step 0 (1 of 4): 2 %, about 16 min left"
    assert lines[-1].startswith("scoring step 3 (4 of 4): ") and 10 < len(lines) < 2 * 1000 / SELDOM
    assert not CONTROL.search("".join(lines))


def test_what_takes_longer_counts_for_more(capsys):
    clock = Clock()
    with Progress("scoring", [1, 3], clock) as progress:
        progress.step("short")
        clock.now += 10
        progress.step("long")
    assert capsys.readouterr().out == "scoring long (2 of 2): 25 %, about 30 s left\n"


def test_a_terminal_gets_one_line_that_is_gone_at_the_end(terminal):
    screen = terminal()
    work(Clock(), steps=4, seconds=100)
    *shown, rest = screen.getvalue().split("\r")
    assert rest == "" and "\n" not in screen.getvalue() and len(shown) > 20
    assert shown[-2].startswith("scoring step 3 (4 of 4): 100 %") and shown[-1].strip() == ""
    assert len(shown[-1]) >= len(shown[-2].rstrip())


def test_a_terminals_line_does_not_break(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    screen, clock = terminal(), Clock()
    with Progress("scoring", [1], clock) as progress:
        clock.now += 2 * SHOWN
        progress.step("a\x1b[2Jname\n" * 9)
    assert all(len(line) < 30 and line.isprintable() for line in screen.getvalue().split("\r"))


def test_jobs_side_by_side_never_write_over_one_another_and_say_which_they_are(terminal, monkeypatch):
    monkeypatch.setenv(SIDE_BY_SIDE, "1")
    screen = terminal()
    speak_as("rope-s0")
    try:
        work(Clock(), steps=2, seconds=20)
    finally:
        speak_as("")
    lines = screen.getvalue().splitlines()
    assert lines and all(line.startswith("rope-s0: scoring step ") for line in lines) and "\r" not in screen.getvalue()


class Texts(Corpus):
    def documents(self, split):
        return (Document(f"{split} {n}", f"{split} {n} words " * 20) for n in range(6))

    def fingerprint(self):
        return "texts"


def test_a_corpus_that_is_prepared_says_what_it_is_at_and_one_that_is_there_nothing(tmp_path, hurried, capsys):
    given = Texts(), build_recipe({"name": "byte"}), tmp_path
    prepare(*given)
    said = capsys.readouterr().out
    assert said.startswith(f"preparing the corpus, once: it then lies in {tmp_path}")
    for split in ("train", "validation", "test"):
        assert f"the corpus: tokenizing {split}" in said
    assert re.search(r"tokenizing train, [1-6] documents, ", said)
    prepare(*given)
    assert capsys.readouterr().out == ""


def test_all_that_is_measured_says_by_length_and_extension_how_far_it_is(hurried, capsys):
    stream, model = small_stream(90, 70, 130), small_model("rope").float()
    settings = replace(SETTINGS, lengths=[1, 2], extensions=["none", "pi"], controls=["unigram"], probes=["attention"])
    perplexity = Perplexity(settings, Streams(stream, stream, stream), CONTEXT)
    list(perplexity.rows(model, [], ()))
    list(run_probes(model, stream, settings, {}))
    said = capsys.readouterr().out
    for what in ("at 8 (1 of 4)", "pi at 16 (4 of 4)", "the unigram floor at 8"):
        assert f"scoring {what}: " in said
    assert "probe attention: " in said and " %, about " in said
    assert all(line.isprintable() for line in said.splitlines())


def test_many_short_steps_are_not_a_line_each(capsys):
    clock = Clock()
    with Progress("drawing", [1] * 50, clock) as progress:
        for name in range(50):
            progress.step(str(name))
            clock.now += 1
    assert len(capsys.readouterr().out.splitlines()) < 8
