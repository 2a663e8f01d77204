"""Lists every encoding of conf/encoding: what it learns, how far it goes, which hooks it uses and whose paper it is.

python -m scripts.encodings                         # a table
python -m scripts.encodings --json                  # the same for programs
python -m scripts.encodings encoding_path=FOLDER    # with those of a folder of your own
python -m scripts.encodings --write                 # writes the lists in README.md and tests/README.md anew
python -m scripts.encodings --check                 # says whether they are as --write would have them

Parameters are counted at the default model: width 128, 4 heads, 4 layers, a training context of 128 tokens.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from conf.schema import ROOT, fewest_layers, options
from eval.record.terminal import console
from model.catalogue import FAMILIES, encoding_config, encoding_family, encoding_names
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.combined import uses
from model.encodings.layers import Layers
from scripts.command import end_with, rewritten

SHAPE = Shape(dim=128, num_heads=4, num_layers=4, context=128, separators={"line": (3,), "sentence": (4,)})
README = ROOT / "README.md"
LIST = "encodings"  # its place in the README
WRITE = "python -m scripts.encodings --write"
HOOKS = ("positions", "embed", "rotate", "unrotate", "rescore", "score_mod", "weigh")


def describe(name: str) -> dict[str, Any]:
    """One encoding's row: family, class, parameters, longest length (None: any), claims, hooks, paper (or None)."""
    encoding = build_encoding(config := encoding_config(name), with_layers(SHAPE, config))
    return {
        "name": name,
        "family": encoding_family(name),
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
    columns = ("encoding", "family", "class", "parameters", "longest", "relative", "hooks", "paper")
    out = Table(*columns, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        within = f" ({', '.join(row['inner'])})" if row["inner"] else ""
        longest = "any" if row["max_length"] is None else f"{row['max_length']:,}"
        out.add_row(
            row["name"],
            row["family"],
            row["class"] + within,
            f"{row['parameters']:,}",
            longest,
            "yes" if row["relative"] else "no",
            ", ".join(row["hooks"]),
            (row["paper"] or "").removeprefix("https://"),
        )
    for index in (3, 4):
        out.columns[index].justify = "right"
    out.columns[0].no_wrap = True  # what a user types
    out.columns[-1].overflow = "fold"
    return out


def readme_with_families(readme: str, names: Collection[str]) -> str:
    """The README's text, its list written anew: these encodings, by family."""
    rows = ["| family | names |", "|---|---|"]
    for family, page in FAMILIES.items():
        if of_family := [name for name in sorted(names) if encoding_family(name) == family]:
            rows.append(f"| {family}{f' ([{page}]({page}))' if page else ''} | {', '.join(of_family)} |")
    return rewritten(readme, LIST, "\n".join(rows))


def listed_in(readme: str) -> set[str]:
    """The encodings that the README's list names."""
    rows = readme.partition(f"<!-- {LIST}: begin -->")[2].partition("<!--")[0].splitlines()[3:]
    return {name for row in rows for name in row.rstrip(" |").rpartition("| ")[2].split(", ")}


def generated() -> Iterator[tuple[Path, str]]:
    """The files with a list of encodings, each as it is with all that there are in the checkout."""
    yield README, readme_with_families(README.read_text(encoding="utf-8"), options("encoding"))
    references = importlib.import_module("tests.references")
    yield references.README, references.readme_with_table(references.README.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.encodings", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    parser.add_argument("--write", action="store_true", help="write the lists of README.md and tests/README.md anew")
    parser.add_argument("--check", action="store_true", help="say whether these lists are as --write would have them")
    given = parser.parse_args(arguments)
    if given.write or given.check:
        for path, text in generated():
            if text != path.read_text(encoding="utf-8"):
                if given.check:
                    raise ValueError(f"{path.relative_to(ROOT)}: its list of encodings is stale: {WRITE}")
                path.write_text(text, encoding="utf-8")
                print(f"{path.relative_to(ROOT)} has its list of encodings anew")
        return
    rows = [describe(name) for name in encoding_names()]
    if given.json:
        print(json.dumps(rows, indent=2))
    else:
        console().print(table(rows))


if __name__ == "__main__":
    end_with(main)
