"""What a sweep comes to, in a sentence or two: the verdict at the longest context, and how sure it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eval.comparison import HEADLINE, Comparison
from eval.tables import difference_interval_of, perplexity_interval_of, show_p, show_percent, show_perplexity

Row = Mapping[str, Any]


def conclude(comparison: Comparison) -> str:
    """The verdict with its uncertainty; or why there is none."""
    if comparison.objection:
        return f"No comparison is made. {comparison.objection}"
    rows = last_place(comparison)
    if not rows and comparison.tasks:
        return _conclude_task(comparison) + _left_out(comparison)
    if not rows:
        return f"Nothing to compare: of {len(comparison.runs)} runs none has finished with a figure."
    row = rows[0]
    ratio = row["context_length"] / comparison.context
    where = f"At {ratio:g}x the training context ({row['context_length']:,} tokens)"
    if row["protocol"] != HEADLINE:
        where += f", by the protocol {row['protocol']}"
    return f"{where}, {_verdict(rows, comparison)}{_seeds(rows)}{_left_out(comparison)}"


def last_place(comparison: Comparison) -> list[Row]:
    """The rows at the longest context without an extension, best first: of the headline's protocol where it was run."""
    rows = [row for row in comparison.summary if row["extension"] == "none" and not row["control"]]
    rows = [row for row in rows if row["protocol"] == HEADLINE] or rows
    longest = max((row["context_length"] for row in rows), default=None)
    return [row for row in rows if (row["context_length"], row["protocol"]) == (longest, rows[0]["protocol"])]


def _verdict(rows: Sequence[Row], comparison: Comparison) -> str:
    reference = next((row for row in rows if row["label"] == comparison.reference), None)
    others = [row for row in rows if row is not reference]
    best = rows[0]
    if not others:
        return f"{_figure(best, comparison)}{_growth(best, comparison)}."
    if reference is None:
        return (
            f"{best['label']} has the lowest perplexity: {show_perplexity(best['perplexity'])}; the reference "
            f"{comparison.reference} has no figure there to compare with."
        )
    judged = [row for row in others if "verdict" in row]
    if not judged:
        return f"{_figure(best, comparison)}, the lowest; no other has a seed in common with {comparison.reference}."
    better = [row for row in judged if row["verdict"] == "better"]
    lower = rows.index(better[0]) if better else 0
    if better:
        found = (
            f"{better[0]['label']} is better than {reference['label']}: perplexity "
            f"{show_perplexity(better[0]['perplexity'])} against {show_perplexity(reference['perplexity'])}, "
            f"{_change(better[0], comparison)}."
        )
        if lower:
            found += (
                f" {' and '.join(row['label'] for row in rows[:lower])} came out lower still, but not separably so."
            )
    elif best is reference:
        found = (
            f"none of the others is better than {reference['label']} (perplexity "
            f"{show_perplexity(reference['perplexity'])}); the nearest, {judged[0]['label']}, is "
            f"{judged[0]['verdict']}: {show_perplexity(judged[0]['perplexity'])}, {_change(judged[0], comparison)}."
        )
    else:
        found = (
            f"no encoding is separably better than {reference['label']} (perplexity "
            f"{show_perplexity(reference['perplexity'])}); the lowest, {best['label']}, has "
            f"{show_perplexity(best['perplexity'])}, {_change(best, comparison)}."
        )
    return found + _count(judged)


def _figure(row: Row, comparison: Comparison) -> str:
    interval = perplexity_interval_of(row)
    bounds = f" ({100 * comparison.level:g} % interval {interval})" if interval else f" ({row['interval_reason']})"
    return f"{row['label']} has a perplexity of {show_perplexity(row['perplexity'])}{bounds}"


def _growth(row: Row, comparison: Comparison) -> str:
    """How much more that is than at the training context, where it was scored there."""
    place = {
        "protocol": row["protocol"],
        "extension": "none",
        "label": row["label"],
        "context_length": comparison.context,
    }
    at = next((each for each in comparison.summary if place.items() <= each.items()), None)
    if at is None or at is row:
        return ""
    change = show_percent(100 * (row["perplexity"] / at["perplexity"] - 1))
    return f", {change} against {show_perplexity(at['perplexity'])} at the training context"


def _conclude_task(comparison: Comparison) -> str:
    """The most exact at the longest length of the first task."""
    rows = [row for row in comparison.tasks if row["extension"] == "none"] or comparison.tasks
    rows = [row for row in rows if row["task"] == rows[0]["task"]]
    longest = max(row["length"] for row in rows)
    best = next(row for row in rows if row["length"] == longest)
    return (
        f"At {best['length_ratio']:g}x the longest trained length ({longest:,}), {best['label']} answers "
        f"{best['exact_match']:.1%} of the examples of {best['task']} exactly ({best['range']}: {best['low']:.1%} to "
        f"{best['high']:.1%}), the most of {len([row for row in rows if row['length'] == longest])}."
    )


def _change(row: Row, comparison: Comparison) -> str:
    """ "-3.1 % (95 % interval -4.0 % to -2.1 %, p < 0.001 after Holm's correction)"."""
    change, interval = show_percent(row["difference_percent"]), difference_interval_of(row)
    if not interval:
        return f"{change} ({row['verdict_reason']})"
    p = show_p(row["p_holm"])
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"{change} ({100 * comparison.level:g} % interval {interval}, {p} after Holm's correction)"


def _count(judged: Sequence[Row]) -> str:
    """How the encodings fall, where there are several, and what the sweep could have seen."""
    counts = Counter(row["verdict"] for row in judged)
    text = ""
    if len(judged) > 1:
        fall = ", ".join(f"{counts[word]} {word}" for word in ("better", "worse", "not separable") if counts[word])
        text += f" Of {len(judged)} encodings against the reference: {fall}."
    missed = [row["smallest_detectable"] for row in judged if row["verdict"] == "not separable"]
    seen = sorted(nats for nats in missed if nats is not None)
    if seen:
        sizes = list(dict.fromkeys(show_percent(100 * math.expm1(nats)).lstrip("+") for nats in (seen[0], seen[-1])))
        text += f" Where nothing is separable, a difference in perplexity of {' to '.join(sizes)} would have been seen."
    return text


def _seeds(rows: Sequence[Row]) -> str:
    if min(row["seeds"] for row in rows) > 1:
        return ""
    return " With one seed, intervals and verdicts cover the held-out windows only: another seed may turn them round."


def _left_out(comparison: Comparison) -> str:
    count = len(comparison.left_out)
    return f" {count} of {len(comparison.runs)} runs failed or are missing, and are left out." if count else ""
