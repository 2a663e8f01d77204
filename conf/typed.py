"""Settings as typed objects: what their classes share, and how they are made of plain values and given back as such."""

import functools
import hashlib
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode, ValidationError

from conf.mistakes import naming_settings
from conf.signature import LARGEST, check_types, check_value, is_number, whole


class Checked:
    """What can't be is refused by its full name: that of the group, a class attribute, and of the field."""

    group = ""

    def check(self, name: str, holds: bool, problem: str, shown: Any = None) -> None:
        """Raises ValueError, naming the field and its value (or what is shown for it), unless it holds."""
        if not holds:
            full = f"{self.group}.{name}" if self.group else name
            raise ValueError(f"{full}={getattr(self, name) if shown is None else shown}: {problem}")

    def check_each(self, names: str, holds: Callable[[Any], bool], problem: str) -> None:
        """`check` of several fields, named in one string; None, where a field may be it, has a meaning of its own."""
        for name in names.split():
            value = getattr(self, name)
            self.check(name, value is None or holds(value), problem)

    def check_among(self, name: str, known: Collection[str]) -> None:
        """Raises ValueError unless the field is one of these words; or, of a list, unless all of it are."""
        values = getattr(self, name)
        *others, last = known
        for value in [values] if isinstance(values, str) else values:
            problem = (
                f"must be among {', '.join(known)}" if value is not values else f"must be {', '.join(others)} or {last}"
            )
            self.check(name, value in known, problem, repr(value))


def typed(cls: type, values: Any, name: str = "") -> Any:
    """The object of a settings class with these plain values, such as a run's config.json: nothing in them is
    resolved.

    Raises ValueError, naming the setting, for a wrong key, a wrong type or a value that can't be.
    """
    if "${" in json.dumps(values, default=str):
        raise ValueError(f"{name or 'the settings'}: an interpolation, ${{...}}, among values that are read back")
    if not isinstance(values, Mapping):
        raise ValueError(f"{name or 'the settings'}={values}: must be a group of settings")
    if (made := _made(cls, values)) is not None:
        return made
    _check_lists(cls, values, name)
    with naming_settings(name):
        return OmegaConf.to_object(OmegaConf.merge(_structured(cls), values))


def _made(cls: type, values: Mapping[str, Any]) -> Any:
    """What `typed` makes of values each of which is of its field's type to begin with, as in what `plain` gave: a tenth
    of OmegaConf's time, which a report of many runs takes for each. None where one isn't, or can't be: OmegaConf
    converts it, or says what is wrong."""
    try:
        return _of_kind(values, cls)
    except (TypeError, ValueError):
        return None


def _of_kind(value: Any, hint: Any) -> Any:
    """A copy of a value that is of the hint's type, whichever of several it is; TypeError for any other."""
    if is_dataclass(hint) and isinstance(value, Mapping):
        hints = _hints(hint)
        return hint(**{key: _of_kind(each, hints.get(key)) for key, each in value.items()})
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        return _of_kind(value, hint)
    kind, within = typing.get_origin(hint) or hint, typing.get_args(hint)
    if type(value) is list and kind in (list, Any):
        return [_of_kind(each, *within or [Any]) for each in value]
    if type(value) is dict and kind in (dict, Any) and all(type(key) is str for key in value):
        return {key: _of_kind(each, within[1] if within else Any) for key, each in value.items()}
    known = (str, int, float, bool, type(None)) if kind is Any else (kind,)
    if type(value) not in known or value == "???" or (type(value) is int and abs(value) >= LARGEST):
        raise TypeError
    return value


def _check_lists(cls: type, values: Mapping[str, Any], name: str) -> None:
    """Raises ValueError, naming the setting, for a list or a group within a list of plain values: OmegaConf takes it
    for a value of any type."""
    for key, hint in _hints(cls).items():
        value, full = values.get(key), f"{name}.{key}".lstrip(".")
        if is_dataclass(hint) and isinstance(value, Mapping):
            _check_lists(hint, value, full)
        nested = isinstance(value, list) and any(isinstance(each, list | Mapping) for each in value)
        if nested and typing.get_origin(hint) is list and typing.get_args(hint) != (Any,):
            check_value(full, value, hint)


_hints = functools.cache(typing.get_type_hints)


@functools.cache
def _structured(cls: type) -> DictConfig:
    """A settings class as OmegaConf has it; `merge` leaves it as it is."""
    return OmegaConf.structured(cls)


def composed_as(cls: type, config: DictConfig) -> Any:
    """The object of a settings class that Hydra has composed for a command.

    Raises ValueError, naming the setting, for a value that is missing or can't be, and for a key that was added by "+"
    where there is no such setting, which Hydra lets pass.
    """
    with naming_settings():
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return typed(cls, values)


def split(cls: type, values: Mapping[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    """`typed` of those values that the class has, and the others. name: of the group that the values stand in.

    The plain values stay what names a run, so none may be of a kind that is only converted to the right one.
    """
    own = whole(cls, {key: value for key, value in values.items() if key in cls.__dataclass_fields__})
    check_types(cls, own, name)
    return typed(cls, own, name), {key: value for key, value in values.items() if key not in own}


def digest(values: Any) -> str:
    """SHA-256 of plain values, mappings in whatever order, hexadecimal: the same values, in any process, the same."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def plain(settings: Any) -> Any:
    """Settings as dicts, lists and plain values."""
    return asdict(settings)


def _whole(node: IntegerNode, value: Any, convert: Callable = IntegerNode._validate_and_convert_impl) -> int:
    value = convert(node, int(value) if type(value) is float and value.is_integer() else value)
    if abs(value) >= 2 * LARGEST:
        raise ValidationError("Value '$VALUE' of type '$VALUE_TYPE' could not be converted to Integer")
    return value


def _number(node: FloatNode, value: Any, convert: Callable = FloatNode._validate_and_convert_impl) -> float:
    if type(value) is int and not is_number(value):
        raise ValidationError("Value '$VALUE' of type '$VALUE_TYPE' could not be converted to Float")
    return convert(node, value)


def _flag(node: BooleanNode, value: Any, convert: Callable = BooleanNode._validate_and_convert_impl) -> bool:
    if isinstance(value, bool) or (isinstance(value, str) and value.isalpha()):
        return convert(node, value)
    raise ValidationError("Value '$VALUE' is not a valid bool (type $VALUE_TYPE)")


def _word(node: StringNode, value: Any, convert: Callable = StringNode._validate_and_convert_impl) -> str:
    if isinstance(value, bool | float):
        raise ValidationError("Cannot convert '$VALUE_TYPE' to string: '$VALUE'")
    return convert(node, value)


IntegerNode._validate_and_convert_impl = _whole  # 1e6 is a whole number too, which OmegaConf would refuse
FloatNode._validate_and_convert_impl = _number  # a whole number too large for it would end in an OverflowError
BooleanNode._validate_and_convert_impl = _flag  # it would take any number but 0 for true
StringNode._validate_and_convert_impl = _word  # it would make "True" of true, "1000.0" of 1e3
