"""From a configuration to a model: encoding, transformer and Lightning module, for training and for scoring."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from model.devices import uses_gpu
from model.encodings import Shape, build_encoding
from model.kernels import compile_training
from model.training.language_model import LanguageModel, Optimization
from model.transformer import Transformer


def build_transformer(
    config: Mapping[str, Any], vocab_size: int, separators: Mapping[str, tuple[int, ...]]
) -> Transformer:
    """The untrained transformer of a run's configuration (plain dicts). Raises ValueError for what can't be built."""
    sizes = dict(config["model"])
    sizes.pop("name")
    shape = Shape(
        dim=sizes.pop("dim"),
        num_heads=sizes.pop("num_heads"),
        num_layers=sizes.pop("num_layers"),
        context=config["context"],
        separators=separators,
    )
    encoding = build_encoding(config["encoding"], shape, config["seed"])
    return Transformer(vocab_size, encoding, seed=config["seed"], **sizes)


def build_language_model(
    config: Mapping[str, Any], vocab_size: int, separators: Mapping[str, tuple[int, ...]]
) -> LanguageModel:
    """The transformer with its loss, optimizer and schedule."""
    fields = Optimization.__dataclass_fields__
    optimization = Optimization(**{key: value for key, value in config["training"].items() if key in fields})
    module = LanguageModel(build_transformer(config, vocab_size, separators), optimization, training_steps(config))
    if config["trainer"]["compile"]:
        # The model and its loss in one graph; scoring, which calls the transformer, stays eager: it runs at any length.
        module.token_losses = compile_training(module.token_losses, uses_gpu(config["trainer"]["accelerator"]))
    return module


def training_steps(config: Mapping[str, Any]) -> int:
    """Optimizer steps of a run: its tokens over the tokens of a step, rounded up. Raises ValueError for bad sizes."""
    training = config["training"]
    if config["context"] < 2:
        raise ValueError(f"context={config['context']}: must be at least 2 tokens")
    for name in ("tokens", "batch_size", "accumulate", "log_every"):
        if training[name] < 1:
            raise ValueError(f"training.{name}={training[name]}: must be at least 1")
    if training["batch_size"] % training["accumulate"]:
        raise ValueError(
            f"training.batch_size={training['batch_size']} is not divisible by "
            f"training.accumulate={training['accumulate']}: choose a multiple of it"
        )
    return math.ceil(training["tokens"] / (training["batch_size"] * config["context"]))
