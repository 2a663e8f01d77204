"""How a report shows retrieval: sentences, tables, curves and heat maps of depth by context length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from eval.compare.comparison import MANY, Comparison
from eval.compare.plots import Figure, Style, axis, curves, heat_maps, layout, length_axis
from eval.compare.retrieval import LEAST, PASS, Retrieval, retrieval_of
from eval.compare.show import (
    Table,
    column,
    columns,
    columns_by_length,
    intervals,
    listed,
    show_gain,
    show_interval,
    show_length,
    show_level,
    show_share,
)
from eval.compare.tables import name_of, sure_of

SHOWN = 8  # of many encodings, heat maps of so many: those that gain most at the longest context
Show = Callable[[float], str]
WHAT = {"pair": "a pair of words", "span": "a span of text"}


def retrieval_sentences(comparison: Comparison) -> list[str]:
    """What is found of what lies far back, and where that verdict is another than that by perplexity."""
    found = retrieval_of(comparison)
    if found is None:
        return []
    said = [f"Retrieval of {WHAT[name]} is not compared: {why}." for name, why in found.objections.items()]
    if found.summary.empty or found.last.empty:
        return said
    rows, trained, needle = found.last, found.trained, WHAT[found.headline]
    weak = trained[trained["gain"] < LEAST]
    if len(trained) and len(weak) == len(trained):
        who = "No encoding retrieves" if len(trained) > 1 else f"{trained['label'].iloc[0]} doesn't retrieve"
        return [
            *said,
            f"{who} at its training context: {needle} in the context is worth {show_gain(trained['gain'].max())} nats "
            "a token at most, so that retrieval beyond it says nothing; train on more tokens (training.tokens).",
        ]
    if rows["context_length"].iloc[0] == comparison.context:
        return said
    said.append(_verdict(rows, found, comparison, needle))
    if lost := sorted(weak["label"]):
        said.append(f"At the training context {listed(lost)} {'do' if len(lost) > 1 else 'does'} not retrieve.")
    if unsure := sorted(trained["label"][trained["recovery"].isna() & (trained["gain"] >= LEAST)]):
        verb = "retrieve" if len(unsure) > 1 else "retrieves"
        said.append(f"Whether {listed(unsure)} {verb} at the training context is not separable from chance: add seeds.")
    if found.unasked:
        said.append(
            f"Of retrieval {listed(found.unasked)} {'have' if len(found.unasked) > 1 else 'has'} no figure there."
        )
    if found.together and len(rows) > 1:
        length, *sets = found.together
        said.append(f"At {length / comparison.context:g}x, {_agreement(*sets)}")
    return said


def _agreement(by_perplexity: set[str], by_retrieval: set[str]) -> str:
    """Whether the two verdicts name the same encodings."""
    lost, won = sorted(by_perplexity - by_retrieval), sorted(by_retrieval - by_perplexity)
    if not lost and not won:
        return f"perplexity and retrieval agree on who can't be told from the best: {listed(sorted(by_retrieval))}."
    parts = []
    if lost:
        parts.append(f"{listed(lost)} can't be told from the best by perplexity, but can by retrieval")
    if won:
        parts.append(f"{listed(won)} can't by retrieval, but can by perplexity")
    return f"the two verdicts disagree: {'; '.join(parts)}."


def _verdict(rows: pd.DataFrame, found: Retrieval, comparison: Comparison, needle: str) -> str:
    """Who finds most at the longest context, of its gain at the training context, and in its worst seed."""
    length, most = rows["context_length"].iloc[0], rows.iloc[0]
    where = f"By retrieval at {show_length(length, comparison.context)} tokens"
    best = [label for label in rows["label"] if label in found.best]
    if len(rows) == 1:
        said = f"{most.label} gains {_gained(most, comparison.level)} from {needle} in its context"
    elif len(best) == 1:
        most = rows[rows["label"] == best[0]].iloc[0]
        said = f"{most.label} is the best of {len(rows)}: it gains {_gained(most, comparison.level)} from {needle}"
    else:
        apart = "apart" if len(best) == len(rows) else f"from the best of {len(rows)}"
        said = (
            f"{listed(best)} can't be told {apart}: the most, {most.label}, gains "
            f"{_gained(most, comparison.level)} from {needle}"
        )
    return f"{where}, {said}{_recovered(most)}."


def _gained(row: pd.Series, level: float) -> str:
    """ "0.38 nats a token (95 % interval 0.29 to 0.47)"."""
    interval = show_interval(row["gain_low"], row["gain_high"], show_gain)
    sure = f"{show_level(level)} interval {interval}" if interval else row["interval_reason"]
    return f"{show_gain(row['gain'])} nats a token ({sure})"


def _recovered(row: pd.Series) -> str:
    """The share of its gain at the training context, and of its seeds."""
    if pd.isna(row["recovery"]):
        return ""
    said = f", {show_share(row['recovery'])} of what it gains at the training context"
    if row["seeds"] > 1:
        passed = round(row["passed"] * row["seeds"])
        said += f" (its worst seed {show_share(row['worst_seed'])}; {passed} of {row['seeds']} seeds keep "
        said += f"{show_level(PASS)} or more)"
    return said


def retrieval_tables(comparison: Comparison) -> Iterator[Table]:
    """Of each needle and extension: gain, recovery by seed, and exact match, by context length."""
    found = retrieval_of(comparison)
    if found is None or found.summary.empty:
        return
    for needle, extension in places(found):
        yield from _tables(comparison, found, needle, extension)


def retrieval_panels(comparison: Comparison, style: Mapping[str, Style]) -> list[Figure | Table]:
    """The section of the page: of each needle and extension a curve over the context length and the tables; of each
    needle heat maps of depth by length, of the encodings, and of each encoding under its extensions."""
    found = retrieval_of(comparison)
    if found is None or found.summary.empty:
        return []
    panels: list[Figure | Table] = []
    for needle, extension in places(found):
        panels.append(gain_figure(comparison, found, style, needle, extension))
        panels.append(encodings_maps(comparison, found, needle, extension))
        panels += _tables(comparison, found, needle, extension)
    for needle, label in extended(found):
        panels.append(extension_maps(comparison, found, needle, label))
    return panels


def places(found: Retrieval) -> list[tuple[str, str]]:
    """Each (needle, extension); the headline's and no extension first."""
    pairs = set(zip(found.summary["needle"], found.summary["extension"], strict=True))
    return sorted(pairs, key=lambda at: (at[0] != found.headline, at[0], at[1] != "none", at[1]))


