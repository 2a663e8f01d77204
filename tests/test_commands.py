"""Every command that the README and docs show is one: in the slow suite the settings of
`python train.py` are held to fit, and all are run at small size.

python -m pytest tests/test_commands.py
python -m pytest tests/test_commands.py -m slow    # five minutes
"""

import ast
import re
import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf.schema import ROOT
from eval.record.identity import settings_of
from tests.texts import write_texts

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# ---------------------------------------------------------------------------------------------------------- as written


def written() -> dict[str, str]:
    """What shows commands: pages without their Python, comments of the yaml files, docstrings of the programs."""
    texts = {path: re.sub(r"```python.*?```", "", path.read_text(), flags=re.DOTALL) for path in PAGES}
    for path in (ROOT / "conf").rglob("*.yaml"):
        texts[path] = "\n".join(re.findall(r"#(.*)", path.read_text()))
    for path in (ROOT / "train.py", ROOT / "eval" / "__main__.py", *(ROOT / "scripts").glob("*.py")):
        texts[path] = ast.get_docstring(ast.parse(path.read_text())) or ""
    return {str(path.relative_to(ROOT)): text for path, text in texts.items()}


BARE = re.compile(r"""(?<![\w.@'"])[+~]*[\w.@]+=(?:\[|\w+\()[^\s`]*""")  # a bracket in an argument, and no quotes


@pytest.mark.parametrize(("text", "found"), [("a eval.lengths=[1]", 1), ("'encoding=glob(*)'", 0), ("a b=glob(*)", 1)])
def test_brackets_without_quotes_are_found(text, found):
    assert len(BARE.findall(text)) == found


def test_brackets_in_arguments_are_quoted_as_zsh_needs_it():
    assert not {name: found for name, text in written().items() if (found := BARE.findall(text))}


def test_the_first_commands_lead_to_the_environment_that_the_others_need():
    first = [
        line.partition("#")[0].split() for line in re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1].splitlines()
    ]
    assert [words[:2] for words in first[:3]] == [["git", "clone"], ["make", "run"], ["make", "shell"]]
    assert "source .venv/bin/activate" in README


def test_every_target_of_make_that_is_named_is_one():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named > {"run", "compare", "test"} and named <= {*targets}


