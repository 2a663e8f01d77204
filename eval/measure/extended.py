"""The extensions that an evaluation asks for, as they are set, and a model's encoding under one of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from conf.schema import EvaluationSettings, check_label
from conf.source import source_hash
from data.stream import TokenStream
from eval.measure.protocols import plan
from eval.measure.scoring import Scorer
from model import catalogue
from model.encodings import PositionEncoding, evaluated, named
from model.extensions import Extension, build_extension, extension_config, extension_names
from model.transformer import Transformer

CALIBRATION_WINDOWS = 32


def extension_configs(evaluation: EvaluationSettings) -> list[dict[str, Any]]:
    """The configs of the extensions to score, each once; "all" stands for every one.

    Raises ValueError for a setting in eval.extension_settings that its extension doesn't have, or can't take.
    """
    names = list(dict.fromkeys(evaluation.extensions))
    names = extension_names() if "all" in names else names
    for name, changed in evaluation.extension_settings.items():
        known = sorted(extension_config(name).keys() - {"name", "_target_"})
        for key in changed.keys() - known:
            raise ValueError(
                f"eval.extension_settings.{name}.{key}={changed[key]}: no such setting of {name}; known are "
                f"{', '.join(known) or 'none'}"
            )
    asked = dict.fromkeys([*names, *evaluation.extension_settings])
    of_files = catalogue.extension_configs(asked)
    configs = {name: {**of_files[name], **evaluation.extension_settings.get(name, {})} for name in asked}
    for name, config in configs.items():
        build_extension(config, _group(name))
    return [configs[name] for name in names]


def chosen_extension(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the settings of the extension that a command chooses, extension=NAME, and sets, extension.KEY=VALUE.

    Raises ValueError, naming it, for a setting that its extension can't take.
    """
    name = config.get("name")
    check_label("extension", name)
    for key in ("name", "_target_"):
        if name not in extension_names() or config.get(key) != extension_config(name)[key]:
            raise ValueError(
                f"extension.{key}={config.get(key)!r}: stands in its file; choose another by extension=NAME"
            )
    build_extension(config)
    return name, {key: value for key, value in config.items() if key not in ("name", "_target_")}


def check_extensions(evaluation: EvaluationSettings, model: Transformer, longest: int) -> None:
    """Raises ValueError, naming it, for a setting that was given to an extension and doesn't suit the encoding of a
    model, trained or not, that the extension fits: a window longer than it was trained for, say. longest: the longest
    length that is scored, tokens."""
    encoding, trained = model.encoding, model.trained_length
    for config in extension_configs(evaluation):
        if not evaluation.extension_settings.get(config["name"]):
            continue
        with named(_group(config["name"]), "extension"), evaluated(encoding), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that are taken; scoring warns
            extension = build_extension(config)
            if extension.fits(encoding) is None and not extension.needs_tuning:
                extension.apply(encoding, trained, longest)


def as_chosen(extension: Mapping[str, Any] | None) -> AbstractContextManager[None]:
    """Around the work of a command with an extension that it chooses: names its settings in errors as the command does,
    extension.KEY. None: it chooses none."""
    return named("extension", _group(extension["name"])) if extension else nullcontext()


def _group(name: str) -> str:
    return f"eval.extension_settings.{name}"


def extension_identity(config: Mapping[str, Any]) -> dict[str, str]:
    """The fields by which a row says what an extension was: its settings in a line, and a hash of its source."""
    if config["name"] == "none":
        return {}
    settings = ", ".join(f"{key}={value}" for key, value in config.items() if key not in ("name", "_target_"))
    source = {"extension_source": source_hash(config)[:8]}
    return source | ({"extension_settings": settings} if settings else {})


def extended_encoding(
    scorer: Scorer, calibration: TokenStream, config: Mapping[str, Any], length: int, evaluation: EvaluationSettings
) -> tuple[PositionEncoding, str]:
    """The model's encoding under an extension at this length (tokens), and how the extension was set.

    calibration: the stream on which an extension that is tuned chooses its settings; never the one that is scored.
    Raises ValueError where the extension doesn't fit, or the encoding is not defined on so many tokens.
    """
    encoding, trained = scorer.model.encoding, scorer.model.trained_length
    extension = tuned_extension(scorer, calibration, config, length, evaluation)
    extended = extension.apply(encoding, trained, length)
    extended.check_length(length)
    return extended, extension.describe()


def tuned_extension(
    scorer: Scorer,
    calibration: TokenStream,
    config: Mapping[str, Any],
    length: int,
    evaluation: EvaluationSettings,
) -> Extension:
    """An extension with what it chooses for itself, on the calibration stream, to stretch a model's encoding to this
    length (tokens). Raises ValueError where it doesn't fit."""
    encoding, trained = scorer.model.encoding, scorer.model.trained_length
    extension = build_extension(config)
    if reason := extension.fits(encoding):
        raise ValueError(reason)
    if not extension.needs_tuning:
        return extension
    calibrator = Scorer(scorer.model, calibration, scorer.batch_tokens, scorer.precision)
    few = replace(evaluation, windows=min(CALIBRATION_WINDOWS, evaluation.windows))
    windows = plan("fixed_targets", calibration, length, [length], few)
    loss = lambda tried: float(calibrator.score([windows], tried)[0].mean())  # noqa: E731
    return extension.tune(loss, encoding, trained, length)


def needs_tuning(config: Mapping[str, Any]) -> bool:
    """Whether an extension of this config has something to choose for itself."""
    return build_extension(config).needs_tuning
