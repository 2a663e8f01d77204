"""The encodings and length extensions there are, read from conf/*/*.yaml: one loader for tests, scripts and runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import OmegaConf

from conf.compose import composed, composed_each
from conf.own import check_name, own_encodings, own_folder
from conf.schema import CONF, options

FAMILIES = {  # of encodings, in the README's order, with the page that is about one; the last: whose files name none
    "none": None,
    "added to the embeddings": None,
    "rotations": None,
    "rotations by content": None,
    "biases by distance": None,
    "relative embeddings": None,
    "biases by content, gates": None,
    "around another encoding": None,
    "layers that differ": "docs/layers.md",
    "others": None,
}


def encoding_names() -> list[str]:
    """The names of all encodings, sorted: the yaml files of conf/encoding, and of a folder of one's own in use."""
    return sorted([*options("encoding"), *own_encodings()])


def encoding_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of an encoding as a plain dict, ready for `build_encoding`.

    overrides: as on the command line of train.py: "encoding.base=500000", "encoding@encoding.inner=t5".
    Works inside a running Hydra job too. Raises ValueError for a name that neither conf/encoding nor a folder of one's
    own has, for a file that names it otherwise, or an override that doesn't fit.

    >>> encoding_config("rope", ["encoding.base=500000"])["base"]
    500000
    """
    return _config("encoding", name, overrides)


def encoding_family(name: str) -> str:
    """Which of FAMILIES an encoding belongs to: its yaml file says so in a line, `# family: rotations`.

    Raises ValueError for one that there isn't.

    >>> encoding_family("rope")
    'rotations'
    """
    path = CONF / "encoding" / f"{name}.yaml"
    if not path.exists() and (folder := own_folder()):
        path = folder / path.name
    *others, last = FAMILIES
    said = re.search(r"^# family: *(.*\S)", path.read_text(encoding="utf-8"), re.MULTILINE)
    family = said.group(1) if said else last
    if family not in FAMILIES:
        raise ValueError(f"{path}: its family is {family!r}: must be among {', '.join(others)}")
    return family


def extension_names() -> list[str]:
    """The names of all length extensions, sorted: the yaml files of conf/extension."""
    return options("extension")


def extension_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of a length extension as a plain dict, ready for `build_extension`; otherwise as `encoding_config`."""
    return _config("extension", name, overrides)


def extension_configs(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`extension_config` of each, by name, composed at once."""
    return {name: _checked("extension", name, found) for name, found in composed_each("extension", names).items()}


def _config(group: str, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    config = OmegaConf.to_container(composed(None, f"+{group}={name}", *overrides)[group], resolve=True)
    return _checked(group, name, config, any(override.startswith(f"{group}.name=") for override in overrides))


def _checked(group: str, name: str, config: dict[str, Any], renamed: bool = False) -> dict[str, Any]:
    if config.get("name") != name and not renamed:
        check_name(CONF / group / f"{name}.yaml")
    if "_target_" not in config:
        raise ValueError(f"conf/{group}/{name}.yaml: lacks _target_; see the files beside it")
    return config
