"""The page of the bank, docs/results/standard.md: every encoding at every length, in groups that can't be told apart
from the best of those that are left; cost beside quality; what the published orderings say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from eval.compare import tables
from eval.compare.bank import EXPERIMENT, VERSION, made_on
from eval.compare.bank_file import Contents
from eval.compare.comparison import HEADLINE, PLACE, Comparison
from eval.compare.conclusion import conclude
from eval.compare.paired import losses_by
from eval.compare.report import as_text, markdown_table
from eval.compare.show import Table, column, columns, columns_by_length, show_length, show_percent, show_perplexity
from eval.measure.statistics import tiers

GROUPS = "a group holds those that can't be told from the best of all that are in no group above it; paired over seeds "
GROUPS += "and windows, corrected for all comparisons with it (Holm); one whose seeds differ much can stand in a group "
GROUPS += "above others that are lower"


def ranked(comparison: Comparison, protocol: str = HEADLINE) -> pd.DataFrame:
    """The summary's rows of a protocol without an extension, controls aside, with `group`: 1 holds the best."""
    rows = comparison.summary[comparison.summary["control"].isna()].query(
        "extension == 'none' and protocol == @protocol"
    )
    found = {}
    for (_, _, length), losses, *scored in losses_by(plain_windows(comparison, protocol), PLACE, "label"):
        for number, names in enumerate(tiers(losses, *scored, level=comparison.level), start=1):
            found |= {(length, name): number for name in names}
    places = zip(rows["context_length"], rows["label"], strict=True)
    return rows.assign(group=[found[place] for place in places])


def plain_windows(comparison: Comparison, protocol: str = HEADLINE) -> pd.DataFrame:
    """The encodings' scored windows by a protocol, without an extension, controls aside."""
    windows = comparison.windows.query("extension == 'none' and protocol == @protocol and position == 0")
    return windows[windows["control"].isna()]


def overview_table(comparison: Comparison, rows: pd.DataFrame) -> Table:
    """A row an encoding, a column a length: perplexity, and in brackets the group; best first by the longest."""
    lengths = sorted(rows["context_length"].unique().tolist())
    titles = {length: show_length(length, comparison.context) for length in lengths}
    order = rows.pivot(index="label", columns="context_length", values="nats").sort_values(lengths[::-1]).index
    shown = rows.assign(at=rows["context_length"], detail=rows["group"].map(str))
    seeds = rows.groupby("label")["seeds"].max().loc[order]
    return Table(
        "Perplexity and group by context length",
        [
            column("encoding", order),
            column("seeds", seeds, "{:d}".format),
            *columns_by_length(shown, order, "perplexity", show_perplexity, titles),
        ],
        f"in brackets the group: {GROUPS}; – is not defined there, or not trained in every seed",
    )


def group_table(comparison: Comparison, rows: pd.DataFrame, length: int) -> Table:
    """A row a group at one length."""
    here = rows[rows["context_length"] == length].sort_values(["group", "nats"])
    named = here.assign(said=here["label"] + " " + here["perplexity"].map(show_perplexity))
    groups = named.groupby("group")["said"].agg(", ".join)
    return Table(
        f"At {show_length(length, comparison.context)}",
        [column("group", pd.Series(groups.index), "{:d}".format), column("encodings, best first", groups)],
    )


def cost_table(comparison: Comparison, rows: pd.DataFrame) -> Table:
    """What each costs beside what it comes to at the training context and the longest; best first by the longest."""
    lengths = rows["context_length"].agg(["min", "max"]).tolist()
    wide = rows.pivot(index="label", columns="context_length", values="perplexity")
    found = tables.costs(comparison).set_index("label")
    found = found.assign(speed=100 * (found["tokens_per_second"] / found["tokens_per_second"].max() - 1))
    found = wide[lengths].rename_axis(columns=None).join(found).sort_values(lengths[::-1]).reset_index()
    machines = {made_on(run.results) for run in comparison.compared}
    differ = "; made on different machines, so that speeds and memory don't compare" * (len(machines) > 1)
    perplexities = [
        column(show_length(at, comparison.context), found[at], show_perplexity) for at in dict.fromkeys(lengths)
    ]
    return Table(
        "Cost beside quality",
        [
            column("encoding", found["label"]),
            *perplexities,
            *columns(found, "own", "tokens_per_second"),
            column("to the fastest", found["speed"], show_percent),
            *columns(found, "peak_memory"),
        ],
        "perplexity; parameters of the encoding's own; training speed and memory, medians over the seeds, of jobs that "
        f"ran side by side: a speed is rough, docs/benchmark/encodings-cpu.csv has those of most alone{differ}",
    )


def literature_tables(statements: pd.DataFrame) -> Iterator[Table]:
    """The published orderings that the bank decides, one way or the other; the note counts the others too."""
    decided = statements[statements["verdict"] != "not separable"]
    for table in (tables.literature_table, tables.retrieval_literature_table) if len(statements) else ():
        note = f"{table(statements).note}; p corrected for all of them; what is not separable is left out below"
        yield replace(table(decided), note=note)


def origin_table(contents: Contents) -> Table:
    """Where the runs were made: a row for each machine, version and commit."""
    facts = [_origin(entry.results, entry.time) for entry in contents.entries]
    rows = pd.DataFrame(facts).groupby(["machine", "commit"], sort=False)["time"].agg(["size", "min", "max"])
    rows = rows.reset_index().rename(columns={"size": "runs", "min": "first", "max": "last"})
    return Table(
        "Where the numbers are from",
        columns(rows, "machine", "commit", "runs", "first", "last"),
        "a commit with + had uncommitted changes",
    )


def _origin(results: dict[str, Any], time: str) -> dict[str, str]:
    commit = results.get("commit") or "not recorded"
    return {"machine": made_on(results), "commit": commit[:8] + "+" * commit.endswith("+"), "time": time[:10]}


def bank_markdown(comparison: Comparison, contents: Contents, rows: pd.DataFrame, statements: pd.DataFrame) -> str:
    """docs/results/standard.md. rows: those of `ranked`; statements: what the literature says; see `literature.check`.
    Raises ValueError where there are no rows."""
    training = comparison.compared[0].settings.training
    if rows.empty:
        raise ValueError(comparison.objection or f"the bank has no figure of {HEADLINE}")
    parts = [
        f"# Every encoding in the standard setting, version {VERSION}",
        f"Written by `python -m scripts.bank write` from results/standard-v{VERSION}.parquet. The setting is "
        f"{EXPERIMENT}: {training.tokens:,} tokens of {comparison.compared[0].settings.data['name']}, a context of "
        f"{comparison.context} tokens; {len(contents.entries)} runs of {len(comparison.encodings)} encodings. "
        "[What it is, and how to put your own beside it](../bank.md).",
        *map(as_text, conclude(comparison)),
    ]
    for table in _page_tables(comparison, contents, rows, statements):
        if len(table):
            parts += [f"## {as_text(table.title)}", as_text(table.note), markdown_table(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _page_tables(
    comparison: Comparison, contents: Contents, rows: pd.DataFrame, statements: pd.DataFrame
) -> Iterator[Table]:
    yield overview_table(comparison, rows)
    for length in np.sort(rows["context_length"].unique()).tolist():
        yield group_table(comparison, rows, length)
    yield cost_table(comparison, rows)
    for protocol, label in tables.extended(comparison.summary):
        if protocol == HEADLINE:
            yield tables.extension_table(comparison, protocol, label)
    yield from literature_tables(statements)
    yield tables.control_table(comparison)
    yield tables.undefined_table(comparison)
    yield origin_table(contents)
