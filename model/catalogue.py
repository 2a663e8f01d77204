"""The encodings and length extensions there are, read from conf/*/*.yaml: one loader for tests, scripts and runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from conf.compose import composed
from conf.schema import options


def encoding_names() -> list[str]:
    """The names of all encodings, sorted: the yaml files of conf/encoding."""
    return options("encoding")


def encoding_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of an encoding as a plain dict, ready for `build_encoding`.

    overrides: as on the command line of train.py: "encoding.base=500000", "encoding@encoding.inner=t5".
    Works inside a running Hydra job too. Raises ValueError for a name that conf/encoding doesn't have, or an
    override that doesn't fit.

    >>> encoding_config("rope", ["encoding.base=500000"])["base"]
    500000
    """
    return _config("encoding", name, overrides)


def extension_names() -> list[str]:
    """The names of all length extensions, sorted: the yaml files of conf/extension."""
    return options("extension")


def extension_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of a length extension as a plain dict, ready for `build_extension`; otherwise as `encoding_config`."""
    return _config("extension", name, overrides)


def _config(group: str, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    config = OmegaConf.to_container(composed(None, f"+{group}={name}", *overrides)[group], resolve=True)
    if missing := {"name", "_target_"} - config.keys():
        raise ValueError(f"conf/{group}/{name}.yaml: lacks {' and '.join(sorted(missing))}; see the files beside it")
    return config
