"""Encodings in a folder of one's own, outside the checkout: found, held to their names, hashed, imported for no other.

python -m pytest tests/test_own.py
"""

import json
import re
import sys

import pytest

from conf import own
from conf.compose import composed
from conf.source import source_hash
from eval.record.identity import settings_of
from model.catalogue import encoding_config, encoding_family, encoding_names
from model.encodings import Shape, build_encoding
from tests import laws
from tests.conftest import ROOT

SHAPE = Shape(dim=32, num_heads=2, num_layers=2, context=32)
FORMULA = """
from {helper} import root
from model.encodings import take
from model.encodings.none import NoPE


class Mine(NoPE):
    relative = distance_bias = True
    order_blind = False

    def __init__(self, shape, strength: float = 1.0):
        super().__init__(shape)
        self.strength = strength

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        def mod(score, b, h, i, j):
            return score - self.strength * root(take(positions, b, i) - take(positions, b, j))

        return mod
"""
HELPER = "def root(distance):\n    return distance.clamp_min(0) ** 0.5\n"
YAML = "name: homemade\n_target_: {module}.Mine\nstrength: 1.0\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the encoding `homemade`, whose modules no other test has; nothing of it is left in this process."""
    module = re.sub(r"\W", "_", f"own_{tmp_path.parent.name}_{tmp_path.name}")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv(own.VARIABLE, raising=False)
    (tmp_path / f"{module}.py").write_text(FORMULA.format(helper=f"{module}_helper"))
    (tmp_path / f"{module}_helper.py").write_text(HELPER)
    (tmp_path / "homemade.yaml").write_text(YAML.format(module=module))
    yield tmp_path
    own.use(None)


def module_of(folder):
    return next(folder.glob("own_*_helper.py")).stem.removesuffix("_helper")


# ---------------------------------------------------------------------------------------------------------- it is found


def test_it_is_an_encoding_as_all_others(folder):
    before = encoding_names()
    settings = settings_of("encoding=homemade", "encoding.strength=2", f"encoding_path={folder}")
    assert settings.encoding["strength"] == 2 and settings.run_id.startswith("homemade-s0-")
    assert encoding_names() == sorted([*before, "homemade"])
    encoding = build_encoding(encoding_config("homemade", ["encoding.strength=3"]), SHAPE)
    assert type(encoding).__name__ == "Mine" and encoding.strength == 3
    assert sys.path[-1] == str(folder) and sys.path.count(str(folder)) == 1  # where it hides nothing


def test_it_stands_inside_others_and_others_inside_it(folder):
    own.use(folder)
    (folder / "around.yaml").write_text("defaults:\n  - rope\n  - _self_\nname: around\nbase: 5.0\n")
    assert encoding_config("window", ["encoding@encoding.inner=homemade"])["inner"]["name"] == "homemade"
    assert encoding_config("around")["base"] == 5 and encoding_config("around")["name"] == "around"


def test_it_keeps_the_laws(folder):
    own.use(folder)
    laws.check_distance_bias(laws.of_config(encoding_config("homemade")))


def test_its_folder_may_be_a_package_of_modules(folder):
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("from .sub import Mine\n")
    (folder / "pack" / "sub.py").write_text(FORMULA.format(helper=".helper"))
    (folder / "pack" / "helper.py").write_text(HELPER)
    own.use(folder)
    config = {"name": "homemade", "_target_": "pack.Mine"}
    try:
        assert build_encoding(config, SHAPE).strength == 1
    finally:
        for name in ("pack", "pack.sub", "pack.helper"):
            sys.modules.pop(name, None)
    hashes = {source_hash(config)}
    for name in ("__init__", "sub", "helper"):
        path = folder / "pack" / f"{name}.py"
        path.rename(folder / "pack" / "set_aside")
        hashes.add(source_hash(config))
        (folder / "pack" / "set_aside").rename(path)
    assert len(hashes) == 4


