"""What names a run: the encoding, the seed and a hash of everything that its numbers depend on. Light to import."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf import schema
from conf.compose import composed
from conf.mistakes import naming_settings
from conf.signature import is_number
from conf.source import source_hash
from conf.typed import digest, plain, typed
from data.inputs import input_hash
from eval.record.inherit import ARM, PARENT, Parent, arm_of, commanded, completed, for_the_arm, given, is_arm

# Settings that change where and how a run is carried out, and not what it computes.
NOT_IDENTITY = ("hydra", "run_id", "sweep", "runs", "cache_dir", "num_workers", "logger", "compare", "experiment")
NOT_IDENTITY += ("force", "init", "init_at", "extend", "arm", "encoding_path")
NOT_TRAINING = (*NOT_IDENTITY, "eval")  # how a model is scored is no part of how it was trained
OF_STAGE = ("parent", "step")  # of `stage`, what all the rest of it follows from
# Settings that came later, by group: where one is not set, all is as it was before there was such a setting.
LATER = {
    "training": ("context_schedule", "keep", "schedule_from", "optimizer_from"),
    "data": ("min_tokens",),
    "model": schema.BLOCK_OPTIONS,
}
LATER_GROUPS = ("init", "extension", "extend", "stage")
MADE_UP = ("text", "task", "changed")  # of a mix: what its `settings` come of
KEPT = ("keep",)  # of `training`: what is kept, and not what is computed


def identity(config: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers of a training depend on, a SHA-256 each (hexadecimal): of its plain settings, of the source of
    its encoding (and of its task), and of the local files that its data and its tokenizer are made of."""
    data = config["data"]
    others = [f"data.sources.{task['source']}"] if (task := schema.task_of(data)) else []
    others += [config["extension"]] if config.get("extension") else []
    return {
        "settings": settings_hash(config),
        "source": source_hash(config["encoding"], *others),
        "files": input_hash(data, config["tokenizer"]),
    }


def settings_hash(config: Mapping[str, Any]) -> str:
    """Of the plain settings that a training depends on, as SHA-256, hexadecimal."""
    settings = as_before({key: value for key, value in config.items() if key not in NOT_TRAINING})
    left_out = (*KEPT, "lr") if settings.get("tuning") else KEPT  # which chooses the learning rate
    settings["training"] = {key: value for key, value in settings["training"].items() if key not in left_out}
    if schema.is_mix(settings["data"]):
        settings["data"] = {key: value for key, value in settings["data"].items() if key not in MADE_UP}
    if "stage" in settings:
        settings["stage"] = {key: settings["stage"][key] for key in OF_STAGE}
    return digest(settings)


def as_before(config: Mapping[str, Any]) -> dict[str, Any]:
    """The plain settings without those LATER ones that are not set: they have the hash that they had before."""
    settings = {key: value for key, value in config.items() if key not in LATER_GROUPS or _is_set(value)}
    for group, later in LATER.items():
        if isinstance(own := settings.get(group), Mapping):
            settings[group] = {key: value for key, value in own.items() if key not in later or _is_set(value)}
    return settings


def _is_set(value: Any) -> bool:
    """Whether a setting says anything: null, false and an empty list don't, nor does a group in which nothing does."""
    if isinstance(value, Mapping):
        return any(map(_is_set, value.values()))
    return value is not None and value is not False and value != []


def run_hash(config: Mapping[str, Any]) -> str:
    """What a run is known by, by its checkpoints too: a SHA-256, hexadecimal."""
    return digest(identity(config))


def run_id(config: Mapping[str, Any]) -> str:
    """Readable and unique, as in rope-s0-1f2e3d or, of a stage under an extension, rope-yarn-s0-4a5b6c: the same
    settings, source and files find the same folder again."""
    name = "-".join(f"{part['name']}" for part in (config["encoding"], config.get("extension")) if part)
    return f"{name}-s{config['seed']}-{run_hash(config)[:6]}"


def _resolve_run_id(_root_: DictConfig) -> str:
    if OmegaConf.is_missing(_root_, "encoding") or OmegaConf.select(_root_, "encoding.name") is None:
        raise ValueError("encoding.name: needs a value, as in the files of conf/encoding")
    for group in ("encoding", "data", "tokenizer"):
        if not OmegaConf.is_dict(_root_[group]):
            raise ValueError(f"{group}={_root_[group]}: must be a group of settings, chosen as {group}=NAME")
    with _as_of_the_arm(_root_) as root:
        left_out = ("hydra", "run_id") if root.get("init") else NOT_TRAINING
        names = [name for name in root if name not in left_out]
        values = {name: {} if OmegaConf.is_missing(root, name) else root[name] for name in names}
        values = OmegaConf.to_container(OmegaConf.create(values, parent=root), resolve=True)
        return run_id(completed(values, given(root), parent_of))


