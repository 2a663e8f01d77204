"""Lets trained models write text, from the same prompt with the same draws, side by side.

    python -m scripts.sample run=DIR[,DIR...] [prompt=TEXT] [tokens=128] [temperature=0.8] [top_k=K] [seed=0]
        [cache_dir=DIR]

DIR is the folder of a run, or of a sweep for all of its finished runs. A text goes on past the tokens that its model
was trained for, and a line says where; without a prompt it is the beginning of a document. temperature=0 always takes
the most likely token, top_k=K chooses among the K most likely ones. cache_dir: where the data are prepared of runs that
an earlier version made, without a tokenizer in their folders.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from conf.mistakes import one_sentence
from eval.record.jobs import MISTAKES
from scripts.command import end_with, number, split_options

if TYPE_CHECKING:
    from eval.record.folder import RunFolder
    from eval.record.sample import Choice

USAGE = (
    "usage: python -m scripts.sample run=DIR[,DIR...] [prompt=TEXT] [tokens=128] [temperature=0.8] [top_k=K] [seed=0] "
    "[cache_dir=DIR]"
)
NUMBERS = {"tokens": int, "temperature": float, "top_k": int, "seed": int}
NARROWEST = 36  # characters of a column
BETWEEN = " | "


def main(arguments: list[str]) -> None:
    options, others = split_options(arguments, USAGE, {"run", "prompt", "cache_dir", *NUMBERS})
    if others or not options.get("run"):
        raise ValueError(USAGE)
    numbers = {name: number(name, options[name], kind) for name, kind in NUMBERS.items() if name in options}

    from eval.record.folder import runs_of
    from eval.record.sample import Choice

    choice = Choice(**numbers)
    folders = [folder for path in options["run"].split(",") for folder in runs_of(Path(path))]
    elsewhere = {"cache_dir": options["cache_dir"]} if "cache_dir" in options else {}
    texts, failed = [], []
    for folder in folders:
        try:
            texts.append(written(folder, options.get("prompt", ""), choice, **elsewhere))
        except MISTAKES as error:
            if len(folders) == 1:
                raise
            failed.append(folder.name)
            print(f"{folder.name}: {one_sentence(error)}", file=sys.stderr)
    if texts:
        print(beside(texts, shutil.get_terminal_size().columns if sys.stdout.isatty() else 0))
    if failed:
        raise ValueError(f"{len(failed)} of {len(folders)} runs wrote nothing: {', '.join(failed)}")


def written(folder: RunFolder, prompt: str, choice: Choice, **elsewhere: str) -> str:
    """The run's name, its prompt and how its model goes on, in lines."""
    from eval.record.sample import go_on
    from eval.record.trained import load

    trained = load(folder.path, **elsewhere)
    found, length = go_on(trained, prompt, choice), trained.model.trained_length
    lines = [f"== {folder.name}, trained at {length:,} tokens", found.prompt + found.text]
    if found.beyond:
        lines += [f"-- beyond {length:,} tokens", found.beyond]
    if found.stopped:
        lines += [f"-- ended: {found.stopped}"]
    return "\n".join(lines)


def beside(texts: Sequence[str], width: int) -> str:
    """Texts in columns, where so many characters have room for that; else one after the other."""
    column = (width + len(BETWEEN)) // max(1, len(texts)) - len(BETWEEN)
    if len(texts) < 2 or column < NARROWEST:
        return "\n\n".join(texts)
    wrapped = [
        [part for line in text.expandtabs().splitlines() for part in textwrap.wrap(line, column) or [""]]
        for text in texts
    ]
    rows = zip_longest(*wrapped, fillvalue="")
    return "\n".join(BETWEEN.join(part.ljust(column) for part in row).rstrip() for row in rows)


if __name__ == "__main__":
    end_with(main)
