"""What the README and docs show works: the examples of adding things run, that of an encoding keeps the laws, what a
Python session prints is so, and every encoding and extension is named.

python -m pytest tests/test_readme.py
"""

import doctest
import inspect
import json
import re
import shutil

import pytest
import yaml

from conf.schema import options
from scripts.encodings import listed_in, readme_with_families
from tests import laws
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
ADDING = (ROOT / "docs" / "adding.md").read_text()
PYTHON = (ROOT / "docs" / "python.md").read_text()
LAWS = sorted(
    name
    for name, check in vars(laws).items()
    if name.startswith("check_") and list(inspect.signature(check).parameters) == ["build"]
)


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


FILES = dict(re.findall(r"`(\S+)`:\n\n```(?:python|yaml)\n(.*?)```", ADDING, re.DOTALL))


# -------------------------------------------------------------------------------------------------------- adding things


@pytest.fixture(scope="module")
def example() -> type:
    names = {"__name__": "model.encodings.mine"}
    exec(FILES["model/encodings/mine.py"], names)
    return names["Mine"]


@pytest.mark.parametrize("law", LAWS)
def test_the_example_of_an_encoding_keeps_the_laws(example, law):
    getattr(laws, law)(laws.of_class(example))


def test_the_examples_settings_are_those_of_its_yaml(example):
    config = yaml.safe_load(FILES["conf/encoding/mine.yaml"])
    assert config["_target_"] == f"model.encodings.{config['name']}.{example.__name__}"
    assert list(inspect.signature(example).parameters) == ["shape", *(config.keys() - {"name", "_target_"})]


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A checkout with the six examples in it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("conf", "data", "eval", "model"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tree)
    for name, text in FILES.items():
        if "mine" not in name:  # which whoever follows the README has
            assert not (tree / name).exists(), name
        (tree / name).write_text(text)
    return tree


SMALL = ("model=nano", "context=16", "training.tokens=2048", "logger=none", "tokenizer=byte", "trainer=cpu")


@pytest.mark.slow
def test_the_six_examples_run(program, extended, tmp_path):
    """An encoding, an extension, a corpus, a probe and a protocol together."""
    assert len(FILES) == 12
    protocols = ("eval=last_token", "eval.protocols=[fixed_targets,last_token]", "eval.probes=[bias,confidence]")
    scored = ("eval.windows=12", "eval.targets=4", "eval.extensions=[none,slower]", "eval.lengths=[1,2]")
    done = program(*SMALL, "data=topics", *protocols, *scored, "run_id=rope", runs=tmp_path, cwd=extended)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "rope" / "results.json").read_text())
    places = {(row["protocol"], row["extension"]) for row in results["rows"] if row["status"] == "ok"}
    assert places >= {(p, e) for p in ("fixed_targets", "last_token") for e in ("none", "slower")}
    assert {row["tokens"] for row in results["rows"] if row["protocol"] == "last_token"} == {12}
    assert [row["entropy"] > 0 for row in results["probes"]["confidence"]] == [True, True]
    assert results["corpus"] == "topics"
    assert "confidence" in (tmp_path / "rope" / "report.html").read_text()
    own = program(*SMALL, "encoding=mine", "data=topics", *scored, "run_id=mine", runs=tmp_path, cwd=extended)
    assert own.returncode == 0, own.stderr


def test_the_example_of_a_task_runs(program, extended, tmp_path):
    task = ("experiment=tasks", "data=first", "run_id=first", "eval.lengths=[1,2]", "data.examples=8")
    done = program(*task, *SMALL[:4], "trainer=cpu", runs=tmp_path, cwd=extended)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "first" / "results.json").read_text())["tasks"]
    assert [(row["task"], row["status"], row["length_ratio"]) for row in rows] == [
        ("first", "ok", 1),
        ("first", "ok", 2),
    ]


# ------------------------------------------------------------------------------------------------------------ in Python


class Close(doctest.OutputChecker):
    """Numbers may differ by 2 %: processors round differently, and a short training run carries that on."""

    def check_output(self, want, got, optionflags):
        wanted, found = (re.findall(r"[\w.']+", text) for text in (want, got))
        return len(wanted) == len(found) and all(map(self.same, wanted, found))

    @staticmethod
    def same(wanted, found):
        try:
            return float(found) == pytest.approx(float(wanted), rel=0.02)
        except ValueError:
            return wanted == found


@pytest.mark.slow  # two minutes
def test_the_first_run_prints_the_table_that_the_readme_shows(program, tmp_path):
    done = program("logger=none", runs=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stderr
    shown = re.search(r"```text\n(.*?)```", section("The first ten minutes"), re.DOTALL)[1]
    begin = done.stdout.index("fixed_targets\n")
    printed = done.stdout[begin : done.stdout.index("non_overlapping\n", begin)]
    assert len(shown.splitlines()) > 8 and Close().check_output(shown, printed, 0)


@pytest.mark.slow
def test_the_session_in_python_prints_what_it_says(program, tmp_path, monkeypatch):
    text = PYTHON.partition("\n## What it prints\n")[2]
    command = re.search(r"`python train.py (.*?)`", text, re.DOTALL).group(1).split()
    done = program(*command, runs=tmp_path / "runs", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    session = doctest.DocTestParser().get_doctest(text, {}, "docs/python.md", None, 0)
    assert len(session.examples) > 10
    monkeypatch.setenv("TRAINSHORT_CACHE", str(tmp_path / "cache"))
    said = []
    runner = doctest.DocTestRunner(checker=Close(), verbose=False)
    runner.run(session, out=said.append)
    assert not runner.failures, "".join(said)


# ---------------------------------------------------------------------------------------------------------------- names


def test_the_list_of_encodings_is_as_they_are():
    listed = listed_in(README)  # one that has been added since may be missing
    assert listed >= {"none", "rope", "alibi", "t5", "swan"} and len(listed) > 50
    assert not (gone := listed - {*options("encoding")}), f"README.md names what is no more: {gone}"
    assert readme_with_families(README, listed) == README, "README.md is stale: python -m scripts.encodings --write"


@pytest.mark.parametrize("name", options("extension"))
def test_every_extension_is_named(name):
    assert re.search(rf"\b{name}\b", section("The encodings"))
