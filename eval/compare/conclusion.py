"""What a sweep comes to, in a few sentences: the verdict at the longest context with its uncertainty, then what one
must know to believe it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from eval.compare.comparison import HEADLINE, Comparison
from eval.compare.show import SPACE, show_interval, show_level, show_p, show_percent, show_perplexity


def conclude(comparison: Comparison) -> list[str]:
    """Sentences; the first is the verdict, or says why there is none."""
    if comparison.objection:
        return ["No comparison is made.", comparison.objection]
    rows = last_place(comparison)
    if len(rows):
        length, protocol = rows[["context_length", "protocol"]].iloc[0]
        where = f"At {length / comparison.context:g}x the training context ({length:,} tokens)"
        where += f", by the protocol {protocol}" * (protocol != HEADLINE)
        found = [f"{where}, {_verdict(rows, comparison)}", *_remarks(rows)]
    elif len(comparison.tasks):
        found = [_task_verdict(comparison.tasks)]
    else:
        found = [f"Nothing to compare: of {len(comparison.runs)} runs none has finished with a figure."]
    if left_out := len(comparison.left_out):
        found.append(f"{left_out} of {len(comparison.runs)} runs failed or are missing, and are left out.")
    return found


def last_place(comparison: Comparison) -> pd.DataFrame:
    """The rows at the longest context without an extension, best first: of the headline's protocol where it was run."""
    rows = comparison.summary[comparison.summary["control"].isna()].query("extension == 'none'")
    protocol = HEADLINE if HEADLINE in set(rows["protocol"]) else rows["protocol"].min()
    rows = rows[rows["context_length"] == rows["context_length"].max()]
    return rows[rows["protocol"] == protocol]


def _verdict(rows: pd.DataFrame, comparison: Comparison) -> str:
    best, *others = rows.itertuples()
    reference = next((row for row in (best, *others) if row.label == comparison.reference), None)
    level = show_level(comparison.level)
    interval = show_interval(best.perplexity_low, best.perplexity_high, show_perplexity)
    sure = f"{level} interval {interval}" if interval else best.interval_reason
    figure = f"{best.label} has a perplexity of {show_perplexity(best.perplexity)} ({sure})"
    if not others:
        return f"{figure}{_growth(best, comparison)}."
    if reference is None:
        return (
            f"{figure}, the lowest of {len(rows)}; the reference {comparison.reference} has no figure there to "
            "compare with."
        )
    judged = [row for row in (best, *others) if pd.notna(row.verdict)]
    if not judged:
        return f"{figure}, the lowest of {len(rows)}; none has a seed in common with {comparison.reference}."

    def against(row: Any) -> str:
        """ "a perplexity of 44.6 against rope's 46.1, −3.1 % (95 % interval −4.0 % to −2.1 %, ...)"."""
        theirs = f"{reference.label}'s {show_perplexity(reference.perplexity)}"
        if interval := show_interval(row.difference_low, row.difference_high, show_percent):
            p = show_p(row.p_holm)
            p = f"p{SPACE}{p}" if p.startswith("<") else f"p{SPACE}={SPACE}{p}"
            sure = f"{level} interval {interval}; {p}, corrected for all comparisons"
        else:
            sure = row.verdict_reason
        change = show_percent(row.difference_percent)
        return f"a perplexity of {show_perplexity(row.perplexity)} against {theirs}, {change} ({sure})"

    if better := [row for row in judged if row.verdict == "better"]:
        return f"{better[0].label} is better than {reference.label}: {against(better[0])}."
    if pd.isna(best.verdict):
        nearest = f"the nearest, {judged[0].label}, is {judged[0].verdict}"
        return f"no encoding is better than {reference.label}; {nearest}: {against(judged[0])}."
    return f"no encoding is separably better than {reference.label}; the lowest, {best.label}, has {against(best)}."


def _growth(row: Any, comparison: Comparison) -> str:
    """How much more that is than at the training context, where it was scored there."""
    at = comparison.summary[comparison.summary["context_length"] == comparison.context]
    at = at.query("protocol == @row.protocol and extension == @row.extension and label == @row.label")
    if at.empty or row.context_length == comparison.context:
        return ""
    before = at["perplexity"].iloc[0]
    change = show_percent(100 * (row.perplexity / before - 1))
    return f", {change} against its {show_perplexity(before)} at the training context"


def _remarks(rows: pd.DataFrame) -> Iterator[str]:
    """How the encodings fall, what the sweep could have seen, and what its intervals leave out."""
    judged = rows[rows["verdict"].notna()]
    counts = judged["verdict"].value_counts()
    lower = rows["label"][~(rows["verdict"] == "better").cummax()].tolist()
    if lower and "better" in counts:
        yield f"{' and '.join(lower)} came out lower still, but not separably so."
    if len(judged) > 1:
        fall = ", ".join(f"{counts[word]} {word}" for word in ("better", "worse", "not separable") if word in counts)
        yield f"Of {len(judged)} encodings against {judged['reference'].iloc[0]}: {fall}."
    seen = judged["smallest_detectable"][judged["verdict"] == "not separable"].dropna()
    if len(seen):
        sizes = dict.fromkeys(show_percent(100 * math.expm1(nats)).lstrip("+") for nats in (seen.min(), seen.max()))
        yield f"Where nothing is separable, a difference in perplexity of {' to '.join(sizes)} would have been seen."
    if rows["seeds"].min() == 1:
        yield "With one seed, intervals and verdicts cover the held-out windows only: another seed may turn them round."


def _task_verdict(tasks: pd.DataFrame) -> str:
    """The most exact at the longest length of the first task."""
    plain = tasks[tasks["extension"] == "none"]
    rows = plain if len(plain) else tasks
    rows = rows[rows["task"] == rows["task"].iloc[0]]
    best, *others = rows[rows["length"] == rows["length"].max()].itertuples()
    level = [row.label for row in others if row.exact_match == best.exact_match]
    among = f", the most of {len(others) + 1}" if others else ""
    if level:
        among = f", and so {'does' if len(level) == 1 else 'do'} {' and '.join(level)}"
    return (
        f"At {best.length_ratio:g}x the longest trained length ({best.length:,}), {best.label} answers "
        f"{best.exact_match:.1%} of the examples of {best.task} exactly ({best.range}: {best.low:.1%} to "
        f"{best.high:.1%}){among}."
    )
