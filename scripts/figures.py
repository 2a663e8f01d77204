"""Writes a sweep's figures and its table for a paper, from its runs' files.

    python -m scripts.figures DIR [--format pdf,svg,png] [--width 3.25in] [--out DIR/figures]
                                  [--reference ENCODING] [--only ENCODING,ENCODING]

DIR is the folder of a sweep or of a single run. Written are the extrapolation curves by protocol and extension, the
differences to the reference at every context length with their intervals, what retrieval and tasks found, and table.tex
and table.md: what the report has, in its colours. --only shows these alone; nothing is computed anew for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.command import end_with, folder_and_options

if TYPE_CHECKING:
    import pandas as pd

    from eval.compare.comparison import Comparison
    from eval.compare.plots import Figure

USAGE = (
    "usage: python -m scripts.figures DIR [--format pdf,svg,png] [--width 3.25in] [--out FOLDER] "
    "[--reference ENCODING] [--only ENCODING,ENCODING]"
)
OPTIONS = ("format", "width", "out", "reference", "only")
INCHES = {"in": 1, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27, "bp": 1 / 72}  # pt as TeX has it
NARROW, BROAD = 2, 20  # inches


def main(arguments: list[str]) -> None:
    from eval.compare.comparison import read_comparison
    from eval.compare.figures import styles_of
    from eval.compare.paper import draw
    from eval.compare.paper_table import latex, markdown, paper_tables

    folder, options = folder_and_options([*spelled(arguments)], USAGE, OPTIONS)
    formats, width = formats_of(options.get("format", "pdf,svg,png")), inches(options.get("width", "3.25in"))
    out = Path(options.get("out", Path(folder, "figures")))
    comparison = read_comparison(folder, reference=options.get("reference"))
    if comparison.objection:
        raise ValueError(comparison.objection)
    style = styles_of(comparison)
    shown = re.split(r",\s*(?![^()]*\))", options["only"]) if "only" in options else list(style)
    if unknown := [name for name in shown if name not in style]:
        raise ValueError(f"only={', '.join(unknown)}: not in {folder}, which has {', '.join(style)}")
    figures = {name: each for name, each in paper_figures(comparison, shown) if each.data}
    tables = paper_tables(only(comparison, shown))
    if not figures and not tables:
        raise ValueError(f"{folder}: no run has a figure to show; python -m scripts.report {folder} says why")
    make_folder(out)
    for name, figure in figures.items():
        files = {out / f"{name}.{form}": each for form, each in draw(figure, style, width, formats).items()}
        write(files, figure.title)
    for name, table in tables.items():
        stem, label = out / slug("table", name), slug(comparison.path.resolve().name, name)
        texts = {".tex": latex(table, label), ".md": markdown(table)}
        write({stem.with_name(stem.name + suffix): text.encode() for suffix, text in texts.items()}, table.title)


def write(files: Mapping[Path, bytes], title: str) -> None:
    """Each whole or not at all, and says so in a line."""
    from eval.record.files import write_atomic

    for path, content in files.items():
        write_atomic(path, content)
    first, *others = files
    print(f"{', '.join([str(first), *(path.suffix for path in others)])}: {title}")


def spelled(arguments: Iterable[str]) -> Iterator[str]:
    """--NAME VALUE and --NAME=VALUE as NAME=VALUE."""
    rest = iter(arguments)
    for argument in rest:
        name = argument.removeprefix("--")
        if argument.startswith("--") and name in OPTIONS:
            value = next(rest, None)
            if value is None:
                raise ValueError(f"{argument} needs a value; {USAGE}")
            yield f"{name}={value}"
        else:
            yield name if name.partition("=")[0] in OPTIONS else argument


def formats_of(text: str) -> list[str]:
    """Raises ValueError for a format that there isn't."""
    from eval.compare.paper import FORMATS

    found = list(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if unknown := [name for name in found if name not in FORMATS]:
        raise ValueError(f"format={text}: {unknown[0] or 'an empty name'} is none of {', '.join(FORMATS)}")
    return found


def inches(text: str) -> float:
    """A length with its unit, in inches. Raises ValueError where it is none, or no width of a figure.

    >>> inches("3.25in"), round(inches("241.1pt"), 2), round(inches("84 mm"), 2)
    (3.25, 3.34, 3.31)
    """
    match = re.fullmatch(rf"\s*(\d+\.?\d*|\.\d+)\s*({'|'.join(INCHES)})\s*", text, re.ASCII)
    if match is None:
        raise ValueError(f"width={text}: must be a length with its unit ({', '.join(INCHES)}), as in 3.25in or 8.5cm")
    width = float(match[1]) * INCHES[match[2]]
    if not NARROW <= width <= BROAD:
        raise ValueError(f"width={text}: must be from {NARROW}in to {BROAD}in")
    return width


def make_folder(path: Path) -> None:
    """Raises OSError, in a sentence, where it can't be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path} could not be made: {error.strerror}; choose another folder by --out") from error


def slug(*parts: str) -> str:
    """A file's name of these: letters, digits, dots and underscores, and a dash between others.

    >>> slug("differences", "fixed_targets", "256 (8x)", "to rope (base=500)")
    'differences-fixed_targets-256-8x-to-rope-base-500'
    """
    return re.sub(r"[^\w.]+", "-", "-".join(filter(None, parts)), flags=re.ASCII).strip("-.")


def paper_figures(comparison: Comparison, shown: Collection[str]) -> Iterator[tuple[str, Figure]]:
    """The figures of these labels, by the names of their files."""
    from eval.compare import figures, retrieval_report, tables
    from eval.compare.retrieval import retrieval_of

    style, here = figures.styles_of(comparison), only(comparison, shown)
    for protocol, extension in tables.places(here.summary):
        if extension != "none" and one_of(here.summary, "protocol", protocol, extension):
            continue  # which is in a map of all extensions
        name = slug(protocol, under(extension))
        yield f"perplexity-{name}", figures.perplexity_figure(here, style, protocol, extension)
        for length, reference in tables.judged(here, protocol, extension):
            if reference == comparison.reference:
                figure = figures.difference_figure(here, style, protocol, extension, length, reference)
                yield slug("differences", name, str(length), "to", reference), figure
    for extension in here.positions["extension"].unique():
        yield slug("positions", under(extension)), figures.position_figure(here, style, extension)
    for protocol, label in tables.extended(here.summary):
        yield slug("extensions", protocol, label), figures.extension_figure(here, protocol, label)
    for task, extension in tables.tasks(here.tasks):
        yield slug("task", task, under(extension)), figures.task_figure(here, style, task, extension)
    if (found := retrieval_of(comparison)) and len(found.summary):
        kept = {name: of(getattr(found, name), shown) for name in ("summary", "by_depth")}
        found = replace(found, **kept)
        for needle, label in retrieval_report.extended(found):
            figure = retrieval_report.extension_maps(comparison, found, needle, label)
            yield slug("retrieval-extensions", needle, label), figure
        for needle, extension in retrieval_report.places(found):
            if extension != "none" and one_of(found.summary, "needle", needle, extension):
                continue
            name = slug(needle, under(extension))
            curve = retrieval_report.gain_figure(comparison, found, style, needle, extension)
            yield f"retrieval-{name}", curve
            yield f"retrieval-depth-{name}", retrieval_report.encodings_maps(comparison, found, needle, extension)


def under(extension: str) -> str:
    """An extension in a file's name."""
    return "" if extension == "none" else extension


def one_of(rows: pd.DataFrame, name: str, what: str, extension: str) -> bool:
    """Whether a protocol or needle was asked under an extension of one encoding alone."""
    return rows["label"][(rows[name] == what) & (rows["extension"] == extension)].nunique() < 2


def only(comparison: Comparison, labels: Collection[str]) -> Comparison:
    """The comparison's frames with the rows of these labels alone; what was found by all stays as it was found."""
    frames = ("scored", "summary", "differences", "positions", "tasks")
    return replace(comparison, **{name: of(getattr(comparison, name), labels) for name in frames})


def of(rows: pd.DataFrame, labels: Collection[str]) -> pd.DataFrame:
    return rows[rows["label"].isin(labels)] if len(rows) else rows


if __name__ == "__main__":
    end_with(main)
