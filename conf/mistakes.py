"""What Hydra and OmegaConf find wrong with a setting, as one sentence that names it and what was meant."""

import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)


@contextmanager
def naming_settings(group: str = "") -> Iterator[None]:
    """Turns the errors of Hydra and OmegaConf into ValueErrors that name the setting. group: that it is a config of."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_sentence(error, group)) from None
    except ValueError as error:
        if (sentence := _of_override(error)) is None:
            raise
        raise ValueError(sentence) from None


def _of_override(error: ValueError) -> str | None:
    """What is wrong with an argument that Hydra or Python refuses by a sentence that doesn't say which it was."""
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    match str(error), [each["override"] for each in frames if "override" in each]:
        case sentence, [*_, Override() as override] if sentence.startswith("Config group override must be"):
            name = override.key_or_group
            value = override.input_line.partition("=")[2]
            return f"{name}={value}: must be the name of a file of conf/{name}"
        case sentence, [*_, str(override)] if sentence.startswith("Exceeds the limit"):
            return f"{override.partition('=')[0]}: a number of more than {sys.get_int_max_str_digits()} digits"
    return None


def _sentence(error: Exception, group: str) -> str:
    cause = (error.__cause__ or error.__context__) if isinstance(error, HydraException) else error
    match error, cause:
        case MissingConfigException(missing_cfg_file=str(file), options=list(options)), _:
            option_of, _, option = file.rpartition("/")
            near = get_close_matches(option, options) or options
            return f"{option_of}={option!r}: there is no such option; did you mean {', '.join(near)}?"
        case OverrideParseException(), _:
            return f"{error.override}: {one_sentence(error)}"
        case HydraException(), InterpolationResolutionError():
            return one_sentence(error)
        case _, OmegaConfBaseException():
            return _of_key(cause, ".".join(part for part in (group, cause.full_key) if part))
    return one_sentence(error)


def _of_key(error: OmegaConfBaseException, key: str) -> str:
    problem = str(error).splitlines()[0]
    match error:
        case MissingMandatoryValue():
            return f"{key}: needs a value"
        case ConfigKeyError() | AttributeError():
            return f"{key}: there is no such setting; {_meant(error, key)}"
        case ConfigTypeError():  # of ~key
            return f"{key}: can't be left out; give it another value"
        case ValidationError() if found := re.search(r"Value '(.*)' of type .* converted to (Integer|Float)", problem):
            return f"{key}={found[1]}: must be a {'whole ' * (found[2] == 'Integer')}number"
        case ValidationError() if found := re.search(r"Value '(.*)' is not a valid bool", problem):
            return f"{key}={found[1]}: must be true or false"
        case ValidationError() if found := re.search(r"Cannot convert '.*' to string: '(.*)'", problem):
            return f"{key}={found[1]}: must be a word; write one that looks like another value in quotes within quotes"
        case InterpolationResolutionError() if type(reason := _first(error)) is ValueError:  # of a resolver of ours
            return str(reason)
        case ValidationError() if problem.startswith("Invalid type assigned"):
            return f"{key}: must be a group of settings; give them one by one, as {key}.NAME=VALUE"
        case ValidationError() if problem.endswith("is not Optional"):
            return f"{key}=null: needs a value"
    return f"{key}: {problem}"


def _meant(error: OmegaConfBaseException, key: str) -> str:
    """What may have been meant by a key that isn't there: one beside it, else one of that name elsewhere, else what
    there is."""
    within, _, name = key.rpartition(".")
    beside = {str(each): f"{within}.{each}".lstrip(".") for each in error.parent_node if each != "hydra"}
    elsewhere = _names(OmegaConf.to_container(error.parent_node._get_root(), resolve=False))
    for known, alike in ((beside, 0.6), (elsewhere, 0.8)):
        if near := get_close_matches(name, known, n=1, cutoff=alike):
            return f"did you mean {known[near[0]]}?"
    return f"there are {', '.join(beside.values())}" if beside else f"to add one, write +{key}"


def _names(values: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """The full names of all settings by their last parts; Hydra's own are left out."""
    found = {}
    for name, value in values.items():
        if name != "hydra":
            found |= _names(value, f"{within}{name}.") if isinstance(value, Mapping) else {}
            found[str(name)] = f"{within}{name}"
    return found


def _first(error: BaseException) -> BaseException:
    """What was raised first."""
    while before := error.__cause__ or error.__context__:
        error = before
    return error


def one_sentence(error: BaseException) -> str:
    """The message of an error on one line, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
