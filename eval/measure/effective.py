"""Effective context: how much context a model still makes something of.

On the same targets its loss at N tokens of context is held against that at N/2, paired over seeds and windows, going up
by doublings from the shortest length that was scored. The effective context is the last N before the first doubling
that brings nothing significant, with Holm's correction over all doublings that are judged together. That is a lower
bound, as sure as the level says: with probability at least `level` none is put too long. A gain too small to be seen
ends it early; `smallest_detectable` says how large one would have been seen.

The definition is ours, after what studies of long context ask by hand: does the loss still fall?
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from eval.measure.rows import HEADLINE
from eval.measure.statistics import Difference, difference, judged

AT_MOST, AT_LEAST = "at most", "at least"
SIGNS = {AT_MOST: "≤ ", AT_LEAST: "≥ "}
SIDE = ["extension", "label"]
DOUBLING = [*SIDE, "half", "context_length", "gain", "gain_low", "gain_high", "p", "p_holm", "smallest_detectable"]
DOUBLING += ["verdict", "reason", "covers"]
EFFECTIVE = ["effective_context", "effective_bound", "effective_gain", "effective_gain_low", "effective_gain_high"]


def doublings(lengths: Iterable[int]) -> list[tuple[int, int]]:
    """Each (N/2, N), rounded to whole tokens, from the shortest length whose double is there too, for as long as the
    next is.

    >>> doublings([32, 64, 96, 128, 512]), doublings([32, 96, 128]), doublings([12, 25, 50])
    ([(32, 64), (64, 128)], [], [(12, 25), (25, 50)])
    """
    there, found = sorted(set(lengths)), []

    def doubled(length: int) -> int | None:
        near = [other for other in there if abs(other - 2 * length) <= 1]
        return min(near, key=lambda other: abs(other - 2 * length), default=None)

    at = next((length for length in there if doubled(length)), None)
    while at is not None and (twice := doubled(at)):
        found.append((at, twice))
        at = twice
    return found


def gains(windows: pd.DataFrame, level: float) -> pd.DataFrame:
    """What each doubling brings: a row for each (extension, label, N) of DOUBLING, gain in nats a token, above zero
    where the loss at N is below that at `half`; verdict by Holm's correction over the labels and doublings of an
    extension. Where there are too few blocks for a test, `reason` says so.

    windows: of a protocol that scores the same targets at every length: extension, label, context_length, seed, window,
    tokens, block, nats (their sum).
    """
    records, by_length = [], {}
    if windows.empty:
        return pd.DataFrame(columns=DOUBLING)
    for (*side, length), here in windows.sort_values(["seed", "window"]).groupby([*SIDE, "context_length"]):
        by_length.setdefault(tuple(side), {})[length] = _losses(here)
    for extension in windows["extension"].unique():
        found = {}
        for label, losses in ((label, losses) for (name, label), losses in by_length.items() if name == extension):
            for half, whole in doublings(losses):
                (before, *same), (after, *scored) = losses[half], losses[whole]
                if not all(map(np.array_equal, same, scored)):
                    break  # over other seeds or windows: what lies beyond doesn't go on from here
                found[label, half, whole] = after, before, *scored[1:]
        differences = {key: difference(*each, level=level, comparisons=len(found)) for key, each in found.items()}
        for (label, half, whole), each in judged(differences, level).items():
            place = {"extension": extension, "label": label, "half": half, "context_length": whole}
            records.append(place | _gain(each))
    return pd.DataFrame(records, columns=DOUBLING)


def effective_contexts(doubled: pd.DataFrame) -> pd.DataFrame:
    """EFFECTIVE of each (extension, label) of `gains`: the effective context in tokens, what the last doubling to it
    brought in nats a token, with its interval, and beside them the `smallest_detectable` of the doubling that ended it.

    effective_bound: AT_MOST where the first doubling brings nothing (below the shortest length nothing was asked),
    AT_LEAST where all that could be asked do. No tokens, and a `reason`, where there are too few blocks to tell.
    """
    records = []
    for side, rows in doubled.groupby(SIDE, sort=False):
        ordered = rows.sort_values("context_length").to_dict("records")
        brought = [row["verdict"] == "better" for row in ordered]
        steps = [*brought, False].index(False)
        ended = ordered[steps] if steps < len(ordered) else {}
        record: dict[str, Any] = dict(zip(SIDE, side, strict=True)) | {"reason": ordered[0]["reason"]}
        if pd.isna(record["reason"]):
            last = ordered[max(steps - 1, 0)]
            bound = AT_MOST if not steps else None if ended else AT_LEAST
            values = [last["context_length"] if steps else last["half"], bound]
            values += [last[name] if steps else None for name in ("gain", "gain_low", "gain_high")]
            record |= dict(zip(EFFECTIVE, values, strict=True))
        records.append(record | {"smallest_detectable": ended.get("smallest_detectable")})
    frame = pd.DataFrame(records, columns=[*SIDE, *EFFECTIVE, "smallest_detectable", "reason"])
    numbers = dict.fromkeys([*EFFECTIVE[2:], "smallest_detectable"], float)
    return frame.astype({"effective_context": "Int64", **numbers, "effective_bound": object, "reason": object})


def of_one_run(windows: pd.DataFrame, level: float) -> pd.DataFrame:
    """`effective_contexts` of one run, a row an extension: over its held-out windows alone, as another seed may fall
    otherwise. windows: those of RunFolder."""
    own = windows[(windows["protocol"] == HEADLINE) & windows["control"].isna()]
    own = own.assign(label="", seed=0, window=own.groupby("key").cumcount())
    return effective_contexts(gains(own, level))


def _losses(windows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """loss_SW of windows in order of their seed, the seeds, and the tokens and blocks of the windows."""
    seeds = windows["seed"].unique()
    losses_SW = windows["nats"].to_numpy(float).reshape(len(seeds), -1)
    count = losses_SW.shape[1]
    return losses_SW, seeds, windows["tokens"].to_numpy()[:count], windows["block"].to_numpy()[:count]


def _gain(found: Difference) -> dict[str, Any]:
    bounds = (None, None) if found.low is None else (-found.high, -found.low)
    values = (-found.nats, *bounds, found.p, found.adjusted_p, found.smallest_detectable)
    names = ("gain", "gain_low", "gain_high", "p", "p_holm", "smallest_detectable")
    return dict(zip(names, values, strict=True)) | {
        "verdict": found.verdict,
        "reason": found.reason,
        "covers": found.covers,
    }
