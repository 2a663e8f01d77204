"""From one device to several, from one job to a cluster: the losses stay the same. Two CPU processes stand for GPUs.

python -m pytest tests/test_growing.py            # data parallel, configurations, refusals
python -m pytest tests/test_growing.py -m slow    # sharded, resumed, and the launchers
"""

import csv
import json
import signal
import time

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from eval.record.folder import RunFolder
from eval.record.identity import register_names
from eval.record.jobs import check_devices
from model.training.checkpoint import checkpoints, load_weights
from tests.conftest import ROOT
from train import train

SMOKE = ["experiment=smoke", "training.tokens=8192", "training.log_every=2", "eval.windows=12", "eval.targets=8"]
EXACT = [*SMOKE, "trainer.accelerator=cpu", "trainer.precision=32-true"]
NOISE = 2e-6  # float32: gradients are summed in another order


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def alone(composed, runs) -> RunFolder:
    """The run on one device."""
    settings = composed(*EXACT, f"runs={runs}")
    train(settings)
    return RunFolder.of(settings)


def curve(folder: RunFolder, name: str) -> list[float]:
    with open(folder.path / "curve.csv") as file:
        return [float(point[name]) for point in csv.DictReader(file) if point[name]]


def assert_same_losses(found: RunFolder, expected: RunFolder) -> None:
    for name in ("loss", "val_loss", "grad_norm"):
        assert curve(found, name) == pytest.approx(curve(expected, name), rel=NOISE)
    for ours, theirs in zip(found.results["rows"], expected.results["rows"], strict=True):
        assert ours["nats"] == pytest.approx(theirs["nats"], rel=NOISE)
        for name in ("targets_id", "tokens", "bytes", "windows"):
            assert ours[name] == theirs[name]
    weights, expected_weights = (load_weights(checkpoints(folder.checkpoints)[0]) for folder in (found, expected))
    assert weights.keys() == expected_weights.keys()
    assert {key: value.shape for key, value in weights.items()} == {k: v.shape for k, v in expected_weights.items()}


def only(runs) -> RunFolder:
    (folder,) = runs.glob("*-s0-*")
    return RunFolder(folder)


def test_two_devices_with_the_same_global_batch_give_the_losses_of_one(program, tmp_path, alone):
    done = program(*EXACT, "trainer=ddp", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training on") == 1  # the second process is silent
    assert_same_losses(only(tmp_path), alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_devices_with_sharded_weights_give_the_losses_of_one(program, tmp_path, alone):
    done = program(*EXACT, "trainer=fsdp", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_losses(only(tmp_path), alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_on_two_devices_stopped_by_a_signal_goes_on(start, program, tmp_path, alone, strategy):
    command = [*EXACT, f"trainer={strategy}", "training.checkpoint_every=0.1"]
    process = start(*command, runs=tmp_path)
    while process.poll() is None and not list(tmp_path.glob("*/checkpoints/*.ckpt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 128 + signal.SIGTERM), errors
    done = program(*command, runs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_losses(only(tmp_path), alone)


@pytest.mark.parametrize("settings", [["trainer=ddp"], ["trainer=fsdp"], ["trainer.num_nodes=2"]])
def test_several_devices_inside_a_multirun_are_refused_with_the_remedy(composed, settings):
    with pytest.raises(ValueError, match=r"trainer\.devices=1.*without -m"):
        check_devices(composed(*settings), multirun=True)
    check_devices(composed(*settings), multirun=False)


def test_several_devices_inside_a_choice_of_learning_rates_are_refused(composed):
    with pytest.raises(ValueError, match="without tuning"):
        check_devices(composed("experiment=fair", "trainer=ddp"), multirun=False)


@pytest.mark.parametrize("launcher", ["slurm", "submitit_slurm", "submitit_local", "processes", "two_jobs", "basic"])
@pytest.mark.parametrize("experiment", [None, "compare"])
def test_every_launcher_composes(launcher, experiment):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    register_names()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = [f"hydra/launcher={launcher}", "sweep=demo", *([f"experiment={experiment}"] if experiment else [])]
        cfg = compose("train", overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    target = cfg.hydra.launcher._target_
    assert target.endswith("SlurmLauncher") == ("slurm" in launcher)
    if launcher == "slurm":
        assert cfg.hydra.launcher.gpus_per_node == cfg.trainer.devices
        assert cfg.hydra.launcher.max_num_timeout > 0  # a job that meets its limit is queued again


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", ["processes", "submitit_local"])
def test_a_sweep_runs_its_jobs_through_a_launcher(program, tmp_path, launcher):
    command = ["-m", f"hydra/launcher={launcher}", *SMOKE, "sweep=demo", "encoding=none,alibi"]
    done = program(*command, runs=tmp_path, timeout=800)
    assert done.returncode == 0, done.stderr
    states = [json.loads(path.read_text())["state"] for path in (tmp_path / "demo").glob("*-s0-*/status.json")]
    assert states == ["finished", "finished"]
    assert (tmp_path / "demo" / "report.md").stat().st_size > 0
