"""Lists every encoding of conf/encoding: what it learns, how far it goes, which hooks it uses and whose paper it is.

python -m scripts.encodings            # a table
python -m scripts.encodings --json     # the same for programs

Parameters are counted at the default model: width 128, 4 heads, 4 layers, a training context of 128 tokens.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.table import Table

from conf.schema import fewest_layers
from eval.record.terminal import console
from model.catalogue import encoding_config, encoding_names
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.combined import uses
from model.encodings.layers import Layers
from scripts.command import end_with

SHAPE = Shape(dim=128, num_heads=4, num_layers=4, context=128, separators={"line": (3,), "sentence": (4,)})
HOOKS = ("positions", "embed", "rotate", "unrotate", "rescore", "score_mod", "weigh")


def describe(name: str) -> dict[str, Any]:
    """One encoding's row: its class, parameters, longest length (None: unlimited), claims, hooks, paper (or None)."""
    encoding = build_encoding(config := encoding_config(name), with_layers(SHAPE, config))
    return {
        "name": name,
        "class": type(encoding).__name__,
        "inner": [type(part).__name__ for part in inner(encoding)],
        "parameters": sum(parameter.numel() for parameter in encoding.parameters()),
        "max_length": encoding.max_length,
        "relative": encoding.relative,
        "hooks": [hook for hook in HOOKS if used(encoding, hook)],
        "paper": paper(type(encoding)),
    }


def with_layers(shape: Shape, config: Mapping[str, Any]) -> Shape:
    """The shape, with more layers where the encoding of a config has a longer pattern of them."""
    return replace(shape, num_layers=max(shape.num_layers, fewest_layers(config)))


def used(encoding: PositionEncoding, hook: str) -> bool:
    """Whether an encoding has a hook of its own, or one of the parts of which its layers are."""
    return any(uses(part, hook) for part in (encoding.parts.values() if isinstance(encoding, Layers) else [encoding]))


def inner(encoding: PositionEncoding) -> list[PositionEncoding]:
    """The encodings that this one wraps or combines."""
    return [module for module in encoding.modules() if isinstance(module, PositionEncoding) and module is not encoding]


def paper(cls: type[PositionEncoding]) -> str | None:
    """The first link in a class's docstring, or else in that of a class it varies."""
    for each in cls.__mro__[: cls.__mro__.index(PositionEncoding)]:
        if link := re.search(r"https?://[^\s),;]*[^\s),;.:]", inspect.cleandoc(each.__dict__.get("__doc__") or "")):
            return link.group()
    return None


def table(rows: Sequence[dict[str, Any]]) -> Table:
    out = Table(
        "encoding", "class", "parameters", "longest", "relative", "hooks", "paper", box=box.SIMPLE, pad_edge=False
    )
    for row in rows:
        within = f" ({', '.join(row['inner'])})" if row["inner"] else ""
        longest = "any" if row["max_length"] is None else f"{row['max_length']:,}"
        out.add_row(
            row["name"],
            row["class"] + within,
            f"{row['parameters']:,}",
            longest,
            "yes" if row["relative"] else "no",
            ", ".join(row["hooks"]),
            (row["paper"] or "").removeprefix("https://"),
        )
    for index in (2, 3):
        out.columns[index].justify = "right"
    out.columns[0].no_wrap = True  # what a user types
    out.columns[-1].overflow = "fold"
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.encodings", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    options = parser.parse_args(arguments)
    rows = [describe(name) for name in encoding_names()]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        console().print(table(rows))


if __name__ == "__main__":
    end_with(main)
