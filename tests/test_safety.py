"""Nothing that a run reads can run code, and no name leads out of the runs' folder.

python -m pytest tests/test_safety.py
"""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from conf.schema import check_names
from conf.typed import plain
from eval.record.files import write_json
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from model.encodings import Shape, build_encoding
from model.extensions import build_extension
from model.training.checkpoint import SCHEMA, AtomicCheckpointIO, load_weights
from train import train

SMOKE = ["experiment=smoke", "training.tokens=4096", "eval.windows=12", "eval.targets=8"]


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_bomb_goes_off_where_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark"))).close()
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("load", [load_weights, AtomicCheckpointIO().load_checkpoint])
def test_a_checkpoint_runs_no_code(tmp_path, load):
    torch.save({"trainshort_schema": SCHEMA, "state_dict": Bomb(tmp_path / "mark")}, tmp_path / "bomb.ckpt")
    with pytest.raises(ValueError, match=r"bomb\.ckpt"):
        load(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "mark").exists()


def test_stored_losses_run_no_code(tmp_path):
    np.savez(tmp_path / "losses.npz", losses=np.array([Bomb(tmp_path / "mark")], dtype=object))
    with pytest.raises(ValueError, match=r"losses\.npz is damaged"):
        RunFolder(tmp_path).losses  # noqa: B018
    assert not (tmp_path / "mark").exists()


FOREIGN = [
    "os.system",
    "subprocess.Popen",
    "model.encodings.importlib.import_module",
    "model.training.checkpoint.Checkpoint",
    "rope",
]


@pytest.mark.parametrize("target", FOREIGN)
def test_a_config_makes_nothing_but_encodings_and_extensions(target):
    shape = Shape(dim=16, num_heads=2, num_layers=1, context=8)
    with pytest.raises(ValueError, match="_target_"):
        build_encoding({"_target_": target, "name": "x"}, shape)
    with pytest.raises(ValueError, match="_target_"):
        build_encoding({"_target_": "model.encodings.randomized.Randomized", "inner": {"_target_": target}}, shape)
    with pytest.raises(ValueError, match="_target_"):
        build_extension({"_target_": target, "name": "x"})


SWEEPS = [("sweep", name) for name in ("../other", "/other", "a/../../b")]
RUNS = [("run_id", name) for name in ("../rope", "a/b", "..", "")]


@pytest.mark.parametrize(("key", "name"), SWEEPS + RUNS)
def test_a_name_that_leads_out_of_the_runs_folder_is_refused(key, name):
    with pytest.raises(ValueError, match=f"{key}="):
        check_names(**{"run_id": "rope-s0-123456", "sweep": None, key: name})
    with pytest.raises(ValueError, match=f"{key}="):
        RunFolder.of(replace(settings_of(), **{key: name}))


def test_plain_names_are_taken():
    check_names("rope-s0-123456", None)
    check_names("rope-s0-123456", "demo/tuning")


@pytest.mark.parametrize("name", ["${oc.env:HOME}", "${run_id:}", "${oc.decode:'1'}", "x${seed}"])
def test_a_config_that_is_read_back_resolves_nothing(tmp_path, name):
    values = plain(settings_of())
    values["encoding"]["name"] = name
    write_json(tmp_path / "config.json", values)
    with pytest.raises(ValueError, match=r"config\.json can't be read: .*an interpolation"):
        RunFolder(tmp_path).settings  # noqa: B018


def test_an_encodings_name_cannot_lead_out_of_the_runs_folder(composed, tmp_path):
    with pytest.raises(ValueError, match="run_id="):
        train(composed(*SMOKE, "encoding.name=../../escaped", f"runs={tmp_path}/a/b"))
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_sweep_that_leads_out_of_the_runs_folder_ends_before_anything_is_written(program, tmp_path):
    done = program("-m", *SMOKE, "sweep=../escaped", "seed=0,1", runs=tmp_path / "runs")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: sweep='../escaped'")
    assert not (tmp_path / "escaped").exists()
