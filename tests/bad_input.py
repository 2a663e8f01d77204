"""Every setting there is, with values that nobody means: what a command makes of each before it trains."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf

from conf.compose import composed
from conf.mistakes import naming_settings
from conf.schema import EvaluationSettings, ScoringSettings, Settings, fewest_layers, options
from conf.typed import composed_as, plain
from data.module import data_module
from eval.__main__ import as_given
from eval.measure.extended import as_chosen, check_extensions, extension_configs
from eval.record.identity import register_names, settings_of
from eval.record.jobs import check_devices, check_machine, check_place
from model.build import build_transformer, check_model
from model.catalogue import encoding_config, encoding_names
from model.encodings import Shape, build_encoding

WORDS = {"yes": True, "no": False, "on": True, "off": False, "y": True, "n": False, "true": True, "false": False}
VALUES = [
    *("0", "1", "-1", "2", "7", "-0.0", "0.5", "1.5", "1e9", "1000000000", "1e400", "-1e400", "nan", "inf", "-inf"),
    *("9223372036854775808", "9" * 400, "9" * 5000, "007", "0x10", "1_000", "1e3", "null"),
    *("true", "false", "yes", "no", "on", "off"),
    *("''", "abc", "'two words'", "'3'", "größe", "'🦆'", "x" * 5000, "..", "/nowhere", "'a\\u0000b'", "'???'", "???"),
    *("[]", "[1]", "[abc]", "[null]", "[[1]]", "[true,-1]", "[nan]", "{}", "{a:1}", "{a:{b:[]}}"),
    *("${oc.env:NOPE}", "${nope}", "${seed}", "${seed", "'${oc.env:HOME}'"),
]
VALUES[VALUES.index("'a\\u0000b'")] = "'a\0b'"
SHAPE = Shape(dim=32, num_heads=2, num_layers=2, context=32)
ENCODINGS = [build_encoding(encoding_config(name), SHAPE) for name in ("rope", "alibi", "learned")]
SMALL = ("model=nano", "context=32", "logger=none")
NEEDED = {  # what an option leaves to the command
    "data=text": ("data.path=texts",),
    "data=hub": ("data.path=owner/name",),
    "tokenizer=pretrained": ("tokenizer.path=tokenizer.json",),
    "trainer=gpu": ("trainer.accelerator=cpu",),
    **{
        f"encoding={name}": (f"model.num_layers={layers}",)
        for name in encoding_names()
        if (layers := fewest_layers(encoding_config(name))) > 2  # as many as model=nano has
    },
}
GROUPS = ("encoding", "model", "data", "tokenizer", "eval", "compare", "trainer", "logger")


def compositions() -> dict[tuple[str, ...], str]:
    """Configs, by a file of conf and its overrides, and the group of settings to try in each; "": all."""
    register_names()
    found = {("train", *SMALL): "", ("train", "experiment=fair"): "tuning", ("eval", "run=there"): ""}
    for group in GROUPS:
        for choice in (f"{group}={option}" for option in options(group)):
            found["train", *SMALL, *NEEDED.get(choice, ()), choice] = group
    for name in options("extension"):
        found["eval", "run=there", f"extension={name}"] = "extension"
        asked = (f"eval.extensions=[{name}]", f"+eval.extension_settings.{name}={{}}")
        found["train", *SMALL, *asked] = f"eval.extension_settings.{name}"
    return found


def settings(base: tuple[str, ...], group: str) -> list[str]:
    """The full names of the settings in a group of a composition, as a command gives them, and of the group."""
    if group.startswith("eval.extension_settings."):
        keys = composed("eval", f"extension={group.rpartition('.')[2]}").extension.keys() - {"name", "_target_"}
        return sorted(f"+{group}.{key}" for key in keys)
    every = names(OmegaConf.to_container(composed(*base), resolve=False))
    return sorted(name for name in every if f"{name}.".startswith(f"{group}." if group else ""))


def names(values: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """The full names of all settings, groups too, but those of Hydra's own."""
    for key, value in values.items():
        if key != "hydra":
            yield within + key
            if isinstance(value, Mapping):
                yield from names(value, f"{within}{key}.")


@functools.cache
def parsed(text: str):
    with naming_settings():
        return OverridesParser.create().parse_overrides([text])[0]


def ask(base: tuple[str, ...], key: str, value: str) -> tuple[Any, Any]:
    """What was typed, and what the settings hold where the command would go on to read its text and to train."""
    override = parsed(f"{key}={value}")
    config = copy.deepcopy(composed(*base))
    with naming_settings():
        ConfigLoaderImpl._apply_overrides_to_config([override], config)
    key = key.lstrip("+")
    if base[0] == "eval":
        asked = composed_as(ScoringSettings, config)
        evaluation = as_given(asked, default_settings().eval, (*base[1:], f"{key}={value}"))
        extensions = extension_configs(evaluation)
        values = plain(asked)
        if key.startswith("extension.") and asked.extension is not None:
            (values["extension"],) = extensions
        elif key.startswith("eval"):
            values["eval"] = plain(evaluation) | {"lengths": asked.eval.lengths}  # which are added to the run's
        with as_chosen(asked.extension):
            check_extended(evaluation)
    else:
        settings = composed_as(Settings, config)
        check_devices(settings, multirun=False)
        check_machine(settings.trainer)
        check_place(settings)
        check_model(settings)
        task = data_module(settings).task
        values = plain(settings)
        check_extended(settings.eval)
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


def check_extended(evaluation: EvaluationSettings) -> None:
    """`check_extensions` of the encodings that they fit."""
    for encoding in ENCODINGS:
        model = SimpleNamespace(encoding=encoding, trained_length=SHAPE.context)
        check_extensions(evaluation, model, evaluation.context_lengths(SHAPE.context)[-1])


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
    if isinstance(typed, str) and isinstance(held, int | float):
        return float(typed) == held
    return str(typed) == str(held)
