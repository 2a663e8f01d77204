"""Settings that a class takes: held against its signature, for the groups whose options are classes of their own
(encodings, extensions, corpora, tasks, tokenizers)."""

import inspect
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

MOST = sys.float_info.max
LARGEST = 2**63  # beyond which PyTorch and NumPy take no whole number
KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}
KINDS |= {list: "a list", Sequence: "a list", Mapping: "a group of settings", dict: "a group of settings"}
KINDS |= {type(None): "null"}


def check_types(cls: type, settings: Mapping[str, Any], group: str) -> None:
    """Raises ValueError, naming group.key, for a value that is not of the kind by which cls annotates that argument.

    Annotations of other kinds than KINDS say nothing of a value.
    """
    hints = typing.get_type_hints(cls.__init__)
    for key, value in settings.items():
        check_value(f"{group}.{key}", value, hints.get(key, Any))


def whole(cls: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, those by which cls annotates whole numbers as such: 1e3 is one. A whole number that is too large to
    be one of PyTorch's is a float where cls takes that."""
    hints = typing.get_type_hints(cls.__init__)
    return {key: _number(value, {*_kinds(hints.get(key, Any))}) for key, value in settings.items()}


def _number(value: Any, kinds: set[Any]) -> Any:
    if type(value) is float and value.is_integer() and kinds <= {int, type(None)}:
        return int(value)
    if type(value) is int and LARGEST <= abs(value) <= MOST and kinds <= {float, type(None)}:
        return float(value)
    return value


def is_number(value: Any) -> bool:
    """Whether a value is one that a finite float holds."""
    return type(value) in (int, float) and -MOST <= value <= MOST


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class, by name."""
    return dict(inspect.signature(cls).parameters)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The hints of which a value needs to fit one: (int, NoneType) for `int | None`."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raises ValueError, naming it, for a value that is not of the kind of an annotation."""
    if _fits(value, hint):
        return
    for kind in _kinds(hint):
        if isinstance(value, Mapping) and typing.get_origin(kind) is Mapping:
            for key, each in value.items():
                check_value(f"{name}.{key}", each, typing.get_args(kind)[1])
    size = " of at most 64 bits" if type(value) is int and int in _kinds(hint) else ""
    raise ValueError(f"{name}={value!r}: must be {_words(hint)}{size}")


def _fits(value: Any, hint: Any) -> bool:
    return any(_is(value, typing.get_origin(kind) or kind, typing.get_args(kind)) for kind in _kinds(hint))


def _is(value: Any, kind: Any, within: Sequence[Any]) -> bool:
    """Whether a value is of a kind. within: the hints of what a list holds, or of a group's keys and values."""
    if kind not in KINDS:
        return True
    if kind is float:
        return is_number(value)
    if kind in (Mapping, dict):
        return isinstance(value, Mapping) and all(_fits(each, within[1]) for each in value.values() if within)
    if kind in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(each, within[0]) for each in value if within)
    return type(value) is kind and (kind is not int or -LARGEST <= value < LARGEST)


def _words(hint: Any) -> str:
    """What a hint asks for, as far as it is of KINDS."""
    shown = []
    for kind in _kinds(hint):
        *_, within = typing.get_args(kind) or [None]
        each = f" (each {words})" if within and (words := _words(within)) else ""
        shown.append(KINDS.get(typing.get_origin(kind) or kind, "") + each)
    return " or ".join(filter(None, shown))
