"""From a run's settings to its transformer, encoding and all: for training and for scoring."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conf.schema import Settings
from model.encodings import PositionEncoding, Shape, build_encoding
from model.transformer import Transformer

Separators = Mapping[str, tuple[int, ...]]


def build_transformer(settings: Settings, vocab_size: int, separators: Separators) -> Transformer:
    """The untrained transformer of a run. Raises ValueError for what can't be built."""
    return _around(_encoding(settings, separators), settings, vocab_size)


def check_model(settings: Settings) -> None:
    """Raises ValueError for a model that can't be built, before any text is read: its weights take no memory here."""
    encoding = _encoding(settings, separators={"line": (0,), "sentence": (1,)})
    with torch.device("meta"):
        _around(encoding, settings, vocab_size=2)


def _encoding(settings: Settings, separators: Separators) -> PositionEncoding:
    sizes = settings.model
    shape = Shape(sizes.dim, sizes.num_heads, sizes.num_layers, settings.context, separators)
    return build_encoding(settings.encoding, shape, settings.seed)


def _around(encoding: PositionEncoding, settings: Settings, vocab_size: int) -> Transformer:
    sizes = settings.model
    rest = {"mlp": sizes.mlp, "mlp_ratio": sizes.mlp_ratio, "dropout": sizes.dropout}
    return Transformer(vocab_size, encoding, **rest, seed=settings.seed)
