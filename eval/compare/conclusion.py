"""What a sweep comes to, in a few sentences: which encodings can't be told from the best at the longest context, with
the uncertainty (eval/measure/statistics.py says how that set is found), then what one must know to believe it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from eval.compare.comparison import BEST, HEADLINE, Comparison, last_place
from eval.compare.effective import effective_sentences
from eval.compare.key_tokens import KEY
from eval.compare.retrieval_report import retrieval_sentences
from eval.compare.show import (
    USELESS,
    listed,
    show_change,
    show_interval,
    show_length,
    show_level,
    show_percent,
    show_perplexity,
    show_share,
    show_sure,
    show_visible,
)
from eval.compare.stage_report import stage_sentences
from eval.compare.stages import stages_of
from eval.compare.tables import tuning

FAILED = 0.05  # of a task's examples: who answers no more has not learned it

ONE_SEED = "With one seed, intervals and verdicts cover the held-out windows only: another seed may turn them round."


def conclude(comparison: Comparison) -> list[str]:
    """Sentences; the first is the verdict, or says why there is none, unless the comparison has remarks of its own.
    Those of second stages come first."""
    if comparison.objection:
        return [*comparison.remarks, "No comparison is made.", comparison.objection]
    rows, retrieval = last_place(comparison.summary), retrieval_sentences(comparison)
    if len(rows):
        length, protocol = rows[["context_length", "protocol"]].iloc[0]
        where = f"At {length / comparison.context:g}x the training context ({length:,} tokens)"
        where += f", by the protocol {protocol}" * (protocol != HEADLINE)
        floor = _below_floor(rows, comparison)
        found = [f"{where}, {_verdict(rows, comparison)}{floor}", *retrieval, *_remarks(rows, comparison)]
        if stages := stages_of(comparison):
            if stages.labels.issuperset(rows["label"]):  # all are arms or their parents
                found = [floor.strip(), *retrieval, ONE_SEED * bool(rows["seeds"].min() == 1)]
            found = [*stage_sentences(comparison), *filter(None, found)]
        found += [*effective_sentences(comparison), *_key_tokens(comparison)]
    else:
        found = retrieval
    if len(comparison.tasks):
        found = [*found, _task_verdict(comparison.tasks, comparison.level)]
    if not found:
        found = [f"Nothing to compare: of {len(comparison.runs)} runs none has finished with a figure."]
    return [*comparison.remarks, *found, *_doubts(comparison)]


def _verdict(rows: pd.DataFrame, comparison: Comparison) -> str:
    """Which encodings can't be told from the best, and by how much the lowest is below another: the last of them, or
    the next behind them where it stands alone."""
    lowest, *others = rows.itertuples()
    figure = f"a perplexity of {show_perplexity(lowest.perplexity)} ({show_sure(lowest, comparison.level)})"
    if not others:
        return f"{lowest.label} has {figure}{_growth(lowest, comparison)}."
    best = rows["label"][rows[BEST]].tolist()
    if best == [lowest.label]:
        other, said = others[0], f"{lowest.label} is the best of {len(rows)} encodings: it has {figure}; the next"
    else:
        other = next(row for row in reversed(others) if row.label in best)
        among = "apart" if len(best) == len(rows) else f"from the best of {len(rows)} encodings"
        said = f"{listed(best)} can't be told {among}: the lowest, {lowest.label}, has {figure}; the highest of them"
    against = comparison.differences.query("reference == @lowest.label and label == @other.label")
    against = against.merge(rows[["protocol", "extension", "context_length"]].head(1))
    (difference,) = against.itertuples()
    over = "," if other.seeds == lowest.seeds else "; over the seeds that both have,"
    if other.label in best and difference.verdict != "not separable":  # corrected for the lowest's comparisons
        corrected = f"; corrected for all comparisons with {other.label}, none is better than it"
        change = show_change(difference._replace(p_holm=None), comparison.level) + corrected
    else:
        change = show_change(difference, comparison.level)
    return f"{said}, {other.label}, has {show_perplexity(other.perplexity)}{over} {change}."


def _key_tokens(comparison: Comparison) -> Iterator[str]:
    """Which tokens are key, and who is best on them alone at the context that makes them so."""
    chosen = comparison.key_tokens
    if isinstance(chosen, str):
        yield f"No key tokens are chosen: {chosen}."
    elif chosen:
        yield f"Key tokens are {chosen.words}."
        rows = comparison.summary.query("extension == 'none' and context_length == @chosen.long")
        if len(rows := rows[(rows["protocol"] == KEY) & rows["control"].isna()]):
            best, at = rows["label"][rows[BEST]].tolist(), show_length(chosen.long, comparison.context)
            lowest = next(rows.itertuples())
            among = f"{listed(best)} can't be told from the best of {len(rows)} encodings: the lowest, {lowest.label},"
            among = among if len(best) > 1 else f"{lowest.label} is the best of {len(rows)} encodings: it"
            figure = f"{show_perplexity(lowest.perplexity)} ({show_sure(lowest, comparison.level)})"
            yield f"At {at} {among if len(rows) > 1 else lowest.label} has a LongPPL of {figure}."


def _growth(row: Any, comparison: Comparison) -> str:
    """How much more that is than at the training context, where it was scored there."""
    at = comparison.summary[comparison.summary["context_length"] == comparison.context]
    at = at.query("protocol == @row.protocol and extension == @row.extension and label == @row.label")
    if at.empty or row.context_length == comparison.context:
        return ""
    before = at["perplexity"].iloc[0]
    change = show_percent(100 * (row.perplexity / before - 1))
    return f", {change} against its {show_perplexity(before)} at the training context"


def _below_floor(rows: pd.DataFrame, comparison: Comparison) -> str:
    """A warning where an n-gram predicts better than every encoding, and at which lengths."""
    here = comparison.summary.merge(rows[["protocol", "extension"]].head(1))
    lowest = here[here["control"].isna()].groupby("context_length")["nats"].min()
    floors = here[here["control"] == "floor"].pivot(index="context_length", columns="label", values="nats")
    floors = floors.reindex(lowest.index).ffill().bfill()  # one that is the same at all lengths stands at the first
    if floors.empty or not (below := floors.min(axis="columns") < lowest).any():
        return ""
    floor, nats = floors.loc[below.index[below][-1]].agg(["idxmin", "min"])
    at = listed(f"{length / comparison.context:g}x" for length in below.index[below])
    who = "Every one of them" if len(rows) > 1 else "It"
    why = "train on more tokens (training.tokens)" if below.get(comparison.context) else "only failures differ there"
    return f" {who} is worse than the {floor} floor ({show_perplexity(math.exp(nats))}) at {at}: {why}."


def _remarks(rows: pd.DataFrame, comparison: Comparison) -> Iterator[str]:
    """How the encodings fall against the reference, what the sweep could have seen, what its intervals leave out."""
    judged, reference = rows[rows["verdict"].notna()], comparison.reference
    if len(rows) > 1 and reference not in set(rows["label"]):
        yield f"The reference {reference} has no figure there to compare with."
    elif len(rows) > 1 and judged.empty:
        yield f"None has a seed in common with the reference {reference}."
    elif len(judged) > 1:
        counts = judged["verdict"].value_counts()
        fall = ", ".join(f"{counts[word]} {word}" for word in ("better", "worse", "not separable") if word in counts)
        lowest = next(judged.itertuples())
        change = f"; the lowest of them, {lowest.label}, {show_change(lowest, comparison.level)}"
        yield f"Of {len(judged)} encodings against {reference}: {fall}{change * (rows['label'].iloc[0] != reference)}."
    seen = judged["smallest_detectable"][judged["verdict"] == "not separable"].dropna()
    if len(seen) and seen.min() > USELESS:
        yield "Where nothing is separable, not even a perplexity twice as high would have been seen: add seeds."
    elif len(seen):
        sizes = " to ".join(dict.fromkeys(show_visible(nats) for nats in (seen.min(), seen.max())))
        more = ": add seeds" * bool(seen.max() > USELESS)
        yield f"Where nothing is separable, a difference in perplexity of {sizes} would have been seen{more}."
    if rows["seeds"].min() == 1:
        yield ONE_SEED


def _doubts(comparison: Comparison) -> Iterator[str]:
    """What lies outside the figures: rates at the edge of their grid, controls that stand apart, missing runs."""
    rates = tuning(comparison)
    for advice, labels in rates[rates["advice"] != ""].groupby("advice")["label"]:
        yield f"The learning rate chosen for {listed(labels)} lies {advice}."
    for label, why in dict.fromkeys((run.label, comparison.apart.get(run.name)) for run in comparison.runs):
        if why:
            yield f"The control {label} stands apart, for it differs from the others in {why}."
    lost = {run.label for run in comparison.left_out if run.diverged}
    if lost := sorted(lost & {run.label for run in comparison.compared}):
        yield f"Not ranked: {listed(lost)}, of which not every seed could be trained; the others would flatter it."
    if left_out := len(comparison.left_out):
        yield f"{left_out} of {len(comparison.runs)} runs failed or are missing, and are left out."


def _task_verdict(tasks: pd.DataFrame, level: float) -> str:
    """The most exact at the longest length of the first task that any has learned, and at which lengths none has."""
    plain = tasks[tasks["extension"] == "none"]
    rows = plain if len(plain) else tasks
    rows = rows[rows["task"] == (task := rows["task"].iloc[0])]
    most = rows.groupby("length_ratio")["exact_match"].max()
    failed, learned = most[most <= FAILED], most[most > FAILED]
    said = []
    if len(learned):
        best, *others = rows[rows["length_ratio"] == learned.index[-1]].itertuples()
        near = [row.label for row in others if pd.notna(row.among_best) and row.among_best]
        among = f", the most of {len(others) + 1}" if others else ""
        if near:
            among = f"; it can't be told from {listed(near)}"
        interval = show_interval(best.low, best.high, show_share) or best.interval_reason
        sure = interval if pd.isna(best.low) else f"{show_level(level)} interval over {best.interval_covers} {interval}"
        said.append(
            f"At {best.length_ratio:g}x the longest trained length ({best.length:,}), {best.label} answers "
            f"{show_share(best.exact_match)} of the examples of {task} exactly ({sure}){among}."
        )
    if len(failed):
        at = listed(f"{ratio:g}x" for ratio in failed.index)
        who = "no encoding"
        why = "" if len(learned) else ": the task is not learned, so train on more tokens (training.tokens)"
        share = f"more than {show_share(failed.max())} of the examples of {task}"
        said.append(f"At {at} the longest trained length {who} answers {share} exactly{why}.")
    return " ".join(said)
