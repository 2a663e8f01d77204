"""From a run's settings to its transformer, encoding and all: for training and for scoring."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from conf.schema import Settings
from model.devices import uses_gpu, within_memory
from model.encodings import PositionEncoding, Shape, build_encoding
from model.transformer import Transformer

Separators = Mapping[str, tuple[int, ...]]


def build_transformer(settings: Settings, vocab_size: int, separators: Separators) -> Transformer:
    """The untrained transformer of a run. Raises ValueError for what can't be built."""
    sizes = settings.model
    shown = f"model.dim={sizes.dim}, model.num_layers={sizes.num_layers}, context={settings.context}"
    with within_memory(f"with {shown} and a vocabulary of {vocab_size:,} tokens: choose a smaller model"):
        return _around(_encoding(settings, separators), settings, vocab_size)


def check_model(settings: Settings) -> None:
    """Raises ValueError for a model that can't be built or trained here, and MemoryError for an encoding too large,
    before any text is read: the weights of all but its encoding take no memory."""
    _check_memory(settings)
    most = free_memory() // 4  # with each weight that is trained come its gradient and its two moments
    given = ", ".join(f"encoding.{key}={value}" for key, value in settings.encoding.items() if key[0] != "_")
    remedy = f"with context={settings.context}, {given}: lower what sets its size"
    with _no_more_than(most), within_memory(remedy):
        encoding = _encoding(settings, separators={"line": (0,), "sentence": (1,)})
    with torch.device("meta"):  # one block is as all are
        _around(PositionEncoding(replace(encoding.shape, num_layers=1)), settings, vocab_size=2)


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
def _no_more_than(more: int) -> Iterator[None]:
    """Inside, what takes so many bytes more fails in Python: where none are free, the system would end the process."""
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    old, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = [limit for limit in (used + more, old, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(most), hard))
    try:
        yield
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
