"""Composing the yaml files of this folder in Python, as Hydra does for a command; inside a running job too."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from conf.mistakes import naming_settings
from conf.own import own_folder, used_by
from conf.schema import CONF


def composed(name: str | None, *overrides: str) -> DictConfig:
    """The config of a file of this folder (None: of an empty one) under these overrides; of these, encoding_path=FOLDER
    stays in use, as in a command that names it.

    Raises ValueError, naming the setting, for an override that doesn't fit.
    """
    return _composed(name, used_by(overrides), own_folder())


def composed_each(group: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The configs of many files of a group, as plain dicts by name: at once, since one by one each takes a twentieth of
    a second."""
    names = [*names]
    found = OmegaConf.to_container(composed(None, *(f"+{group}@{name}={name}" for name in names)), resolve=True)
    return {name: found[name] for name in names}


@functools.cache  # a fifth of a second each, and the tests ask for the same ones hundreds of times
def _composed(name: str | None, overrides: Sequence[str], own: Path | None) -> DictConfig:
    with naming_settings(), _own_hydra():
        return compose(name, overrides=list(overrides))


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
