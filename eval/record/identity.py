"""What names a run: the encoding, the seed and a hash of everything that its numbers depend on. Light to import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf import schema
from conf.compose import composed
from conf.typed import composed_as

# Settings that change where and how a run is carried out, and not what it computes.
NOT_IDENTITY = ("hydra", "run_id", "sweep", "runs", "cache_dir", "num_workers", "logger", "compare", "experiment")


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of those of a run's plain settings that its numbers depend on, hexadecimal. A learning rate that `tuning`
    chooses is none of them."""
    settings = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    if settings.get("tuning"):
        settings["training"] = {key: value for key, value in settings["training"].items() if key != "lr"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def run_id(config: Mapping[str, Any]) -> str:
    """Readable and unique, as in rope-s0-1f2e3d: the same settings find the same folder again."""
    return f"{config['encoding']['name']}-s{config['seed']}-{config_hash(config)[:6]}"


def _resolve_run_id(_root_: DictConfig) -> str:
    if OmegaConf.select(_root_, "encoding.name") is None:
        raise ValueError("encoding.name: needs a value, as in the files of conf/encoding")
    names = [name for name in _root_ if name not in NOT_IDENTITY]
    return run_id({name: OmegaConf.to_container(_root_, resolve=False)[name] for name in names})


def settings_of(*overrides: str) -> schema.Settings:
    """The settings that `python train.py` with these arguments has. Raises ValueError, naming the setting."""
    register_names()
    return composed_as(schema.Settings, composed("train", *overrides))


def register_names() -> None:
    """Makes the schema and `${run_id:}` known to Hydra, once a process."""
    schema.register()
    OmegaConf.register_new_resolver("run_id", _resolve_run_id, replace=True)
