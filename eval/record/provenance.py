"""What a number needs to be believed: which program, on which machine, with which data and settings."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from conf.schema import Settings
from data.module import WindowDataModule
from model.devices import bf16_unit, waits_asleep
from model.training.language_model import LanguageModel
from model.training.meter import Meter
from model.training.trainer import choose_precision

PACKAGES = ("torch", "lightning", "datasets", "tokenizers", "hydra-core", "numpy")


def describe_run(settings: Settings, data: WindowDataModule, module: LanguageModel, meter: Meter) -> dict[str, Any]:
    """The fields of results.json beside its rows: identity, provenance, parameters, what its layers see,
    training."""
    precision = choose_precision(settings.trainer)
    return {
        "run_id": settings.run_id,
        "sweep": settings.sweep,
        "encoding": settings.encoding["name"],
        "seed": settings.seed,
        "context": settings.context,
        "corpus": settings.data["name"],
        "corpus_hash": data.corpus_hash,
        "tokenizer_hash": data.tokenizer_hash,
        "commit": commit(),
        "machine": machine(module.device),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "weights_hash": weights_hash(module.transformer),
        "parameters": module.transformer.count_parameters(),
        "sees": module.transformer.sees,
        "shifts": module.transformer.shifts,
        "training": {**meter.summary(), "precision": precision.name, "precision_reason": precision.reason},
    }


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of all that a module's state holds, hexadecimal."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def commit() -> str | None:
    """The checkout's commit, with "+" where files differ from it; None outside a git checkout."""
    here = Path(__file__).parents[2]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def machine(device: torch.device) -> dict[str, Any]:
    """Device, processor and its vector instructions, cores, threads and how they wait, how float32 numbers are
    multiplied."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": processor(),
        "instructions": ", ".join(filter(None, [torch.backends.cpu.get_cpu_capability(), bf16_unit(gpu=False)])),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "waiting": "asleep" if waits_asleep() else "spinning",
        "float32_products": torch.get_float32_matmul_precision(),
        "system": platform.platform(),
    }


def processor() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