@contextmanager
def _as_of_the_arm(config: DictConfig) -> Iterator[DictConfig]:
    """The config of a command; where it has an arm, with what that settles itself, whatever the command gives for the
    parent in its place."""
    overrides = given(config)
    if (arm := arm_of(overrides)) and config.get("extend") is None:
        raise ValueError(f"arm={arm}: is an arm of experiment=extend: give that too")
    own = for_the_arm(overrides)
    if len(own) == len(overrides):
        yield config
        return
    with commanded(overrides):
        yield composed("train", *own)


def settings_from(config: DictConfig) -> schema.Settings:
    """The settings of a job that Hydra has composed. Raises ValueError, naming the setting, for a value that is missing
    or can't be, and for a key that was added by "+" where there is no such setting."""
    with _as_of_the_arm(config) as config, naming_settings():
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return typed(schema.Settings, completed(values, given(config), parent_of))


def settings_of(*overrides: str) -> schema.Settings:
    """The settings that `python train.py` with these arguments has. Raises ValueError, naming the setting."""
    register_names()
    with commanded(overrides):
        return settings_from(composed("train", *overrides))


def register_names() -> None:
    """Makes the schema and `${run_id:}` known to Hydra, once a process; and what the files of conf/arm ask for:
    `${parent:KEY}`, a setting of the parent, or its folder, `run`; and `${plus:A,B}`, `${times:A,B}`, `${over:A,B}`,
    `${whole:A}`."""
    schema.register()
    OmegaConf.register_new_resolver("run_id", _resolve_run_id, replace=True)
    OmegaConf.register_new_resolver("parent", _resolve_parent, replace=True)
    for name, of_two in {"plus": operator.add, "times": operator.mul, "over": operator.truediv}.items():
        OmegaConf.register_new_resolver(name, functools.partial(_reckoned, of_two), replace=True)
    OmegaConf.register_new_resolver("whole", round, replace=True)


def parent_of(init: str, overrides: Sequence[str]) -> Parent:
    """The parent that a command names. Raises ValueError where it is no run, or has not been trained to its end.

    An arm of a sweep (conf/arm) has as its parent the run of the same command with arm=parent. That run may not be
    trained yet: its settings, and so its name and its hash, are known all the same.
    """
    from eval.record.files import read_json

    path = Path(init)
    if parent := arms_parent(overrides):
        return Parent(path, plain(parent), run_hash(plain(parent)))
    if not (path / "config.json").exists():
        raise ValueError(f"init={init}: there is no run in such a folder; give that of a finished one")
    config = read_json(path / "config.json")
    results = read_json(path / "results.json") if (path / "results.json").exists() else {}
    if not results.get("training"):
        raise ValueError(f"init={init}: has not been trained to its end: give the run's own command again first")
    if results.get("identity", {}).get("settings") != settings_hash(config):
        raise ValueError(f"init={init}: its config.json is another run's than its results.json")
    return Parent(path, of_now(config), results["config_hash"])


def of_now(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without what only an earlier version knew: probes that are no more."""
    asked = config.get("eval")
    if not (isinstance(asked, dict) and isinstance(asked.get("probes"), list)):
        return dict(config)
    return {**config, "eval": {**asked, "probes": [name for name in asked["probes"] if name in schema.PROBES]}}


def arms_parent(overrides: Sequence[str]) -> schema.Settings | None:
    """The settings of the parent of an arm; None where a command names no arm, or the parent itself."""
    if arm_of(overrides) in (None, PARENT):
        return None
    return settings_of(*(f"{ARM}={PARENT}" if is_arm(override) else override for override in overrides))


def _resolve_parent(key: str, *, _root_: DictConfig) -> Any:
    parent = arms_parent(given(_root_))
    if parent is None:
        raise ValueError("arm: an arm other than parent starts from the run of the same command with arm=parent")
    if key == "run":
        return str(Path(parent.runs, parent.sweep or "", parent.run_id))
    return OmegaConf.select(OmegaConf.create(plain(parent)), key)


def _reckoned(of_two: Callable[[float, float], float], value: Any, other: float) -> Any:
    """What comes of a number, or of each of a list, with another; whole where it is."""
    if not is_number(value):
        return [_reckoned(of_two, each, other) for each in value]
    found = round(of_two(value, other), 9)
    return int(found) if float(found).is_integer() else found