@pytest.mark.parametrize("written", ["{}", "'{}'", '"{}"'])
def test_a_name_with_blanks_and_a_home_is_taken_as_the_shell_gives_it(folder, written, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    (there := folder.parent / "a b, c").symlink_to(folder)
    try:
        settings = settings_of("encoding=homemade", f"encoding_path={written.format('~/a b, c')}")
    finally:
        there.unlink()
    assert settings.encoding_path == str(there)


def test_the_environment_names_the_folder_too(folder, monkeypatch):
    monkeypatch.setenv(own.VARIABLE, str(folder))
    assert "homemade" in encoding_names() and composed("eval").encoding_path == str(folder)
    assert settings_of("encoding=homemade").encoding_path == str(folder)


def test_the_pages_example_is_an_encoding(folder, monkeypatch):
    page = (ROOT / "docs" / "own_encoding.md").read_text()
    files = dict(re.findall(r"`~/mypkg/(\S+)`:\n\n```(?:python|yaml)\n(.*?)```", page, re.DOTALL))
    assert len(files) == 3
    for name, text in files.items():
        (folder / name).write_text(text)
    own.use(folder)
    for module in ("decay_bias", "penalties"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert encoding_family("my_decay") == "biases by distance" and encoding_family("homemade") == "others"
    build = laws.of_config(encoding_config("my_decay", ["encoding.strength=2"]))
    assert build(SHAPE).strength == 2
    laws.check_distance_bias(build)
    laws.check_causality(build)


# ----------------------------------------------------------------------------------------------------- what names a run


def test_where_the_folder_lies_is_no_part_of_a_runs_name(folder, tmp_path_factory):
    one = settings_of("encoding=homemade", f"encoding_path={folder}").run_id
    other = folder.rename(tmp_path_factory.mktemp("other") / "moved")
    try:
        assert settings_of("encoding=homemade", f"encoding_path={other}").run_id == one
    finally:
        other.rename(folder)
    assert settings_of("encoding=rope", f"encoding_path={folder}").run_id == settings_of("encoding=rope").run_id


@pytest.mark.parametrize("changed", ["", "_helper"])
def test_its_source_and_that_of_the_files_beside_it_are(folder, changed):
    own.use(folder)
    config = encoding_config("homemade")
    one = source_hash(config)
    file = folder / f"{module_of(folder)}{changed}.py"
    copy = file.rename(folder / "set_aside")
    assert source_hash(config) != one  # not found: known by its name alone
    copy.rename(file)
    assert source_hash(config) == one


def test_its_source_has_that_of_the_programs_encoding_that_it_varies(folder):
    from conf.source import _collect  # of which modules the hash is

    own.use(folder)
    found, module = {}, module_of(folder)
    _collect(module, found)
    assert sorted(found) == sorted([module, f"{module}_helper", "model.encodings.none"])


# ---------------------------------------------------------------------------------------------------------- what is not


def test_a_class_elsewhere_is_imported_for_nobody(folder):
    config = encoding_config("rope") | {"_target_": f"{module_of(folder)}.Mine"}
    with pytest.raises(ValueError, match="or in a folder of your own that the command names, encoding_path=FOLDER"):
        build_encoding(config, SHAPE)
    own.use(folder)
    for target in ("json.JSONEncoder", "nowhere.Mine", "Mine"):
        with pytest.raises(ValueError, match="must name a class under"):
            build_encoding({"name": "homemade", "_target_": target}, SHAPE)


def test_a_module_that_another_hides_is_refused(folder):
    (folder / "json.py").write_text("class Mine: ...\n")
    own.use(folder)
    with pytest.raises(ValueError, match=r"its json is hidden by .*json.__init__.py: give the module another name"):
        build_encoding({"name": "homemade", "_target_": "json.Mine"}, SHAPE)
    assert json.loads("1") == 1


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda folder: (folder / "homemade.yaml").unlink(), "holds no NAME.yaml of an encoding"),
        (
            lambda folder: (folder / "homemade.yaml").write_text("name: other\n"),
            r"homemade\.yaml: its name is other, and ",
        ),
        (
            lambda folder: (folder / "homemade.yaml").write_text("strength: 1\n"),
            "its name is None, .*: write `name: homemade`",
        ),
        (lambda folder: (folder / "homemade.yaml").write_text("name: [\n"), r"homemade\.yaml: can't be read"),
        (lambda folder: (folder / "homemade.yaml").write_text("- homemade\n"), r"homemade\.yaml: its name is None"),
        (
            lambda folder: (folder / "rope.yaml").write_text("name: rope\n"),
            "its rope.yaml would hide conf/encoding/",
        ),
    ],
)
def test_a_folder_that_can_not_be_is_refused(folder, spoil, said):
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        settings_of("encoding=homemade", f"encoding_path={folder}")


