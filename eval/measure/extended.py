"""The extensions that an evaluation asks for, as they are set, and a model's encoding under one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conf.schema import EvaluationSettings
from conf.source import source_hash
from data.stream import TokenStream
from eval.measure.protocols import plan
from eval.measure.scoring import Scorer
from model.encodings import PositionEncoding
from model.extensions import build_extension, extension_config, extension_names

CALIBRATION_WINDOWS = 32


def extension_configs(evaluation: EvaluationSettings) -> list[dict[str, Any]]:
    """The configs of the extensions to score, each once; "all" stands for every one.

    Raises ValueError for a setting in eval.extension_settings that its extension doesn't have, or can't take.
    """
    names = list(dict.fromkeys(evaluation.extensions))
    for name, changed in evaluation.extension_settings.items():
        known = sorted(extension_config(name).keys() - {"name", "_target_"})
        for key in changed.keys() - known:
            raise ValueError(
                f"eval.extension_settings.{name}.{key}={changed[key]}: no such setting of {name}; known are "
                f"{', '.join(known) or 'none'}"
            )
    configs = [
        {**extension_config(name), **evaluation.extension_settings.get(name, {})}
        for name in (extension_names() if "all" in names else names)
    ]
    for config in configs:
        build_extension(config)
    return configs


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
    encoding, context = scorer.model.encoding, scorer.model.shape.context
    extension = build_extension(config)
    if reason := extension.fits(encoding):
        raise ValueError(reason)
    if extension.needs_tuning:
        calibrator = Scorer(scorer.model, calibration, scorer.batch_tokens, scorer.precision)
        few = replace(evaluation, windows=min(CALIBRATION_WINDOWS, evaluation.windows))
        windows = plan("fixed_targets", calibration, length, [length], few)
        loss = lambda tried: float(calibrator.score([windows], tried)[0].mean())  # noqa: E731
        extension = extension.tune(loss, encoding, context, length)
    extended = extension.apply(encoding, context, length)
    extended.check_length(length)
    return extended, extension.describe()
