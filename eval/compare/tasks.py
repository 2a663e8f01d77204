"""Exact match of tasks, encoding beside encoding: over seeds and examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from eval.compare.paired import BEST, best_by, frame_of, paired_differences
from eval.measure.statistics import share_interval

PLACE = ["task", "extension", "length"]
KEYS = [*PLACE, "label"]
TASK = ["protocol", *PLACE, "length_ratio", "context_length", "label", "seeds", "exact_match", "low", "high"]
TASK += ["interval_level", "interval_covers", "interval_reason", "worst_seed", "best_seed", "token_accuracy"]
TASK += ["examples"]
JUDGED = {"difference_nats": "difference_share", "p": "p", "p_holm": "p_holm", "verdict": "verdict"}
EARLIER = "an earlier version kept no answers: score the runs again"


def summarise_tasks(rows: pd.DataFrame, units: pd.DataFrame, reference: str | None, level: float) -> pd.DataFrame:
    """A row for each (task, extension, length, label), the most exact first within a place: the share of examples that
    are right in every token, with its interval over seeds and examples; the worst and the best seed; whether no other
    label is better (BEST); and against the reference the difference of the shares (of wrong answers, so that below zero
    more is right), paired by seed and example.

    A label that has no figure at a place with one of its seeds has no row there. rows: those of tasks of the runs;
    units: what each example came to, with its run and place.
    """
    whole = rows["status"].eq("ok").groupby([rows[key] for key in KEYS]).transform("all").astype(bool)
    rows = rows[whole]
    if rows.empty:
        return pd.DataFrame(columns=[*TASK, BEST, *JUDGED.values()], dtype=float)
    units = units.reindex(columns=["run_id", *PLACE[1:], "unit", "right", "tokens"])
    answers = rows[["run_id", *KEYS, "seed"]].merge(units, on=["run_id", *PLACE[1:]])
    wrong = (answers["right"] != answers["tokens"]).astype(float)
    answers = answers.assign(nats=wrong, tokens=1, block=answers["unit"]).rename(columns={"unit": "window"})
    kept = answers.groupby(KEYS)["run_id"].nunique().eq(rows.groupby(KEYS)["run_id"].nunique())
    wrong = {place: own for place, own in answers.groupby(KEYS) if kept.get(place, False)}
    records = [
        dict(zip(KEYS, place, strict=True)) | _figures(own, wrong.get(place), level)
        for place, own in rows.groupby(KEYS)
    ]
    found = frame_of(records, [*KEYS, *(name for name in TASK if name not in KEYS)])
    if wrong:
        found = found.join(_judged(pd.concat(wrong.values()), reference, level), KEYS)
    found = found.reindex(columns=[*TASK, BEST, *JUDGED.values()])
    order = found.assign(missed=-found["exact_match"]).sort_values([*PLACE, "missed"], kind="stable").index
    return found.loc[order].reset_index(drop=True)


def _figures(rows: pd.DataFrame, wrong: pd.DataFrame | None, level: float) -> Mapping[str, Any]:
    """TASK of one label at one place. wrong: of each seed and example, or None where they weren't kept."""
    first, shares = rows.iloc[0], rows["exact_match"]
    found = {
        "protocol": "exact_match",
        **{name: first[name] for name in ("length_ratio", "context_length", "examples")},
        "seeds": len(rows),
        "exact_match": shares.mean(),
        "worst_seed": shares.min(),
        "best_seed": shares.max(),
        "token_accuracy": rows["token_accuracy"].mean(),
        "interval_level": level,
        "interval_reason": EARLIER,
    }
    if wrong is None:
        return found
    right_SN = 1 - wrong.sort_values(["seed", "window"])["nats"].to_numpy().reshape(len(rows), -1)
    exact = share_interval(right_SN, level=level)
    return found | {"low": exact.low, "high": exact.high, "interval_covers": exact.covers, "interval_reason": None}


def _judged(answers: pd.DataFrame, reference: str | None, level: float) -> pd.DataFrame:
    """BEST and JUDGED of each label at each place."""
    differences = paired_differences(answers, PLACE, "label", [reference] if reference else [], level)
    differences = differences.droplevel("reference")[[*JUDGED]].rename(columns=JUDGED)
    return best_by(answers, PLACE, level).to_frame().join(differences)
