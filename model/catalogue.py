"""The encodings and length extensions there are, read from conf/*/*.yaml: one loader for tests, scripts and runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parent.parent / "conf"


def encoding_names() -> list[str]:
    """The names of all encodings, sorted: the yaml files of conf/encoding."""
    return _names("encoding")


def encoding_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of an encoding as a plain dict, ready for `build_encoding`.

    overrides: as on the command line of train.py: "encoding.base=500000", "encoding@encoding.inner=t5".
    Works inside a running Hydra job too. Raises ValueError for a name that conf/encoding doesn't have; Hydra's own
    error for an override that doesn't fit.

    >>> encoding_config("rope", ["encoding.base=500000"])["base"]
    500000
    """
    return _config("encoding", name, overrides)


def extension_names() -> list[str]:
    """The names of all length extensions, sorted: the yaml files of conf/extension."""
    return _names("extension")


def extension_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of a length extension as a plain dict, ready for `build_extension`; otherwise as `encoding_config`."""
    return _config("extension", name, overrides)


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _config(group: str, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    known = _names(group)
    if name not in known:
        near = get_close_matches(name, known) or known
        raise ValueError(f"{group}={name!r}: conf/{group} has no such file; did you mean {', '.join(near)}?")
    return OmegaConf.to_container(_composed(f"+{group}={name}", *overrides)[group], resolve=True)


@functools.cache  # a fifth of a second each, and the tests ask for the same ones hundreds of times
def _composed(*overrides: str) -> DictConfig:
    with _own_hydra():
        return compose(overrides=list(overrides))


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra on CONF alone. It keeps what it is set to in singletons: those of a job that runs are put back after."""
    outer = dict(Singleton._instances)
    for state in (GlobalHydra, JobRuntime, VersionBase):
        Singleton._instances.pop(state, None)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        Singleton._instances.clear()
        Singleton._instances.update(outer)
