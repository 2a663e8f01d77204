"""From a run's settings to its transformer, encoding and all: for training and for scoring."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from conf.schema import Settings
from model.devices import out_of_memory, uses_gpu, within_memory
from model.encodings import PositionEncoding, Shape, build_encoding
from model.transformer import Transformer

Separators = Mapping[str, tuple[int, ...]]


def build_transformer(settings: Settings, vocab_size: int, separators: Separators) -> Transformer:
    """The untrained transformer of a run. Raises ValueError for what can't be built."""
    with _fitting(settings, vocab_size):
        return _around(_encoding(settings, separators), settings, vocab_size)


def check_model(settings: Settings) -> None:
    """Raises ValueError for a model that can't be built here, or not trained, before any text is read: the weights of
    all but its encoding take no memory."""
    _check_memory(settings)
    with _within_memory(settings):
        encoding = _encoding(settings, separators={"line": (0,), "sentence": (1,)})
    with torch.device("meta"):
        _around(encoding, settings, vocab_size=2)


def _fitting(settings: Settings, *vocab_size: int) -> AbstractContextManager[None]:
    """Raises MemoryError, with the remedy, where what is built inside does not fit into memory."""
    sizes = settings.model
    shown = f"model.dim={sizes.dim}, model.num_layers={sizes.num_layers}, context={settings.context}"
    shown += "".join(f" and a vocabulary of {size:,} tokens" for size in vocab_size)
    return within_memory(f"while the model was built, with {shown}: choose smaller ones")


def free_memory() -> int:
    """Bytes that this machine can still give a process."""
    (line,) = (
        line
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("MemAvailable:")
    )
    return int(line.split()[1]) * 1024


def _check_memory(settings: Settings) -> None:
    """Raises ValueError where the blocks' weights, or what a micro-batch leaves there, exceed the memory."""
    model, training, free = settings.model, settings.training, free_memory()
    weights = model.num_layers * model.dim**2 * (4 + 2 * model.mlp_ratio)
    kept = training.batch_size // settings.shares * settings.context * model.num_layers * model.dim
    if 4 * (weights + (0 if uses_gpu(settings.trainer.accelerator) else kept)) > free:  # bytes, in float32
        raise ValueError(
            f"model.dim={model.dim}, model.num_layers={model.num_layers}, model.mlp_ratio={model.mlp_ratio}, "
            f"context={settings.context}, training.batch_size={training.batch_size}: {weights:.2g} weights, and "
            f"{kept:.2g} values of a micro-batch, don't fit into the memory that is free here, {free / 1e9:.3g} GB; "
            "lower them, or raise training.accumulate"
        )


@contextmanager
def _within_memory(settings: Settings) -> Iterator[None]:
    """Raises ValueError, naming the encoding's settings, where what is made of them takes more memory than is free:
    the system would end the process."""
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    old, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = [limit for limit in (used + free_memory(), old, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(most), hard))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (out_of_memory(error) or "overflow" in str(error)):
            raise
        given = ", ".join(f"encoding.{key}={value}" for key, value in settings.encoding.items() if key[0] != "_")
        raise ValueError(
            f"context={settings.context}, {given}: an encoding of this size doesn't fit into the memory that is free "
            "here; lower what sets its size"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (old, hard))


def _encoding(settings: Settings, separators: Separators) -> PositionEncoding:
    sizes = settings.model
    shape = Shape(sizes.dim, sizes.num_heads, sizes.num_layers, settings.context, separators)
    return build_encoding(settings.encoding, shape, settings.seed)


def _around(encoding: PositionEncoding, settings: Settings, vocab_size: int) -> Transformer:
    sizes = settings.model
    rest = {"mlp": sizes.mlp, "mlp_ratio": sizes.mlp_ratio, "dropout": sizes.dropout}
    return Transformer(vocab_size, encoding, **rest, seed=settings.seed)
