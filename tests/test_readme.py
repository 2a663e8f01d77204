"""What the README shows works: its example of an encoding keeps the laws, and it names every encoding and extension.

python -m pytest tests/test_readme.py
"""

import inspect
import re

import pytest
import yaml

from model.catalogue import encoding_names, extension_names
from tests import laws
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
LAWS = sorted(
    name
    for name, check in vars(laws).items()
    if name.startswith("check_") and list(inspect.signature(check).parameters) == ["build"]
)


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", section("Adding an encoding"), re.DOTALL).group(1)


@pytest.fixture(scope="module")
def example() -> type:
    names = {"__name__": "model.encodings.mine"}
    exec(block("python"), names)
    return names["Mine"]


@pytest.mark.parametrize("law", LAWS)
def test_the_example_of_an_encoding_keeps_the_laws(example, law):
    getattr(laws, law)(laws.of_class(example))


def test_the_examples_settings_are_those_of_its_yaml(example):
    config = yaml.safe_load(block("yaml"))
    assert config["_target_"] == f"model.encodings.{config['name']}.{example.__name__}"
    assert list(inspect.signature(example).parameters) == ["shape", *(config.keys() - {"name", "_target_"})]


@pytest.mark.parametrize("name", [*encoding_names(), *extension_names()])
def test_every_encoding_and_extension_is_named(name):
    assert re.search(rf"\b{name}\b", section("The encodings"))
