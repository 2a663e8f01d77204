"""From a run's settings to its transformer, encoding and all: for training and for scoring."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch

from conf.schema import Settings
from model.devices import within_memory
from model.encodings import PositionEncoding, Shape, build_encoding
from model.transformer import Transformer

Separators = Mapping[str, tuple[int, ...]]


def build_transformer(settings: Settings, vocab_size: int, separators: Separators) -> Transformer:
    """The untrained transformer of a run. Raises ValueError for what can't be built."""
    with _fitting(settings, vocab_size):
        return _around(_encoding(settings, separators), settings, vocab_size)


def check_model(settings: Settings) -> None:
    """Raises ValueError for a model that can't be built, before any text is read: its weights take no memory here."""
    with _fitting(settings):
        encoding = _encoding(settings, separators={"line": (0,), "sentence": (1,)})
    with torch.device("meta"):
        _around(encoding, settings, vocab_size=2)


def _fitting(settings: Settings, *vocab_size: int) -> AbstractContextManager[None]:
    """Raises MemoryError, with the remedy, where what is built inside does not fit into memory."""
    sizes = settings.model
    shown = f"model.dim={sizes.dim}, model.num_layers={sizes.num_layers}, context={settings.context}"
    shown += "".join(f" and a vocabulary of {size:,} tokens" for size in vocab_size)
    return within_memory(f"while the model was built, with {shown}: choose smaller ones")


def _encoding(settings: Settings, separators: Separators) -> PositionEncoding:
    sizes = settings.model
    shape = Shape(sizes.dim, sizes.num_heads, sizes.num_layers, settings.context, separators)
    return build_encoding(settings.encoding, shape, settings.seed)


def _around(encoding: PositionEncoding, settings: Settings, vocab_size: int) -> Transformer:
    sizes = settings.model
    rest = {"mlp": sizes.mlp, "mlp_ratio": sizes.mlp_ratio, "dropout": sizes.dropout}
    return Transformer(vocab_size, encoding, **rest, seed=settings.seed)
