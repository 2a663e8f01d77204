"""A second stage: what a run that starts from another one takes over from it. Light to import.

`init=RUN` names the parent. Whatever the command doesn't give is the parent's, and what is known of the parent stands
in `stage`: the run's config.json is whole by itself, and is read without the parent.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from conf.schema import CONF, Settings
from conf.typed import typed

ARM, PARENT = "arm", "parent"  # the group of a sweep's arms, and the arm that the others start from
# What a stage has of its own: where and how it is carried out, and what makes it a stage.
OWN = ("run_id", "sweep", "runs", "cache_dir", "num_workers", "logger", "compare", "force", "tuning", "encoding_path")
OWN += ("init", "init_at", "extension", "extend")
OWN_TRAINING = ("keep", "schedule_from", "optimizer_from", "context_schedule")
FOUND = "stage"  # and never given

_commands: ContextVar[tuple[str, ...] | None] = ContextVar("commands", default=None)


class Parent(NamedTuple):
    """The run that a stage starts from. config: its plain settings; hash: of the run."""

    path: Path
    config: dict[str, Any]
    hash: str


@contextmanager
def commanded(overrides: Sequence[str]) -> Iterator[None]:
    """Inside, the settings that are composed are those of a command with these arguments."""
    token = _commands.set(tuple(overrides))
    try:
        yield
    finally:
        _commands.reset(token)


def given(root: DictConfig | None = None) -> tuple[str, ...]:
    """The arguments, key=value, of the command whose settings are at hand."""
    if (overrides := _commands.get()) is not None:
        return overrides
    if root is not None and "hydra" in root:
        return tuple(root.hydra.overrides.task)
    return tuple(HydraConfig.get().overrides.task) if HydraConfig.initialized() else ()


def given_keys(overrides: Sequence[str]) -> list[str]:
    """The settings and groups that a command's arguments set, by their full names; an experiment and an arm stand for
    those that their files set.

    >>> given_keys(["context=512", "extension=yarn", "+encoding@encoding.inner=t5"])
    ['context', 'extension', 'encoding.inner']
    """
    keys = []
    for override in overrides:
        name, _, value = override.lstrip("+~").partition("=")
        group, _, package = name.partition("@")
        if group in ("experiment", ARM) and (CONF / group / f"{value}.yaml").exists():
            keys += _keys_of(group, value)
        elif not group.startswith("hydra") and group not in ("experiment", ARM):
            keys.append(package or group)
    return keys


def is_arm(override: str) -> bool:
    """Whether an argument chooses an arm."""
    return override.lstrip("+").startswith(f"{ARM}=")


def arm_of(overrides: Sequence[str]) -> str | None:
    """The arm that a command chooses, or None."""
    chosen = [override.partition("=")[2] for override in overrides if is_arm(override)]
    return chosen[-1] if chosen and chosen[-1] != "null" else None


def for_the_arm(overrides: Sequence[str]) -> list[str]:
    """A command's arguments without those that its arm settles itself: they are meant for the parent.

    >>> for_the_arm(["experiment=extend", "context=64", "seed=1", "arm=longer"])
    ['experiment=extend', 'seed=1', 'arm=longer']
    """
    settled = given_keys([override for override in overrides if is_arm(override)])
    return [override for override in overrides if override.partition("=")[0].lstrip("+") not in settled]


def _keys_of(group: str, option: str) -> Iterator[str]:
    """What a file of a command's own settings sets: the groups that it chooses, its values, and those of the files
    beside it that it builds on."""
    file = OmegaConf.load(CONF / group / f"{option}.yaml")
    for entry in file.get("defaults", []):
        if isinstance(entry, str):
            yield from _keys_of(group, entry)
        else:
            yield from (str(key).removeprefix("override ").lstrip("/") for key in entry if "hydra" not in str(key))
    for key, value in OmegaConf.to_container(file, resolve=False).items():
        if key in ("defaults", "hydra"):
            continue
        yield from (f"{key}.{name}" for name in value) if isinstance(value, dict) else (key,)


def completed(
    values: Mapping[str, Any], overrides: Sequence[str], parent_of: Callable[[str, Sequence[str]], Parent]
) -> dict[str, Any]:
    """The plain settings of a run: as they were composed where they name no parent; else the parent's, with what the
    command gives in their place, and `stage`. parent_of: finds the parent that init names.

    Raises ValueError, naming the setting, for what can't follow on the parent.
    """
    keys = given_keys(overrides)
    if any(re.match(rf"[+~]*{FOUND}[.=]", override) for override in overrides):
        raise ValueError(f"{FOUND}: is found, not set; a second stage starts by init=RUN")
    if values.get("init") is None:
        return dict(values)
    for override in overrides:
        group, _, option = override.lstrip("+").partition("=")
        if group == "experiment" and not (CONF / group / f"{option}.yaml").exists():
            raise ValueError(f"{override}: a stage takes over its parent's settings but for those given one by one")
    parent = parent_of(values["init"], overrides)
    found = copy.deepcopy(parent.config)
    found |= {key: copy.deepcopy(values[key]) for key in OWN if key in values}
    found["training"] |= {key: values["training"][key] for key in OWN_TRAINING}
    for key in keys:
        if key.partition(".")[0] not in (*OWN, FOUND):
            _put(found, key.split("."), values)
    found[FOUND], rate = _stage(values, parent)
    context, before = found["context"], parent.config["context"]
    if context < before:
        raise ValueError(
            f"context={context}: is below that of the parent, {before}: a stage goes on at the same or a longer one"
        )
    training, old = found["training"], parent.config["training"]
    if "training.batch_size" not in keys:
        training["batch_size"] = _windows(old["batch_size"], before, context, values["init"])
    if "training.lr" not in keys and not training["schedule_from"]:
        training["lr"] = rate
    if "training.tokens" not in keys and training["schedule_from"] == PARENT:
        left = found[FOUND]["schedule_steps"] - found[FOUND]["schedule_step"]
        if left < 1:
            raise ValueError(
                f"training.schedule_from=parent: the schedule of {values['init']} has come to its end: give "
                "training.tokens, which are trained on at its last rate, or start earlier by init_at"
            )
        training["tokens"] = left * training["batch_size"] * context
    return found


def _put(into: dict[str, Any], path: Sequence[str], values: Mapping[str, Any]) -> None:
    """Puts what stands in values at a path there, where it stands in them."""
    for key in path[:-1]:
        if not isinstance(values.get(key), Mapping):
            return
        into, values = into.setdefault(key, {}), values[key]
    if path[-1] in values:
        into[path[-1]] = copy.deepcopy(values[path[-1]])


def _windows(count: int, before: int, context: int, init: str) -> int:
    """So many windows of another length as have the tokens of those before."""
    windows, rest = divmod(count * before, context)
    if rest or not windows:
        raise ValueError(
            f"context={context}: a step of {init} has {count} x {before} = {count * before} tokens, which are no whole "
            f"number of windows of {context}: choose another context, or give training.batch_size"
        )
    return windows


def _stage(values: Mapping[str, Any], parent: Parent) -> tuple[dict[str, Any], float]:
    """The plain values of StageSettings, and the parent's learning rate where it starts."""
    settings = typed(Settings, parent.config)
    training, before = settings.training, settings.stage
    step = round(values["init_at"] * settings.steps)
    if not 1 <= step <= settings.steps:
        raise ValueError(f"init_at={values['init_at']}: must be a share of the {settings.steps} steps of {parent.path}")
    at, steps = step, settings.steps  # in the schedule of the learning rate
    if training.schedule_from:
        at, steps = before.schedule_step + step, before.schedule_steps
    stage = {
        "parent": parent.hash,
        "run": parent.path.name,
        "step": step,
        "steps": step + (before.steps if before else 0),
        "tokens": step * training.batch_size * settings.context + (before.tokens if before else 0),
        "schedule_step": at,
        "schedule_steps": steps,
        "contexts": settings.contexts,
        "trained_length": settings.trained_length,
        "extended": settings.extended,
        "extension": None,
    }
    return stage, float(f"{training.lr * training.rate(at, steps):.6g}")
