"""What a process knows of the machine it runs on: its place among those of the run, the cores that are free, what
computes in bf16, that memory ran out. Light."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUSY = 0.5  # cores kept busy by others, from which on a machine counts as shared
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of computing a period, and the period's
LOOK = 0.2  # seconds of a first look at the load
NO_MEMORY = ("can't allocate memory", "could not create a primitive", "std::bad_alloc", "overflow")  # PyTorch says


def rank() -> int:
    """This process' place among those of a run on several devices, as who started it says; 0 is the first, or only."""
    return max(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def uses_gpu(accelerator: str) -> bool:
    """Whether a run with this accelerator setting trains on CUDA."""
    if accelerator != "auto":
        return accelerator in ("gpu", "cuda")
    import torch

    return torch.cuda.is_available()


def count_gpus() -> int:
    """The GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count()


def bf16_unit(gpu: bool) -> str | None:
    """What the device multiplies bf16 numbers with, by name; None where it would emulate them, which is slow."""
    import torch

    if gpu:
        return torch.cuda.get_device_name() if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return "AVX-512 BF16"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("Features") and "bf16" in line.split():
                return "Arm's bf16"
    return None


def bf16_kernels() -> bool:
    """Whether torch multiplies matrices of bf16 numbers on this processor by kernels, and not by a plain loop."""
    import torch

    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def available_cores() -> int:
    """The cores that this process may use: those that it is bound to, no more than its control group's quota."""
    cores = len(_own_cores())
    with suppress(OSError, ValueError):  # no quota, or another system
        quota, period = QUOTA.read_text(encoding="utf-8").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _own_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


class Load:
    """What others take of the cores that this process may use, those left out that were told to be nice. Linux says it;
    elsewhere it is unknown, and zero."""

    def __init__(self):
        self._then = self._now()

    def others(self) -> float:
        """Cores kept busy by others since the last look, on average."""
        then, self._then = self._then, self._now()
        seconds, busy, own = (now - before for now, before in zip(self._then, then, strict=True))
        return max(0.0, (busy - own) / seconds) if seconds > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """The time, the seconds that these cores have worked, and those that they have worked for this process."""
        busy, own = 0, _own_cores()
        with suppress(OSError):
            for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
                name, *ticks = line.split()
                if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in own:
                    user, _nice, system, _, _, interrupts, soft, *_ = map(int, ticks)
                    busy += user + system + interrupts + soft
        return time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()


def wait_by_load(threads: int | None) -> None:
    """Chooses how threads wait for one another, before torch is loaded: spinning, as OpenMP does, or asleep where
    others keep cores busy, since a thread that spins takes its core from the one that it waits for. Results don't
    depend on it (docs/speed.md has the figures). threads: None is one a core."""
    if "torch" in sys.modules or threads == 1:
        return
    load = Load()
    time.sleep(LOOK)
    if load.others() + (threads or available_cores()) >= available_cores() + BUSY:
        wait_asleep()


def wait_asleep() -> None:
    """Threads that wait do so asleep, from when torch is loaded on, where the environment doesn't say otherwise."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "0")


def waits_asleep() -> bool:
    """Whether threads that wait for one another do so asleep, as the environment says."""
    return os.environ.get("GOMP_SPINCOUNT") == "0" or os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out; PyTorch on CPU, and oneDNN below it, raise a plain RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in NO_MEMORY)
    )


@contextmanager
def within_memory(remedy: str) -> Iterator[None]:
    """Raises MemoryError with what to do, where memory runs out inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise MemoryError(f"out of memory {remedy}") from error
