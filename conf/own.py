"""Encodings of one's own, in a folder outside of this one: a yaml file each, as those of conf/encoding, and beside it
the Python file with the class that it names, `_target_: mine.Mine`.

A command names the folder, `encoding_path=FOLDER`, or the environment does, TRAINSHORT_ENCODING_PATH, which the
processes that a command starts inherit. What is read back never does: a run's config.json imports nothing. Light to
import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from conf.schema import CONF

SETTING, VARIABLE = "encoding_path", "TRAINSHORT_ENCODING_PATH"


def use(path: str | Path | None) -> None:
    """From here on, in this process and in those that it starts, there are a folder's encodings too; None: no more.

    Raises ValueError where there is no such folder, or one of its files can't be.
    """
    if path is None:
        os.environ.pop(VARIABLE, None)
        return
    os.environ[VARIABLE] = os.path.abspath(Path(path).expanduser())
    check_own()


def used_by(arguments: Iterable[str]) -> tuple[str, ...]:
    """A command's arguments. The folder that they name is used, and its name quoted, so that Hydra takes all of it."""
    found = []
    for argument in arguments:
        if names_own(argument):
            name, _, value = argument.partition("=")
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            use(None if value in ("", "null") else value)
            folder = own_folder()
            value = "null" if folder is None else "'" + str(folder).replace("'", r"\'") + "'"
            argument = f"{name}={value}"
        found.append(argument)
    return tuple(found)


def names_own(argument: str) -> bool:
    """Whether a command's argument names the folder."""
    return argument.lstrip("+").startswith(f"{SETTING}=")


def own_folder() -> Path | None:
    """The folder in use, absolute."""
    given = os.environ.get(VARIABLE)
    return Path(os.path.abspath(Path(given).expanduser())) if given else None


def own_encodings() -> list[str]:
    """The names of the encodings in it, sorted."""
    return names_in(folder) if (folder := own_folder()) else []


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("[!.]*.yaml"))


def check_own() -> None:
    """Raises ValueError where the folder in use isn't there, holds no encoding, or one by another's name."""
    if (folder := own_folder()) is None:
        return
    said = f"{SETTING}={folder}"
    if not folder.is_dir():
        raise ValueError(
            f"{said}: there is no such folder; give the one that your encodings lie in, NAME.yaml and NAME.py"
        )
    if not (names := own_encodings()):
        raise ValueError(f"{said}: holds no NAME.yaml of an encoding, as those of conf/encoding")
    for name in names:
        if (CONF / "encoding" / f"{name}.yaml").exists():
            raise ValueError(f"{said}: its {name}.yaml would hide conf/encoding/{name}.yaml: give it another name")
        check_name(folder / f"{name}.yaml")


def check_name(path: Path) -> None:
    """Raises ValueError unless the yaml file of an encoding names it as the file is named."""
    shown = path.relative_to(CONF.parent) if path.is_relative_to(CONF) else path
    try:
        values = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ValueError(f"{shown}: can't be read ({' '.join(str(error).split())})") from None
    name = OmegaConf.to_container(values).get("name") if isinstance(values, DictConfig) else None
    if name != path.stem:
        raise ValueError(f"{shown}: its name is {name}, and must be that of its file: write `name: {path.stem}`")


def module_file(name: str) -> Path | None:
    """The file of a module, also of one in the folder in use; None where there is none. No package is imported."""
    first, *rest = name.split(".")
    if not all((first, *rest)):
        return None
    spec = PathFinder.find_spec(first)
    if spec is None and (folder := own_folder()):
        spec = PathFinder.find_spec(first, [str(folder)])
    for part in rest:
        if spec is None:
            return None
        spec = PathFinder.find_spec(part, spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def is_own(path: Path | None) -> bool:
    """Whether a file lies in the folder in use."""
    folder = own_folder()
    if folder is None or path is None:
        return False
    return path.is_relative_to(folder) or path.resolve().is_relative_to(folder.resolve())


def importable(name: str) -> bool:
    """Whether a module lies in the folder in use; it can be imported then. Raises ValueError where one of its name is
    found elsewhere, before it."""
    folder = own_folder()
    if folder is None:
        return False
    if is_own(found := module_file(name)):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # last, so that nothing there hides what the program imports
        return True
    first = name.partition(".")[0]
    if PathFinder.find_spec(first, [str(folder)]):
        elsewhere = found or module_file(first) or first
        raise ValueError(f"{SETTING}={folder}: its {first} is hidden by {elsewhere}: give the module another name")
    return False
