"""What names a run: the encoding, the seed and a hash of everything that its numbers depend on. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf import schema
from conf.compose import composed
from conf.source import source_hash
from conf.typed import composed_as, digest
from data.inputs import input_hash

# Settings that change where and how a run is carried out, and not what it computes.
NOT_IDENTITY = ("hydra", "run_id", "sweep", "runs", "cache_dir", "num_workers", "logger", "compare", "experiment")
NOT_IDENTITY += ("force",)
NOT_TRAINING = (*NOT_IDENTITY, "eval")  # how a model is scored is no part of how it was trained
# Settings that came later, by group: where one is not set, all is as it was before there was such a setting.
LATER = {"training": ("context_schedule",), "data": ("min_tokens",)}


def identity(config: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers of a training depend on, a SHA-256 each (hexadecimal): of its plain settings, of the source of
    its encoding (and of its task), and of the local files that its data and its tokenizer are made of."""
    data = config["data"]
    task = [f"data.sources.{data['source']}"] if "examples" in data else []
    return {
        "settings": settings_hash(config),
        "source": source_hash(config["encoding"], *task),
        "files": input_hash(data, config["tokenizer"]),
    }


def settings_hash(config: Mapping[str, Any]) -> str:
    """Of the plain settings that a training depends on, as SHA-256, hexadecimal."""
    settings = as_before({key: value for key, value in config.items() if key not in NOT_TRAINING})
    if settings.get("tuning"):  # chooses the learning rate
        settings["training"] = {key: value for key, value in settings["training"].items() if key != "lr"}
    return digest(settings)


def as_before(config: Mapping[str, Any]) -> dict[str, Any]:
    """The plain settings without those LATER ones that are not set: they have the hash that they had before."""
    settings = dict(config)
    for group, later in LATER.items():
        if isinstance(own := settings.get(group), Mapping):
            settings[group] = {key: value for key, value in own.items() if key not in later or _is_set(value)}
    return settings


def _is_set(value: Any) -> bool:
    """Whether a setting says anything: null and an empty list don't, nor does a group in which nothing does."""
    return any(map(_is_set, value.values())) if isinstance(value, Mapping) else value is not None and value != []


def run_id(config: Mapping[str, Any]) -> str:
    """Readable and unique, as in rope-s0-1f2e3d: the same settings, source and files find the same folder again."""
    return f"{config['encoding']['name']}-s{config['seed']}-{digest(identity(config))[:6]}"


def _resolve_run_id(_root_: DictConfig) -> str:
    if OmegaConf.is_missing(_root_, "encoding") or OmegaConf.select(_root_, "encoding.name") is None:
        raise ValueError("encoding.name: needs a value, as in the files of conf/encoding")
    for group in ("encoding", "data", "tokenizer"):
        if not OmegaConf.is_dict(_root_[group]):
            raise ValueError(f"{group}={_root_[group]}: must be a group of settings, chosen as {group}=NAME")
    names = [name for name in _root_ if name not in NOT_TRAINING]
    values = {name: {} if OmegaConf.is_missing(_root_, name) else _root_[name] for name in names}
    return run_id(OmegaConf.to_container(OmegaConf.create(values, parent=_root_), resolve=True))


def settings_of(*overrides: str) -> schema.Settings:
    """The settings that `python train.py` with these arguments has. Raises ValueError, naming the setting."""
    register_names()
    return composed_as(schema.Settings, composed("train", *overrides))


def register_names() -> None:
    """Makes the schema and `${run_id:}` known to Hydra, once a process."""
    schema.register()
    OmegaConf.register_new_resolver("run_id", _resolve_run_id, replace=True)
