"""Settings that a class takes: held against its signature, for the groups whose options are classes of their own
(encodings, extensions, corpora, tasks, tokenizers)."""

import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word", list: "a list"}


def check_types(cls: type, settings: Mapping[str, Any], group: str) -> None:
    """Raises ValueError, naming group.key, for a value that is not of the kind by which cls annotates that argument.

    Annotations of other kinds than KINDS, and unions of these with None, say nothing of a value.
    """
    hints = typing.get_type_hints(cls.__init__)
    for key, value in settings.items():
        kinds = _kinds(hints.get(key, Any))
        if kinds <= {*KINDS, type(None)} and not any(_fits(value, kind) for kind in kinds):
            wanted = " or ".join(KINDS.get(kind, "null") for kind in sorted(kinds, key=[*KINDS, type(None)].index))
            raise ValueError(f"{group}.{key}={value!r}: must be {wanted}")


def whole(cls: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, those by which cls annotates whole numbers as such: 1e3 is one."""
    hints = typing.get_type_hints(cls.__init__)
    return {
        key: int(value)
        if type(value) is float and value.is_integer() and _kinds(hints.get(key, Any)) <= {int, type(None)}
        else value
        for key, value in settings.items()
    }


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class, by name."""
    return dict(inspect.signature(cls).parameters)


def _kinds(hint: Any) -> set[type]:
    """The types that a hint allows: {int, NoneType} for `int | None`, {list} for `list[float]`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return set().union(*map(_kinds, typing.get_args(hint)))
    return {typing.get_origin(hint) or hint}


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind
