"""What those who carry the work on are told is so: files, commands and versions in CONTRIBUTING.md and its neighbours.

python -m pytest tests/test_contributing.py
"""

import re
import tomllib

import yaml

from tests.conftest import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_place_that_is_named_is_there():
    named = re.findall(r"[\w./-]+\.(?:py|md|yaml|txt|parquet)\b", CONTRIBUTING)
    places = [place for place in named if "NAME" not in place]
    assert len(places) > 20
    assert not [place for place in places if not any((ROOT / at / place).exists() for at in ("", "conf/encoding"))]
    assert all((ROOT / place).parent.is_dir() for place in named)


def test_every_make_target_is_there():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"`make ([\w-]+)", CONTRIBUTING)} <= {*targets}


def test_the_hooks_have_the_pinned_ruff():
    (pinned,) = re.findall(r"^ruff==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["additional_dependencies"] for hook in local["hooks"]] == [[pinned], [pinned]]


def test_a_citation_says_what_the_project_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"].lower() == PROJECT["name"]
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert citation["abstract"] == PROJECT["description"]
    (author,) = citation["authors"]
    assert author["name"] in (ROOT / "LICENSE").read_text()


def test_the_changelog_begins_with_what_is_not_released():
    text = (ROOT / "CHANGELOG.md").read_text()
    first, *_ = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "Unreleased"
    assert all((ROOT / page).exists() for page in re.findall(r"docs/\w+\.md", text))