def test_a_shell_of_make_finds_the_python_of_the_environment(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho this one")
    python.chmod(0o755)
    command = ["make", "-s", "-o", "setup", "shell", f"VENV={tmp_path / 'venv'}", "SHELL=/bin/sh"]
    done = subprocess.run(command, cwd=ROOT, input="python\n", capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "this one"


def test_every_page_of_docs_is_linked_from_the_readme_and_every_link_leads_to_a_file():
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
        assert not [link for link in links if not (page.parent / link).exists()], page
    linked = {*re.findall(r"\]\((docs/[^)#]+\.md)\)", README)}
    assert {str(page.relative_to(ROOT)) for page in PAGES[2:]} == linked


# ------------------------------------------------------------------------------------------------------- what they say


def commands(text: str) -> list[str]:
    """The commands of a page that begin with `python`: in blocks, one a line, and between backquotes."""
    text = re.sub(r"```python.*?```", "", text, flags=re.DOTALL).replace("\\\n", " ")
    lines = [line.strip() for line in re.findall(r"^(?:    )?(python .*)$", text, re.MULTILINE)]
    quoted = re.findall(r"`(python [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [re.sub(r"\s+", " ", each.partition("  #")[0]).strip() for each in [*lines, *quoted]]


def test_commands_are_found_in_blocks_in_lines_and_in_text():
    page = "a\n```sh\npython train.py x=1  # so\nmake run\n```\nand `python -m\neval run=a`\n\n    python b \\\n  c\n"
    page += "```python\npython = 1\n```\n"
    assert commands(page) == ["python train.py x=1", "python b c", "python -m eval run=a"]


SHOWN = sorted({each for page in PAGES for each in commands(page.read_text())})
TRAINING = [each for each in SHOWN if each.startswith("python train.py ") and "..." not in each]
OF_THE_READERS = {  # what the reader puts in: a setting, and what stands for it here
    "FILE_OR_FOLDER": str(ROOT / "docs"),
    "encoding=mine": "encoding=rope",
    "encoding=my_decay": "encoding=rope",
    "encoding_path=~/mypkg": "seed=0",
    "extension=slower extension.power=0.7": "extension=pi",
    "data=topics": "data=shakespeare",
    "data=first": "data=copy",
    "eval=confidence": "eval=default",
    "eval=last_token": "eval=default",
}


def singled(arguments: list[str]) -> list[str]:
    """The settings of the first job of a sweep."""
    first = []
    for override in OverridesParser.create().parse_overrides([each for each in arguments if "=" in each]):
        name = override.input_line.partition("=")[0]
        if not override.is_sweep_override():
            first.append(override.input_line)
        elif override.is_discrete_sweep() and "glob" not in override.input_line:
            first.append(f"{name}={next(iter(override.sweep_string_iterator()))}")
        else:
            first.append(f"{name}={'rope' if name == 'encoding' else '1e-3'}")
    return first


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAINING)
def test_the_settings_of_a_command_fit(command):
    for theirs, ours in OF_THE_READERS.items():
        command = command.replace(theirs, ours)
    arguments = [each for each in singled(shlex.split(command)[2:]) if not each.startswith(("init=", "hydra"))]
    if "init=" in command:  # which needs a parent
        arguments = [each for each in arguments if not each.startswith("extension")]
    if "experiment=extend" in command:  # whose arms but the first need it
        arguments = [each for each in arguments if not each.startswith("arm")] + ["arm=parent"]
    assert settings_of(*arguments)


# -------------------------------------------------------------------------------------------------------------- all run

SMALL = {  # what a command that says nothing else is run with
    "model": "nano",
    "context": "16",
    "training.tokens": "2048",
    "training.batch_size": "4",
    "eval.lengths": "[1,2]",
    "eval.windows": "12",
    "eval.targets": "4",
    "eval.tokens": "512",
    "eval.probes": "[]",
    "trainer": "cpu",
    "logger": "none",
    "seed": "0",
}
SWEPT = {  # of what an experiment sweeps over
    "compare": {"encoding": "none,rope"},
    "retrieval": {"encoding": "none,rope"},
    "extend": {"arm": "parent,yarn"},
    "layouts": {"encoding.parts.global.p": "0,1", "encoding.windows.local": "L/8", "model.num_layers": "4"},
}
FOLDERS = re.compile(r"runs/(?:\w+/)?(?:rope-(?:s0-)?(?:\.\.\.|1f2e3d)|my_decay-s0-\.\.\.)|(?<=run=)\.\.\.|\bRUN\b")
SWEEPS = re.compile(r"runs/(?:demo|mine|<sweep>|(?:wandb-)?SWEEP)|\bSWEEP\b")
ELSEWHERE = {  # what is not run here, and why
    "python -m scripts.<name>": "names all of them",
    "python train.py -m experiment=standard ... sweep=standard": "names others",
    "python -m eval": "names the module",
    "python -m scripts.report": "names the module",
    "python -m scripts.bank compare runs/mine": "tests/test_bank.py",
    "python -m scripts.bank fill seeds=0 hydra/launcher=two_jobs trainer.threads=1": "tests/test_bank.py",
    "python -m scripts.bank gather runs/standard": "tests/test_bank.py",
    "python -m scripts.bank write": "tests/test_bank.py",
    "python -m scripts.benchmark loop": "tests/test_benchmark.py",
    "python -m scripts.benchmark peers": "tests/test_benchmark.py",
    "python -m scripts.benchmark quick": "tests/test_benchmark.py",
    "python -m scripts.dashboard [--project trainshort] [--entity NAME]": "tests/test_dashboard.py",
    "python -m scripts.report SWEEP evaluator=RUN key_gain=0.25 key_loss=2": "tests/test_key_tokens.py",
    "python -m scripts.encodings --write": "tests/test_readme.py",
    "python -m scripts.gpu_check FOLDER steps=gpt2-flex,tiny,long-65536,long-262144": "needs a GPU",
    "python -m scripts.gpu_check FOLDER": "needs a GPU",
    "python -m pytest -m gpu": "needs a GPU",
    "python train.py trainer=gpu": "needs a GPU",
    "python train.py trainer=ddp trainer.devices=8": "needs eight",
    "python train.py trainer=fsdp trainer.devices=8": "needs eight",
}


def needs_more(command: str) -> bool:
    return command in ELSEWHERE or any(each in command for each in ("slurm", "optuna", "wikitext2"))


def made_small(command: str) -> list[str]:
    """The arguments of `python train.py`: of a sweep two encodings at most and one seed, a small model."""
    arguments, sweep = shlex.split(command)[2:], "-m" in command.split()
    given = {each.partition("=")[0]: each for each in arguments if "=" in each}
    kept = [each for each in arguments if "=" not in each]
    first = dict(each.split("=", 1) for each in singled(arguments))
    for name, each in given.items():
        two = name in ("encoding", "arm") and "glob" not in each and "," in each
        kept.append(f"{name}={','.join(each.partition('=')[2].split(',')[:2])}" if two else f"{name}={first[name]}")
    experiment = first.get("experiment", "")
    more = SMALL | (SWEPT.get(experiment, {}) if sweep else {})
    more |= {"model.num_layers": "4"} if first.get("encoding") in ("swan", "gpt_oss", "layers") else {}
    if experiment == "tasks" or "init" in first:
        more = {key: value for key, value in more.items() if key not in ("model", "context")}
    elif first.get("experiment") == "standard":
        more = {key: value for key, value in more.items() if key != "model"}
    return kept + [f"{key}={value}" for key, value in more.items() if key not in first]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the commands are about: a run, a sweep, encodings of one's own. It is their home, too."""
    folder = tmp_path_factory.mktemp("place")
    own = folder / "mypkg"
    own.mkdir()
    for page, name in (("adding", r"\S*/(mine\.\w+)"), ("own_encoding", r"~/mypkg/(\S+)")):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for file, code in re.findall(rf"`{name}`:\n\n```\w+\n(.*?)```", text, re.DOTALL):
            (own / file).write_text(code.replace("model.encodings.mine.", "mine."))
    assert {path.name for path in own.iterdir()} > {"mine.py", "mine.yaml", "decay_bias.py", "my_decay.yaml"}
    write_texts(folder / "texts")
    return folder


@pytest.fixture(scope="module")
def carried_out(start, place):
    """Carries a command out there; what it says. Its time is bounded, its exit code 0."""

    def run(command, *arguments):
        done = start(*arguments, runs="runs", command=command, cwd=place, HOME=str(place), PYTHONPATH=str(ROOT))
        with done as process:
            stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr[-2000:]
        return stdout

    return run


@pytest.fixture(scope="module")
def runs(carried_out, place):
    """Its run of rope, and its sweep."""
    sized = [f"{key}={value}" for key, value in SMALL.items() if key != "seed"]
    carried_out((str(ROOT / "train.py"),), *sized, "encoding=rope", "runs=runs")
    carried_out((str(ROOT / "train.py"),), "-m", *sized, "encoding=none,rope", "sweep=compare", "runs=runs")
    own = ("encoding=my_decay", "encoding_path=~/mypkg", "runs=runs")
    carried_out((str(ROOT / "train.py"),), *sized, *own)
    return {name: next((place / "runs").glob(f"{name}-s0-*")).name for name in ("rope", "my_decay")}


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in SHOWN if not needs_more(each)])
def test_a_command_runs(command, carried_out, place, runs):
    own = next((name for name in runs if name in command), "rope")
    shown = FOLDERS.sub(f"runs/{runs[own]}", SWEEPS.sub("runs/compare", command))
    shown = shown.replace("FILE_OR_FOLDER", "texts")
    for theirs, ours in OF_THE_READERS.items():
        if not theirs.startswith("encoding"):  # those of one's own are there
            shown = shown.replace(theirs, ours)
    if "encoding_path" not in shown:
        shown = re.sub(r"encoding=mine\b", "encoding=mine encoding_path=~/mypkg", shown)
    if shown.startswith("python train.py"):
        said = carried_out((str(ROOT / "train.py"),), *made_small(shown.replace("~", str(place))), "runs=runs")
    else:
        module, *arguments = shlex.split(shown.replace("~", str(place)))[2:]
        if module == "pytest":
            arguments = [str(ROOT / each) if each.startswith("tests/") else each for each in arguments]
        said = carried_out(("-m", module), *arguments)
    assert said.strip()


def test_what_is_not_run_is_shown():
    assert {*ELSEWHERE} <= {*SHOWN}
    assert all((ROOT / where).exists() for where in ELSEWHERE.values() if where.startswith("tests/"))
