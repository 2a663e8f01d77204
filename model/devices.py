"""What a process knows of the machine it runs on: its place among those of the run, that memory ran out. Light."""

from __future__ import annotations

import os


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


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out; PyTorch's allocator on CPU raises a plain RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
