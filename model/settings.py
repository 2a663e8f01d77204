"""The types of settings: a value must be of the kind that stands in its place in conf/, and a number finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from model.catalogue import CONF

NULLABLE = {"eval.tokens", "eval.probe.longest"}  # null has a meaning of its own
ALTERNATIVES = {"eval.precision", "trainer.precision"}  # words, some of which look like numbers


def check_types(config: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the setting, for a value of a run's configuration that is of the wrong kind.

    What data and encodings refuse beyond that, they refuse themselves.
    """
    root = _defaults("train.yaml")
    for name in ("seed", "context", "training"):
        check_type(name, config[name], root[name])
    for group, file in {"model": "tiny", "trainer": "auto", "eval": "default"}.items():
        check_type(group, config[group], _defaults(f"{group}/{file}.yaml"))
    check_split(config["eval"]["split"])
    for name in ("devices", "num_nodes"):
        if config["trainer"][name] < 1:
            raise ValueError(f"trainer.{name}={config['trainer'][name]}: must be at least 1")
    for group in ("tokenizer", "encoding"):
        if (file := f"{config[group].get('name')}.yaml") in {path.name for path in (CONF / group).iterdir()}:
            check_type(group, config[group], _numbers_as_fractions(_defaults(f"{group}/{file}")))


def check_split(split: str) -> None:
    """Raises ValueError for a split that is not held out."""
    if split not in ("validation", "test"):
        raise ValueError(f"eval.split={split!r}: must be validation or test")


def _defaults(file: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(CONF / file), resolve=False)


def _numbers_as_fractions(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Only the numbers, as fractions: an encoding's settings have alternatives of many kinds."""
    return {key: float(value) for key, value in defaults.items() if _is_number(value)}


def check_type(name: str, value: Any, default: Any) -> None:
    """Raises ValueError where a value is not of the kind of its default, or not finite. A default of null fits all."""
    if default is None or name in ALTERNATIVES or (value is None and name in NULLABLE):
        return
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        for key in default.keys() & value.keys():
            check_type(f"{name}.{key}", value[key], default[key])
    elif isinstance(default, list | tuple) and isinstance(value, list | tuple):
        for item in value:
            # a list of numbers may hold fractions
            check_type(name, item, float(default[0]) if _is_number(default[0]) else default[0])
    elif not _fits(value, default):
        raise ValueError(f"{name}={value!r}: must be {_kind(default)}, such as {_shown(default)}")


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return _is_number(value) and math.isfinite(value)
    return type(value) is type(default)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}
    return kinds.get(type(default), "a list" if isinstance(default, list | tuple) else "a group of settings")


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
