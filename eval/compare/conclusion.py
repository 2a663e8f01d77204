"""What a sweep comes to, in a few sentences: the verdict at the longest context with its uncertainty, then what one
must know to believe it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.compare.comparison import HEADLINE, Comparison
from eval.compare.tables import (
    SPACE,
    difference_interval_of,
    perplexity_interval_of,
    show_level,
    show_p,
    show_percent,
    show_perplexity,
)

Row = Mapping[str, Any]


def conclude(comparison: Comparison) -> list[str]:
    """Sentences; the first is the verdict, or says why there is none."""
    if comparison.objection:
        return ["No comparison is made.", comparison.objection]
    if rows := last_place(comparison):
        ratio = rows[0]["context_length"] / comparison.context
        where = f"At {ratio:g}x the training context ({rows[0]['context_length']:,} tokens)"
        if rows[0]["protocol"] != HEADLINE:
            where += f", by the protocol {rows[0]['protocol']}"
        found = [f"{where}, {_verdict(rows, comparison)}", *_remarks(rows)]
    elif comparison.tasks:
        found = [_task_verdict(comparison)]
    else:
        found = [f"Nothing to compare: of {len(comparison.runs)} runs none has finished with a figure."]
    if left_out := len(comparison.left_out):
        found.append(f"{left_out} of {len(comparison.runs)} runs failed or are missing, and are left out.")
    return found


def last_place(comparison: Comparison) -> list[Row]:
    """The rows at the longest context without an extension, best first: of the headline's protocol where it was run."""
    rows = [row for row in comparison.summary if row["extension"] == "none" and not row["control"]]
    rows = [row for row in rows if row["protocol"] == HEADLINE] or rows
    longest = max((row["context_length"] for row in rows), default=None)
    return [row for row in rows if (row["context_length"], row["protocol"]) == (longest, rows[0]["protocol"])]


def _verdict(rows: Sequence[Row], comparison: Comparison) -> str:
    reference = next((row for row in rows if row["label"] == comparison.reference), None)
    best, *others = rows
    if not others:
        return f"{_figure(best)}{_growth(best, comparison)}."
    if reference is None:
        return (
            f"{_figure(best)}, the lowest of {len(rows)}; the reference {comparison.reference} has no figure there to "
            "compare with."
        )
    judged = [row for row in rows if "verdict" in row]
    if not judged:
        return f"{_figure(best)}, the lowest of {len(rows)}; none has a seed in common with {comparison.reference}."
    theirs = f"{reference['label']}'s {show_perplexity(reference['perplexity'])}"
    if better := [row for row in judged if row["verdict"] == "better"]:
        row = better[0]
        return f"{row['label']} is better than {reference['label']}: {_against(row, theirs)}."
    if best is reference or "verdict" not in best:
        row = judged[0]
        nearest = f"the nearest, {row['label']}, is {row['verdict']}"
        return f"no encoding is better than {reference['label']}; {nearest}: {_against(row, theirs)}."
    lowest = f"the lowest, {best['label']}, has"
    return f"no encoding is separably better than {reference['label']}; {lowest} {_against(best, theirs)}."


def _against(row: Row, theirs: str) -> str:
    """ "a perplexity of 44.6 against rope's 46.1: −3.1 % (95 % interval −4.0 % to −2.1 %, ...)"."""
    change, interval = show_percent(row["difference_percent"]), difference_interval_of(row)
    if interval:
        p = show_p(row["p_holm"])
        p = f"p{SPACE}{p}" if p.startswith("<") else f"p{SPACE}={SPACE}{p}"
        sure = f"{show_level(row['interval_level'])} interval {interval}; {p}, corrected for all comparisons"
    else:
        sure = row["verdict_reason"]
    return f"a perplexity of {show_perplexity(row['perplexity'])} against {theirs}, {change} ({sure})"


def _figure(row: Row) -> str:
    interval = perplexity_interval_of(row)
    sure = f"{show_level(row['interval_level'])} interval {interval}" if interval else row["interval_reason"]
    return f"{row['label']} has a perplexity of {show_perplexity(row['perplexity'])} ({sure})"


def _growth(row: Row, comparison: Comparison) -> str:
    """How much more that is than at the training context, where it was scored there."""
    place = {key: row[key] for key in ("protocol", "extension", "label")} | {"context_length": comparison.context}
    at = next((each for each in comparison.summary if place.items() <= each.items()), None)
    if at is None or at is row:
        return ""
    change = show_percent(100 * (row["perplexity"] / at["perplexity"] - 1))
    return f", {change} against its {show_perplexity(at['perplexity'])} at the training context"


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    """How the encodings fall, what the sweep could have seen, and what its intervals leave out."""
    judged = [row for row in rows if "verdict" in row]
    counts = Counter(row["verdict"] for row in judged)
    first_better = next((i for i, row in enumerate(rows) if row.get("verdict") == "better"), 0)
    if lower := [row["label"] for row in rows[:first_better]]:
        yield f"{' and '.join(lower)} came out lower still, but not separably so."
    if len(judged) > 1:
        fall = ", ".join(f"{counts[word]} {word}" for word in ("better", "worse", "not separable") if counts[word])
        yield f"Of {len(judged)} encodings against {judged[0]['reference']}: {fall}."
    missed = [row["smallest_detectable"] for row in judged if row["verdict"] == "not separable"]
    if seen := sorted(nats for nats in missed if nats is not None):
        sizes = dict.fromkeys(show_percent(100 * math.expm1(nats)).lstrip("+") for nats in (seen[0], seen[-1]))
        yield f"Where nothing is separable, a difference in perplexity of {' to '.join(sizes)} would have been seen."
    if min(row["seeds"] for row in rows) == 1:
        yield "With one seed, intervals and verdicts cover the held-out windows only: another seed may turn them round."


def _task_verdict(comparison: Comparison) -> str:
    """The most exact at the longest length of the first task."""
    rows = [row for row in comparison.tasks if row["extension"] == "none"] or comparison.tasks
    rows = [row for row in rows if row["task"] == rows[0]["task"]]
    longest = max(row["length"] for row in rows)
    best, *others = (row for row in rows if row["length"] == longest)
    level = [row["label"] for row in others if row["exact_match"] == best["exact_match"]]
    among = f", the most of {len(others) + 1}" if others else ""
    if level:
        among = f", and so {'does' if len(level) == 1 else 'do'} {' and '.join(level)}"
    return (
        f"At {best['length_ratio']:g}x the longest trained length ({longest:,}), {best['label']} answers "
        f"{best['exact_match']:.1%} of the examples of {best['task']} exactly ({best['range']}: {best['low']:.1%} to "
        f"{best['high']:.1%}){among}."
    )
