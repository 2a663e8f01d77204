"""From a run's settings to its transformer, encoding and all: for training and for scoring."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf.schema import BLOCK_OPTIONS, Settings
from model.block import BlockOptions, require_softmax
from model.devices import uses_gpu, within_memory
from model.encodings import PositionEncoding, Shape, build_encoding, evaluated
from model.extensions import build_extension, extension_config
from model.transformer import Transformer

Separators = Mapping[str, tuple[int, ...]]
Weights = Mapping[str, Tensor]


def build_transformer(
    settings: Settings, vocab_size: int, separators: Separators, parent: Weights | None = None
) -> Transformer:
    """The untrained transformer of a run; of a second stage with the weights of its parent, where they are given. It
    has the encoding that the run is trained with, which may be one under an extension.

    Raises ValueError for what can't be built, or can't take the parent's weights.
    """
    sizes = settings.model
    shown = f"model.dim={sizes.dim}, model.num_layers={sizes.num_layers}, context={settings.context}"
    with within_memory(f"with {shown} and a vocabulary of {vocab_size:,} tokens: choose a smaller model"):
        model = _around(_encoding(settings, separators), settings, vocab_size)
        if parent is not None:
            _load(model, parent, settings)
        if settings.extension:
            model.encoding = _extended(model.encoding, **settings.extended[-1])
        model.trained_length = settings.trained_length
        return model


def _load(model: Transformer, weights: Weights, settings: Settings) -> None:
    """Raises ValueError where they are of another model."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    given = {name: tensor.shape for name, tensor in weights.items()}
    differing = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if differing:
        raise ValueError(
            f"init={settings.init}: its weights don't fit this model ({', '.join(differing[:3])}"
            f"{' and others' * (len(differing) > 3)}): leave out what changes their shape (model, encoding)"
        )
    model.load_state_dict(weights)


def check_model(settings: Settings) -> None:
    """Raises ValueError for a model that can't be built or trained here, and MemoryError for an encoding too large,
    before any text is read: the weights of all but its encoding take no memory."""
    _check_memory(settings)
    most = free_memory() // 4  # with each weight that is trained come its gradient and its two moments
    given = ", ".join(f"encoding.{key}={value}" for key, value in settings.encoding.items() if key[0] != "_")
    remedy = f"with context={settings.context}, {given}: lower what sets its size"
    with _no_more_than(most), within_memory(remedy):
        encoding = _encoding(settings, separators={"line": (0,), "sentence": (1,)})
        _check_stage(encoding, settings)
    if settings.model.sink:
        require_softmax(encoding)
    with torch.device("meta"):  # one block is as all are
        _around(PositionEncoding(replace(encoding.shape, num_layers=1)), settings, vocab_size=2)


def _check_stage(encoding: PositionEncoding, settings: Settings) -> None:
    """Raises ValueError where a stage can't be trained under its extension, or the encoding is not defined so far."""
    if settings.extension:
        name, trained = settings.extension["name"], settings.stage.trained_length
        extension = build_extension(settings.extended[-1]["extension"])
        with evaluated(encoding):
            reason = extension.fits(encoding) or extension.trains()
        if reason:
            raise ValueError(f"extension={name} can't be trained with here: {reason}")
        length = extension.final_length(settings.context)
        if length <= trained and not extension.at_any_length:
            raise ValueError(
                f"extension={name}: there is nothing to extend at context={length}, since the parent was trained for "
                f"{trained} tokens: give a longer context"
            )
        if not extension.needs_tuning:  # what it then chooses changes no shape
            encoding = extension.apply(encoding, trained, length)
    if settings.stage:
        try:
            encoding.check_length(settings.context)
        except ValueError as error:
            table = extension_config("table_interpolation")
            with evaluated(encoding):
                remedy = "" if build_extension(table).fits(encoding) else "; extension=table_interpolation stretches it"
            raise ValueError(f"context={settings.context}: {error}{remedy}") from None


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
    """The encoding that a run begins with, under the extensions that the runs before it were trained with."""
    sizes = settings.model
    shape = Shape(sizes.dim, sizes.num_heads, sizes.num_layers, settings.first_context, separators)
    encoding = build_encoding(settings.encoding, shape, settings.seed)
    for each in settings.stage.extended if settings.stage else ():
        encoding = _extended(encoding, **each)
    return encoding


def _extended(encoding: PositionEncoding, extension: Mapping[str, Any], lengths: tuple[int, int]) -> PositionEncoding:
    """An encoding under an extension that stretches it from one length to another, as it is trained with."""
    return build_extension(extension).apply(encoding, *lengths)


def _around(encoding: PositionEncoding, settings: Settings, vocab_size: int) -> Transformer:
    sizes = settings.model
    rest = {"mlp": sizes.mlp, "mlp_ratio": sizes.mlp_ratio, "dropout": sizes.dropout}
    options = BlockOptions(**{name: getattr(sizes, name) for name in BLOCK_OPTIONS})
    return Transformer(vocab_size, encoding, **rest, options=options, seed=settings.seed)
