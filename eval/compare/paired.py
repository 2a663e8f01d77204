"""Losses of windows as frames, and differences of them: paired by seed and window, in groups of one correction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eval.measure.statistics import Difference, among_best, compare, shared_seeds

BEST = "among_best"
DIFFERENCE = ["difference_nats", "difference_percent", "difference_low", "difference_high", "p", "p_holm"]
DIFFERENCE += ["smallest_detectable", "verdict", "verdict_reason"]


def frame_of(records: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A column a field, in order of appearance; whole numbers stay whole where some records lack the field."""
    frame = pd.DataFrame(records, columns=columns, dtype=object)
    kinds = {name: pd.api.types.infer_dtype(frame[name], skipna=True) for name in frame}
    types = {name: {"integer": "Int64", "empty": float}.get(kind) for name, kind in kinds.items()}
    return frame.infer_objects().astype({name: kind for name, kind in types.items() if kind})


def arrays_by(
    windows: pd.DataFrame, by: Sequence[str], by_seed: Sequence[str]
) -> Iterator[tuple[tuple, dict[str, np.ndarray]]]:
    """Of each group `by`, one label's windows at one place, the place and these columns with seeds in rows (S, W); and
    of each window tokens and block (W,)."""
    windows = windows.sort_values(["seed", "window"])
    seeds = windows["seed"].to_numpy()
    values = {name: windows[name].to_numpy(float) for name in by_seed}
    scored = {name: windows[name].to_numpy() for name in ("tokens", "block")}
    for place, here in sorted(windows.groupby(by).indices.items()):
        count = len(np.unique(seeds[here]))
        found = {name: own[here].reshape(count, -1) for name, own in values.items()}
        yield place, found | {name: own[here[: len(here) // count]] for name, own in scored.items()}


def losses_by(
    windows: pd.DataFrame, by: Sequence[str], side: str
) -> Iterator[tuple[tuple, dict[str, dict[int, np.ndarray]], np.ndarray, np.ndarray]]:
    """Of each group `by`: its place, of each side loss_W by seed, and of each window its tokens and its block."""
    for place, here in windows.sort_values([side, "seed", "window"]).groupby(by):
        first = here.iloc[: here["window"].nunique()]
        runs = here.iloc[:: len(first)]
        sides: dict[str, dict[int, np.ndarray]] = {}
        losses = here["nats"].to_numpy().reshape(len(runs), -1)
        for name, seed, loss_W in zip(runs[side], runs["seed"], losses, strict=True):
            sides.setdefault(name, {})[seed] = loss_W
        yield place, sides, first["tokens"].to_numpy(), first["block"].to_numpy()


def paired_differences(
    windows: pd.DataFrame, by: Sequence[str], side: str, references: Collection[str], level: float
) -> pd.DataFrame:
    """Within each group `by`, each side minus each of the references, paired over the seeds that both have; a side
    without a common seed has none. Holm's correction is over all sides of a group that are held against one reference.

    Columns: those of `difference_fields`; index: by, side, reference.
    """
    records = []
    for place, losses, *scored in losses_by(windows, by, side):
        for reference in losses.keys() & set(references):
            others = {name: shared_seeds(own, losses[reference]) for name, own in losses.items() if name != reference}
            pairs = {name: pair for name, pair in others.items() if pair}
            found = compare(pairs, *scored, reference=reference, level=level)
            shared = dict(zip(by, place, strict=True)) | {"reference": reference}
            records += [shared | {side: name} | difference_fields(each) for name, each in found.items()]
    keys = [*by, side]
    frame = frame_of(records, [*keys, "reference", "covers", *DIFFERENCE]).astype(windows[keys].dtypes)
    return frame.set_index([*keys, "reference"])


def best_by(windows: pd.DataFrame, by: Sequence[str], level: float) -> pd.Series:
    """BEST: within each group `by`, whether a label is one that no other is better than; by group and label."""
    records = []
    for place, losses, *scored in losses_by(windows, by, "label"):
        best = among_best(losses, *scored, level=level)
        records += [(*place, label, label in best) for label in losses]
    keys = [*by, "label"]
    frame = pd.DataFrame(records, columns=[*keys, BEST]).astype({**windows[keys].dtypes, BEST: "boolean"})
    return frame.set_index(keys)[BEST]


def difference_fields(found: Difference) -> dict[str, Any]:
    """How a difference stands in a row: DIFFERENCE, and what its interval covers."""
    values = (found.nats, found.percent, found.percent_low, found.percent_high, found.p, found.adjusted_p)
    values += (found.smallest_detectable, found.verdict, found.reason)
    return {"covers": found.covers} | dict(zip(DIFFERENCE, values, strict=True))
