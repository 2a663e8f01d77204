"""The sweeps of W&B's that are shipped: what an agent would run of them is a command that there is, and a run of it is
the agent's.

python -m pytest tests/test_wandb_sweep.py
"""

import pytest
import wandb
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config
from wandb.sdk.lib.config_util import save_config_file_from_dict

from conf.schema import CONF, ROOT
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from eval.record.objective import objective
from eval.record.tracking import ENCODING, ID_FILE, OBJECTIVE, track_run
from tests.wandb_records import offline_runs, records, summary

FILES = sorted(CONF.glob("wandb_sweep*.yaml"))
SWEEP, RUN = "ab12cd34", "of-an-agent"


@pytest.fixture
def agent(monkeypatch, tmp_path):
    """The variables that an agent gives to a run of these parameters."""

    def start(parameters):
        given = {"WANDB_SWEEP_ID": SWEEP, "WANDB_RUN_ID": RUN, "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "point.yaml")}
        save_config_file_from_dict(given["WANDB_SWEEP_PARAM_PATH"], {k: {"value": v} for k, v in parameters.items()})
        for name, value in {**given, "WANDB_MODE": "offline"}.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # of what an earlier test has set up in this process, which reads the variables once

    yield start
    wandb.teardown()


def points(parameters):
    """Parameters of runs, in which each value that may be chosen, or both ends of what it lies between, comes once."""
    choices = {
        k: [v[of] for of in ("value", "min", "max") if of in v] + v.get("values", []) for k, v in parameters.items()
    }
    return [
        {name: values[n % len(values)] for name, values in choices.items()}
        for n in range(max(map(len, choices.values())))
    ]


def words(file, point):
    """The command that an agent runs: as W&B's Agent puts it together."""
    parts = create_sweep_command(list(load_sweep_config(str(file))["command"]))
    filled = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    filled |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [load_sweep_config(str(file))["program"]]}
    return [word for part in parts for word in (filled[part[2:-1]] if part.startswith("${") else [part])]


def test_there_are_a_grid_and_a_search():
    assert {load_sweep_config(str(file))["method"] for file in FILES} == {"grid", "bayes"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_parameter_of_a_shipped_sweep_is_a_setting(file, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
    sweep = load_sweep_config(str(file))
    assert sweep.get("metric", {}).get("name", OBJECTIVE) == OBJECTIVE
    for point in points(sweep["parameters"]):
        *start, program = (command := words(file, point))[:3]
        assert start == ["/usr/bin/env", "python"] and (ROOT / program).exists()
        settings = settings_of(*command[3:])
        assert settings.sweep == f"wandb-{SWEEP}"
        for name, value in point.items():
            group, _, key = name.partition(".")
            found = getattr(settings, group)
            assert (getattr(found, key) if key else found["name"] if group == "encoding" else found) == value


def test_a_run_under_an_agent_has_its_id_and_keeps_its_settings(agent, tmp_path):
    agent({"encoding": "rope", "training.lr": 0.002})
    settings = settings_of(
        "encoding=rope", "training.lr=0.002", "sweep=mine", "logger.project=ours", f"runs={tmp_path}"
    )
    with track_run(settings) as tracker:
        assert tracker.run.id == RUN == (RunFolder.of(settings).path / ID_FILE).read_text()
        config = dict(tracker.run.config)
    assert config["encoding"] == config[ENCODING] == config["encoding.name"] == "rope"
    assert config["encoding.base"] == settings.encoding["base"] and config["training.lr"] == 0.002
    assert config["training"]["lr"] == 0.002 and "training.tokens" not in config


SMALL = [
    "experiment=smoke",
    "logger=auto",
    "tokenizer=byte",
    "training.tokens=2048",
    "eval.windows=12",
    "eval.targets=8",
]
SMALL += ["eval.lengths=[1,2]", "eval.protocols=[fixed_targets]", "eval.probes=[]", "eval.retrieval=[]"]


@pytest.mark.slow  # 10 s each
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_an_agent_runs_is_a_run_of_the_sweep(file, agent, program, tmp_path):
    point = points(load_sweep_config(str(file))["parameters"])[-1]
    agent(point)
    done = program(*SMALL, *words(file, point)[3:], runs=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (RunFolder(path.parent) for path in (tmp_path / f"wandb-{SWEEP}").glob("*/results.json"))
    (record,) = offline_runs(tmp_path, RUN)
    assert (folder.path / ID_FILE).read_text() == RUN == records(record)["run"][0]["run_id"]
    assert records(record)["run"][0]["sweep_id"] == SWEEP
    longest = max(folder.results["rows"], key=lambda row: ("control" not in row, row["context_length"]))
    assert summary(record)[OBJECTIVE] == pytest.approx(longest["nats"]) == objective(folder)
