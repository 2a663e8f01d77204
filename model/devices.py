"""What a process knows of the machine it runs on: its place among those of the run, that memory ran out. Light."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