def extended(found: Retrieval) -> list[tuple[str, str]]:
    """Each (needle, label) that was asked under extensions."""
    rows = found.summary[found.summary["extension"] != "none"]
    return list(dict.fromkeys(zip(rows["needle"], rows["label"], strict=True)))


def _here(found: Retrieval, needle: str, extension: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The summary's rows of a place, and its labels in order: most gain first by the longest context, then the next."""
    here = found.summary.query("needle == @needle and extension == @extension")
    gains = here.pivot(index="label", columns="context_length", values="gain")
    rows = here.groupby("label").agg(seeds=("seeds", "max"), control=("control", lambda values: values.notna().any()))
    return here, rows.join(-gains).sort_values(["control", *sorted(gains, reverse=True)])


def _table(comparison: Comparison, here: pd.DataFrame, order: pd.DataFrame, value: str, show: Show, note: str) -> Table:
    """A row a label, a column a context length. here: the rows of one needle and extension, with what stands beside
    each value in `detail`; order: its labels, as `_here` has them."""
    lengths, (needle, extension) = sorted(here["context_length"].unique()), here[["needle", "extension"]].iloc[0]
    titles = {length: show_length(length, comparison.context) for length in lengths}
    shown = columns_by_length(here.assign(at=here["context_length"]), order.index, value, show, titles)
    return Table(
        name_of(f"Retrieval of {WHAT[needle]}, {value.replace('_', ' ')}", extension),
        [column("encoding", order.index), *columns(order, "seeds"), *shown],
        note,
        {"needle": needle, "extension": extension},
        order.index,
    )


def _tables(comparison: Comparison, found: Retrieval, needle: str, extension: str) -> Iterator[Table]:
    """Gain, recovery by seed, and exact match, of one needle and extension."""
    here, order = _here(found, needle, extension)
    note = (
        "by how much lower the loss is with the needle in the context than without it, nats a token, over all depths; "
    )
    gains = here.assign(detail=intervals(here, "gain", show_gain))
    yield _table(comparison, gains, order, "gain", show_gain, note + sure_of(here, comparison.level))
    note = (
        "the gain as a share of that at the training context without an extension, with its interval; a seed passes "
        f"that keeps {show_level(PASS)} or more; – where there is too little to keep"
    )
    recovered = here.assign(detail=[_seeds(row) for row in here.itertuples()])
    yield _table(comparison, recovered, order, "recovery", show_share, note)
    exact = here.rename(columns={"exact_low": "exact_match_low", "exact_high": "exact_match_high"})
    exact = exact.assign(detail=intervals(exact, "exact_match", show_share))
    note = "share of the answers of which each token is the model's most likely one, over all depths"
    yield _table(comparison, exact, order, "exact_match", show_share, note)


def _seeds(row: Any) -> str:
    """The interval of a recovery, its worst seed, and how many of them pass."""
    interval = show_interval(row.recovery_low, row.recovery_high, show_share) * (row.recovery_low < row.recovery_high)
    if row.seeds == 1 or pd.isna(row.worst_seed):
        return interval
    passed = f"worst {show_share(row.worst_seed)}, {round(row.passed * row.seeds)} of {row.seeds} pass"
    return "; ".join(filter(None, [interval, passed]))


def gain_figure(
    comparison: Comparison, found: Retrieval, style: Mapping[str, Style], needle: str, extension: str
) -> Figure:
    """Gain against context length, with bands for the intervals."""
    here = found.summary.query("needle == @needle and extension == @extension")
    lengths = sorted(here["context_length"].unique().tolist())
    x = length_axis(lengths, comparison.context)
    return Figure(
        name_of(f"Gain of {WHAT[needle]} against context length", extension),
        curves(here, style, "context_length", "gain", ("gain_low", "gain_high")),
        layout(x, axis("gain, nats a token"), comparison.context),
        {"needle": needle, "extension": extension},
    )


def encodings_maps(comparison: Comparison, found: Retrieval, needle: str, extension: str) -> Figure:
    """A heat map of each encoding: gain by depth and context length."""
    here = found.by_depth.query("needle == @needle and extension == @extension")
    _, rows = _here(found, needle, extension)
    labels = rows.index.tolist()
    if len(labels) > MANY:
        labels = [label for label in labels if label in {*labels[:SHOWN], comparison.reference}]
    return Figure(
        name_of(f"Gain of {WHAT[needle]} by depth and context length", extension),
        *_maps(comparison, {label: here[here["label"] == label] for label in labels}),
        {"needle": needle, "extension": extension},
    )


def extension_maps(comparison: Comparison, found: Retrieval, needle: str, label: str) -> Figure:
    """A heat map of each extension of one encoding, beside that without any."""
    here = found.by_depth.query("needle == @needle and label == @label")
    names = sorted(here["extension"].unique(), key=lambda name: (name != "none", name))
    return Figure(
        f"Gain of {WHAT[needle]} for {label} under extensions, by depth and context length",
        *_maps(comparison, {f"{label}, {name}": here[here["extension"] == name] for name in names}),
        {"needle": needle, "encoding": label},
    )


def _maps(comparison: Comparison, frames: Mapping[str, pd.DataFrame]) -> tuple[list[dict], dict]:
    """plotly's data and layout of heat maps of the gain."""
    grids = {
        title: frame.pivot(index="depth", columns="context_length", values="gain") for title, frame in frames.items()
    }
    named = {
        title: grid.rename(columns=lambda length: f"{length / comparison.context:g}x") for title, grid in grids.items()
    }
    titles = ("context length", "depth", "gain, nats a token")
    return heat_maps(named, titles, show_gain, "nats a token")
