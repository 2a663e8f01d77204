"""What is chosen for the machine that is there: the precision, the cores, how threads wait.

python -m pytest tests/test_devices.py
"""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from conf.schema import ROOT
from eval.record.identity import settings_of
from eval.record.provenance import machine
from model import devices
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.encodings.logn import LogN
from model.training import meter
from model.training.meter import Meter
from model.training.trainer import choose_precision, prepare_process
from model.transformer import Transformer


@pytest.mark.parametrize(
    ("amx", "avx512", "chosen", "reason"),
    [
        (True, True, "bf16-mixed", "by AMX"),
        (False, True, "bf16-mixed", "by AVX-512 BF16"),
        (False, False, "32-true", "nothing here computes in bf16"),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_a_unit_for_it(monkeypatch, tmp_path, amx, avx512, chosen, reason):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512)
    assert choose_precision(settings_of("trainer=cpu").trainer) == (chosen, reason)
    assert choose_precision(settings_of("trainer=cpu", "trainer.precision=32").trainer) == ("32-true", "as set")


@pytest.mark.parametrize(("unit", "said"), [("AVX-512 BF16", "AVX512, AVX-512 BF16"), (None, "AVX512")])
def test_a_machine_is_told_by_its_instructions_too(monkeypatch, unit, said):
    """Processors of one name have had three kinds of them."""
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr("eval.record.provenance.bf16_unit", lambda gpu: unit)
    assert machine(torch.device("cpu"))["instructions"] == said


@pytest.mark.parametrize("kernels", [True, False])
def test_where_products_in_bf16_go_through_float32_the_reason_says_so(monkeypatch, kernels):
    monkeypatch.setattr("model.training.trainer.bf16_kernels", lambda: kernels)
    said = "as set" if kernels else "as set; products go through float32, and are rounded"
    assert choose_precision(settings_of("trainer=cpu", "trainer.precision=bf16").trainer) == ("bf16-mixed", said)
    assert choose_precision(settings_of("trainer=cpu", "trainer.precision=32").trainer) == ("32-true", "as set")


def test_a_process_is_prepared_for_products_in_bf16_where_torch_has_no_kernels():
    """In another process, since what is prepared stays so."""
    code = (
        "import torch\n"
        "from conf.quick import quick_imports\n"
        "with quick_imports():\n"
        "    from model.training import trainer\n"
        "for there in (True, False):\n"
        "    trainer.bf16_kernels = lambda: there\n"
        "    trainer.prepare_process(1)\n"
        "    print('kernels.py' in str(torch.library.get_kernel('aten::mm', 'CPU')))\n"
        "a = torch.randn(64, 64, dtype=torch.bfloat16)\n"
        "print(torch.equal(a @ a, (a.float() @ a.float()).bfloat16()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 8)]
)
def test_cores_are_those_that_the_process_may_use(monkeypatch, tmp_path, quota, cores):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(devices, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    assert devices.available_cores() == cores
    monkeypatch.setattr(devices, "QUOTA", tmp_path / "none")
    assert devices.available_cores() == 8


@pytest.mark.parametrize(("name", "capturable"), [("rope", True), ("t5", True), ("randomized", False)])
def test_a_model_is_recorded_only_where_all_of_its_encoding_can_be(name, capturable):
    shape = Shape(dim=16, num_heads=2, num_layers=1, context=16)
    encoding = build_encoding(encoding_config(name), shape)
    assert Transformer(29, encoding).capturable == Transformer(29, LogN(shape, encoding)).capturable == capturable


def test_threads_are_no_more_than_the_cores(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr("model.training.trainer.available_cores", lambda: 2)
    prepare_process(None)
    prepare_process(5)  # as set
    assert chosen == [2, 5]


def test_a_busy_process_is_seen_and_ones_own_work_is_not():
    load = devices.Load()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.5)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:  # one's own
            pass
        others = load.others()
        busy.kill()
    assert 0.2 < others < len(os.sched_getaffinity(0)) + 0.2
    assert load.others() >= 0


def test_what_others_keep_busy_is_all_that_is_busy_less_ones_own_work(monkeypatch):
    moments = iter([(10.0, 100.0, 30.0), (14.0, 107.0, 33.0), (16.0, 108.0, 34.0)])  # time, busy, own
    monkeypatch.setattr(devices.Load, "_now", staticmethod(lambda: next(moments)))
    load = devices.Load()
    assert (load.others(), load.others()) == (1.0, 0.0)  # (7 - 3) / 4, then (1 - 1) / 2


@pytest.mark.parametrize(
    ("others", "threads", "asleep"), [(0.1, None, False), (1.0, None, True), (1.0, 1, False), (3.0, 2, True)]
)
def test_threads_wait_asleep_where_cores_are_shared(monkeypatch, others, threads, asleep):
    monkeypatch.setattr(devices.Load, "others", lambda self: others)
    monkeypatch.setattr(devices, "available_cores", lambda: 4)
    monkeypatch.setattr(devices, "LOOK", 0)
    monkeypatch.delitem(sys.modules, "torch")
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    devices.wait_by_load(threads)
    assert devices.waits_asleep() == asleep
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # a user's choice stays
    devices.wait_by_load(threads)
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


def test_a_training_that_others_slow_down_says_so_once(monkeypatch, capsys):
    trainer, module = SimpleNamespace(is_global_zero=True), SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(meter, "waits_asleep", lambda: False)
    watching = Meter(settings_of())
    watching._load = SimpleNamespace(others=lambda: 0.0)
    watching._look_around(trainer, module, 60.0)
    assert not capsys.readouterr().out
    watching._load = SimpleNamespace(others=lambda: 1.2)
    for seconds in (0.1, 60.0, 60.0):
        watching._look_around(trainer, module, seconds)
    assert capsys.readouterr().out.count("others keep 1.2 of") == 1