def test_a_folder_that_is_not_there_is_refused(folder):
    with pytest.raises(ValueError, match=r"^encoding_path=/nowhere/at/all: there is no such folder; give the one that"):
        settings_of("encoding=homemade", "encoding_path=/nowhere/at/all")


def test_a_file_of_the_programs_own_must_have_its_name_too(tmp_path, monkeypatch):
    (tmp_path / "conf" / "encoding").mkdir(parents=True)
    monkeypatch.setattr(own, "CONF", tmp_path / "conf")
    (path := tmp_path / "conf" / "encoding" / "homemade.yaml").write_text("name: yours\n")
    with pytest.raises(
        ValueError, match=r"^conf/encoding/homemade\.yaml: its name is yours, and must be that of its file"
    ):
        own.check_name(path)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "encoding").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_the_programs_own_has_its_name(path):
    own.check_name(path)


# ------------------------------------------------------------------------------------------------------ from end to end

SMALL = ("experiment=smoke", "model=nano", "context=16", "training.tokens=2048", "logger=none", "tokenizer=byte")
SCORED = ("trainer=cpu", "eval.windows=12", "eval.targets=4", "eval.probes=[]")


def test_a_command_answers_in_a_sentence(program, folder, tmp_path_factory):
    done = program("encoding=homemade", "encoding_path=/nowhere", runs=tmp_path_factory.mktemp("runs"))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: encoding_path=/nowhere: there is no such folder; .*\n", done.stderr)


@pytest.mark.slow
def test_a_sweep_in_processes_its_report_and_scoring_again(program, folder, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    given = f"encoding_path={folder}"
    sweep = ("-m", *SMALL, *SCORED, "encoding=homemade,none", "sweep=demo", "hydra/launcher=processes", given)
    done = program(*sweep, runs=runs)
    assert done.returncode == 0, done.stderr
    assert "homemade" in (runs / "demo" / "report.md").read_text()
    (run,) = (runs / "demo").glob("homemade-s0-*")
    again = ("eval.lengths=[16]", f"run={run}")
    refused = program(*again, runs=runs, command=("-m", "eval"))
    assert refused.returncode == 1 and "that the command names, encoding_path=FOLDER" in refused.stderr
    done = program(*again, given, runs=runs, command=("-m", "eval"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert 256 in {row["context_length"] for row in rows}
    done = program(str(runs / "demo"), runs=runs, command=("-m", "scripts.report"))
    assert done.returncode == 0, done.stderr
    done = program(given, "--json", runs=runs, command=("-m", "scripts.encodings"))
    assert "homemade" in [row["name"] for row in json.loads(done.stdout)]


@pytest.mark.slow
def test_the_laws_are_a_command(program, folder):
    command = ("-m", "pytest", "tests/test_laws.py", "-k", "[homemade]", "-p", "no:cacheprovider")
    held = program("--encoding-path", str(folder), runs=None, command=command)
    assert held.returncode == 0 and re.search(r"\d\d passed", held.stdout), held.stdout
    formula = folder / f"{module_of(folder)}.py"
    formula.write_text(formula.read_text().replace("self.strength * root", "b * root"))
    broken = program("--encoding-path", str(folder), runs=None, command=command)
    assert broken.returncode == 1 and "test_a_distance_bias_depends_on_head_and_distance_alone" in broken.stdout
