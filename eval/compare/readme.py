"""What the README shows of the bank: a table of the encodings that everyone knows and of each family's best, and a
picture of all. Both name the file that they were made from, by its hash, so that a test sees when they are stale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from eval.compare.bank import VERSION, whole
from eval.compare.bank_file import Contents
from eval.compare.comparison import Comparison
from eval.compare.conclusion import ONE_SEED, conclude
from eval.compare.paper import LOOK, saved, set_ticks
from eval.compare.plots import COLOURS, GREY, MOST_USED
from eval.compare.report import as_text, markdown_table
from eval.compare.show import Table, column, show_length, show_percent, show_perplexity

PICTURE = "docs/pictures/standard.png"
BANK = "Bank"  # the picture's text with the hash of its bank
WIDTH, ROW = 6.5, 0.145  # inches


def readme_part(
    comparison: Comparison, contents: Contents, rows: pd.DataFrame, families: Mapping[str, str], digest: str
) -> str:
    """Markdown. rows: those of `ranking.ranked`; families: by encoding; digest: the bank's SHA-256."""
    training, data = comparison.compared[0].settings.training, comparison.compared[0].settings.data["name"]
    verdict, *others = conclude(replace(comparison, remarks=[]))
    there, all_of_them = len(contents.entries), whole()
    runs = f"{there} runs" if there == all_of_them else f"{there} of {all_of_them} runs are in it so far"
    parts = [
        signed(digest),
        f"Perplexity by fixed targets at the training context of {comparison.context} tokens and beyond it, after "
        f"{training.tokens:,} tokens of {data.capitalize()}; {runs}. The encodings that are compared "
        f"most, and of every family the lowest at {rows['context_length'].max():,} tokens; "
        f"[all {rows['label'].nunique()}, in groups that can't be told apart](docs/results/standard.md).",
        markdown_table(readme_table(comparison, rows, families)),
        as_text(" ".join([verdict, *({ONE_SEED} & {*others})])),
        f"![Perplexity of every encoding at the training context and at the longest]({PICTURE})",
    ]
    return "\n\n".join(parts)


def signed(digest: str) -> str:
    """What says which bank a page's part was made from."""
    return f"<!-- of results/standard-v{VERSION}.parquet, sha256 {digest} -->"


def readme_table(comparison: Comparison, rows: pd.DataFrame, families: Mapping[str, str]) -> Table:
    """A row an encoding, a column a length, the verdict against the reference at the longest; best first there."""
    lengths = sorted(rows["context_length"].unique().tolist())
    last = rows[rows["context_length"] == lengths[-1]].sort_values("nats")
    best = last.groupby(last["label"].map(families))["label"].first()
    shown = rows[rows["label"].isin([*MOST_USED[: len(COLOURS)], *best])]
    wide = shown.pivot(index="label", columns="context_length", values="perplexity").sort_values(lengths[::-1])
    wide = wide.rename_axis(columns=None).reset_index()
    found = last.set_index("label").reindex(wide["label"])
    said = found["verdict"].where(wide["label"].ne(comparison.reference).to_numpy(), "the reference")
    return Table(
        "",
        [
            column("encoding", wide["label"]),
            column("family", wide["label"].map(families)),
            *(column(show_length(at, comparison.context), wide[at], show_perplexity) for at in lengths),
            column(f"against {comparison.reference} there", found["difference_percent"], show_percent),
            column("", said.astype(object)),
        ],
    )


def readme_picture(comparison: Comparison, rows: pd.DataFrame, digest: str) -> bytes:
    """PNG: a row an encoding, best on top by the longest context, a dot at the training context and one at the longest;
    those that have no figure there stand last."""
    import matplotlib
    from matplotlib.figure import Figure

    ends = [rows["context_length"].min(), rows["context_length"].max()]
    wide = rows.pivot(index="label", columns="context_length", values="perplexity").sort_values(ends[::-1])[ends]
    places = range(len(wide), 0, -1)
    with matplotlib.rc_context(LOOK):
        canvas = Figure(figsize=(WIDTH, 0.7 + ROW * len(wide)), layout="constrained")
        axes = canvas.add_subplot(xscale="log")
        axes.hlines(places, wide.min(axis=1), wide.max(axis=1), color=GREY, linewidth=1, zorder=1)
        for at, colour, marker in zip(ends, COLOURS, "oD", strict=False):
            name = f"at a context of {show_length(at, comparison.context)}"
            axes.plot(wide[at], places, marker, color=colour, markersize=3.5, label=name, zorder=2)
        axes.set_yticks(places, wide.index)
        axes.set_ylim(0.3, len(wide) + 0.7)
        axes.tick_params(axis="y", length=0)
        axes.grid(True, axis="x")
        set_ticks(axes, "x", {"type": "log"})
        axes.set_xlabel("perplexity")
        canvas.legend(loc="outside upper center", ncols=2)
        return saved(canvas, "png", **{BANK: digest})


def bank_of(picture: bytes) -> str:
    """The hash of the bank that a picture was made from; nothing where it says none."""
    _, _, rest = picture.partition(f"tEXt{BANK}\0".encode())
    return rest[:64].decode("ascii", "replace")
