"""Every setting there is, with values that nobody means: what a command makes of each before it trains."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig, OmegaConf

from conf.compose import composed
from conf.mistakes import naming_settings
from conf.schema import ScoringSettings, Settings, options
from conf.typed import composed_as, plain
from data.module import data_module
from eval.__main__ import as_given
from eval.measure.extended import extension_configs
from eval.record.identity import register_names, settings_of
from eval.record.jobs import check_devices, check_machine
from model.build import build_transformer, check_model
from model.encodings import Shape, build_encoding
from model.catalogue import encoding_config
from model.extensions import build_extension

WORDS = {"yes": True, "no": False, "on": True, "off": False, "y": True, "n": False, "true": True, "false": False}
VALUES = [
    *("0", "1", "-1", "2", "7", "-0.0", "0.5", "1.5", "1e9", "1000000000", "1e400", "-1e400", "nan", "inf", "-inf"),
    *("9223372036854775808", "007", "0x10", "1_000", "1e3", "null", "true", "false", "yes", "no", "on", "off"),
    *("''", "abc", "'two words'", "'3'", "größe", "'🦆'", "x" * 5000, "..", "/nowhere", "'a\\u0000b'", "'???'", "???"),
    *("[]", "[1]", "[abc]", "[null]", "[[1]]", "[true,-1]", "[nan]", "{}", "{a:1}", "{a:{b:[]}}"),
    *("${oc.env:NOPE}", "${nope}", "${seed}", "${seed", "'${oc.env:HOME}'"),
]
VALUES[VALUES.index("'a\\u0000b'")] = "'a\0b'"
SMALL = ("model=nano", "context=32", "logger=none")
CHOICES = {  # a group of train.yaml: what must be given with an option of it
    "data=text": ("data.path=texts",),
    "data=hub": ("data.path=owner/name",),
    "tokenizer=pretrained": ("tokenizer.path=tokenizer.json",),
    "trainer=gpu": ("trainer.accelerator=cpu",),
}
GROUPS = ("encoding", "model", "data", "tokenizer", "eval", "compare", "trainer", "logger", "experiment")


@functools.cache
def configs() -> dict[tuple[str, ...], list[str]]:
    """Compositions, by the file and its overrides, and the settings that each of them has and none before it: their
    full names."""
    register_names()
    seen: set[str] = set()
    found = {}
    bases = [("train",), *(("train", *CHOICES.get(f"{g}={o}", ()), f"{g}={o}") for g in GROUPS for o in options(g))]
    bases += [("train", f"+eval.extension_settings.{name}={{}}") for name in options("extension")]
    bases += [("eval", "run=there"), *(("eval", "run=there", f"extension={name}") for name in options("extension"))]
    for file, *overrides in bases:
        small = SMALL if file == "train" and not any(each.startswith("experiment=") for each in overrides) else ()
        base = (file, *small, *overrides)
        own = {name: name for name in names(OmegaConf.to_container(base_config(base), resolve=False))}
        group = overrides[-1].partition("=")[0].lstrip("+") if overrides else ""
        if group.startswith("eval.extension_settings."):
            of = {key for key in base_config(("eval", f"extension={group.rpartition('.')[2]}")).extension}
            own = {f"+{group}.{key}": "" for key in of - {"name", "_target_"}}
        new = {key for key in own if f"{file}:{key}" not in seen or key.partition(".")[0] == group != "eval"}
        seen |= {f"{file}:{key}" for key in new}
        if new:
            found[base] = sorted(new)
    return found


def names(values: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """The full names of all settings, groups too, but those of Hydra's own."""
    for key, value in values.items():
        if key != "hydra":
            yield within + key
            if isinstance(value, Mapping):
                yield from names(value, f"{within}{key}.")


@functools.cache
def base_config(base: tuple[str, ...]) -> DictConfig:
    return composed(*base)


@functools.cache
def parsed(text: str):
    with naming_settings():
        return OverridesParser.create().parse_override(text)


def ask(base: tuple[str, ...], key: str, value: str) -> tuple[Any, Any]:
    """What was typed, and what the settings hold where the command would go on to read its text and to train."""
    override = parsed(f"{key}={value}")
    config = copy.deepcopy(base_config(base))
    with naming_settings():
        ConfigLoaderImpl._apply_overrides_to_config([override], config)
    key = key.lstrip("+")
    if base[0] == "eval":
        asked = composed_as(ScoringSettings, config)
        evaluation = as_given(config, default_settings().eval, (*base[1:], f"{key}={value}"))
        extensions = extension_configs(evaluation)
        values = plain(asked)
        if key.startswith("extension.") and asked.extension is not None:
            (values["extension"],) = extensions
        elif key.startswith("eval"):
            values["eval"] = plain(evaluation)
            for config in extensions:
                extend(config)
    else:
        settings = composed_as(Settings, config)
        check_devices(settings, multirun=False)
        check_machine(settings.trainer)
        check_model(settings)
        task = data_module(settings).task
        values = plain(settings)
        for each in extension_configs(settings.eval):
            extend(each)
        if key.startswith(("encoding", "model")):
            forward(settings)
        if task is not None and key.startswith("data"):
            task.example([0, 0], task.longest(settings.context))
    typed = override.value()
    return typed, select(values, key)


@functools.cache
def default_settings() -> Settings:
    return settings_of(*SMALL)


def forward(settings: Settings) -> None:
    """A forward pass of the untrained model."""
    if settings.model.num_layers * settings.model.dim > 1000:
        return
    model = build_transformer(settings, 7, {"line": (0,), "sentence": (1,)})
    model(torch.arange(8)[None] % 7)


def extend(config: Mapping[str, Any]) -> None:
    """Applies an extension to the encodings that it fits."""
    shape = Shape(dim=32, num_heads=2, num_layers=2, context=32)
    for name in ("rope", "alibi", "learned"):
        encoding = build_encoding(encoding_config(name), shape).eval()
        extension = build_extension(config)
        if extension.fits(encoding) is None and not extension.needs_tuning:
            extended = extension.apply(encoding, 32, 64)
            q = torch.zeros(1, 2, 64, 16)
            extended.rotate(q, q, q, extended.positions(torch.zeros(1, 64, dtype=torch.long)), torch.zeros(1, 64, 32), 0)


def select(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def same(typed: Any, held: Any) -> bool:
    """Whether a setting holds what was typed: words of YAML's for true and false may be such."""
    if isinstance(typed, QuotedString):
        typed = typed.text
    if isinstance(typed, str) and typed.startswith("${"):
        return True
    if isinstance(held, bool) or isinstance(typed, bool):
        return typed is held or (isinstance(typed, str) and (WORDS.get(typed.lower()) is held or typed == held))
    if isinstance(typed, int | float) and isinstance(held, int | float):
        return typed == held or (math.isnan(typed) and math.isnan(held))
    if isinstance(typed, Mapping):
        return isinstance(held, Mapping) and all(k in held and same(v, held[k]) for k, v in typed.items())
    if isinstance(typed, list):
        return isinstance(held, list) and len(typed) == len(held) and all(map(same, typed, held))
    return str(typed) == str(held)
