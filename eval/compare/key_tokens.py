"""LongPPL: perplexity on the key tokens alone, those that a long context makes predictable.

Fang et al., "What is Wrong with Perplexity for Long-context Language Modeling?" (ICLR 2025,
https://arxiv.org/abs/2410.23771): averaged over all tokens, perplexity hardly shows what a long context is good for. A
token is key where an *evaluator*, a model that was trained on long contexts, loses over α nats more with a short
context alone, and less than β nats with the long one (α = β = 2 in the paper, and in its code at
https://github.com/PKU-ML/LongPPL; its short context is 4,096 to 5,120 tokens). LongPPL is e to the mean loss on them.

Here the evaluator is one run, fixed once for all encodings, so that seeds and windows stay paired; its choice follows
from the losses that runs keep of the headline's targets. The key tokens are shown as a protocol of their own, KEY.
Small models gain less from context than those of the paper: thresholds are settings, and the share of the targets that
they leave is always said. A choice by the noise of one run is no choice: `KeyTokens.others` says what other seeds of
the evaluator gain on the same tokens. The evaluator is never judged on what it has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conf.schema import CompareSettings
from eval.compare.runs import Run, read_runs
from eval.measure.rows import HEADLINE, PART, PLACE, Row, interval_fields, row_key
from eval.measure.statistics import MIN_BLOCKS, perplexity_interval
from eval.record.folder import WINDOW

KEY = "key_tokens"
SAME = ("targets_id", "split")  # of two rows on the same targets of the same text
FIGURES = ("perplexity", "perplexity_low", "perplexity_high", "nats", "bits_per_byte", "bytes", "tokens", "windows")
FIGURES += ("blocks", "interval_reason")  # of a row, what is another on its key tokens


@dataclass(frozen=True, kw_only=True)
class KeyTokens:
    """What an evaluator has chosen. run: its name, seed and encoding in words; context: what it was trained on, tokens.

    short, long: the contexts, in tokens, between which it gains more than `gain` nats on each of the `tokens`, with a
    loss below `loss` at the long one; of so many `targets`, in so many `blocks`. own, others: its mean gain on them,
    and that of the other seeds of its label that are compared (None where there are none), nats a token.
    """

    run: str
    context: int
    gain: float
    loss: float
    short: int
    long: int
    tokens: int
    targets: int
    blocks: int
    own: float
    others: float | None = None

    @property
    def words(self) -> str:
        """Which tokens these are, and by whose choice."""
        said = (
            f"{self.tokens:,} of {self.targets:,} targets ({self.tokens / self.targets:.2%}) in {self.blocks} "
            f"block{'s' * (self.blocks != 1)}: "
            f"those on which {self.run}, trained on a context of {self.context:,} tokens, gains more than "
            f"{self.gain:g} nats from {self.long:,} tokens of context over {self.short:,}, and loses less than "
            f"{self.loss:g} nats then; chosen once for all, and it takes no part itself"
        )
        if self.others is not None and self.tokens:
            said += f"; it gains {self.own:.2f} nats a token on them, its other seeds {self.others:.2f}"
        if not self.tokens:
            said += "; lower compare.key_gain or raise compare.key_loss"
        elif self.blocks < MIN_BLOCKS:
            said += f"; too few for an interval, which needs {MIN_BLOCKS} blocks"
        return said


def find_key_tokens(
    runs: Sequence[Run], compared: Sequence[Run], asked: CompareSettings
) -> tuple[KeyTokens | None, list[Run]]:
    """What the evaluator has chosen, and the runs with nothing but their rows and windows on these tokens.

    runs: of the folder; compared: those of them whose figures stand side by side. Without a run to choose them there
    are none: `asked.evaluator` names its folder, else it is the control that was trained on the longest context, of
    several its lowest seed, and the best of those.

    Raises ValueError, in a sentence, for a given evaluator that can't choose for these runs.
    """
    rivals = [run for run in compared if not run.control]
    if not rivals:
        return None, []
    if asked.evaluator:
        evaluator = _given(asked.evaluator, runs, rivals)
        if problem := _problem(evaluator, rivals):
            raise ValueError(f"evaluator={asked.evaluator}: {problem}")
    else:
        fit = [run for run in runs if run.control and run.problem is None and not _problem(run, rivals)]
        nats = {run: _span(_rows(run, rivals), run, rivals)[1]["nats"] for run in fit}
        ranks = {run: (-run.settings.context, run.seed, nats[run], run.name) for run in fit}
        if not (evaluator := min(fit, key=ranks.get, default=None)):
            return None, []
    short, long = _span(_rows(evaluator, rivals), evaluator, rivals)
    losses = evaluator.folder.losses
    before, after = (losses[row_key(row)].astype(np.float64) for row in (short, long))
    key = (before - after > asked.key_gain) & (after < asked.key_loss)
    others = [
        _gain(run, key, short, long)
        for run in compared
        if evaluator in runs and run.label == evaluator.label and run is not evaluator
    ]
    others = [gain for gain in others if gain is not None]
    table = losses[row_key(long) + "/windows"]
    block = np.repeat(table[:, WINDOW.index("block")], table[:, WINDOW.index("tokens")])
    chosen = KeyTokens(
        run=f"{evaluator.encoding}, seed {evaluator.seed} ({evaluator.name})",
        context=evaluator.settings.context,
        gain=asked.key_gain,
        loss=asked.key_loss,
        short=short["context_length"],
        long=long["context_length"],
        tokens=int(key.sum()),
        targets=len(key),
        blocks=len(np.unique(block[key])),
        own=float((before - after)[key].mean()) if key.any() else 0.0,
        others=float(np.mean(others)) if others and key.any() else None,
    )
    if not key.any():
        return chosen, []
    return chosen, [_on_key_tokens(run, key, long, evaluator.name) for run in compared]


def _given(path: str, runs: Sequence[Run], rivals: Sequence[Run]) -> Run:
    """The run of a folder, among these or read from there. Raises ValueError where it is none."""
    place = Path(path).expanduser().resolve()
    if found := [run for run in runs if run.folder.path.resolve() == place]:
        return found[0]
    try:
        found = read_runs(place, evaluation=rivals[0].results.get("evaluation"))
    except ValueError:
        found = []
    if not (own := [run for run in found if run.folder.path == place]):
        raise ValueError(f"evaluator={path}: this is not a run's folder: give that of a finished run")
    return own[0]


def _problem(run: Run, rivals: Sequence[Run]) -> str | None:
    """Why a run can't choose the key tokens of others; None where it can."""
    if run.problem is not None:
        return f"it is not finished ({run.problem})"
    for name, what in (("corpus_hash", "data"), ("tokenizer_hash", "a tokenizer")):
        if run.results.get(name) != rivals[0].results.get(name):
            return f"it was trained on {'other data' if what == 'data' else 'another tokenizer'} than the compared runs"
    context = max(each.settings.first_context for each in rivals)
    if run.settings.context <= context:
        return (
            f"it was trained on a context of {run.settings.context:,} tokens, no longer than the {context:,} of the "
            "compared runs: give one that was trained on more, as by experiment=ceiling"
        )
    rows = _rows(run, rivals)
    if not rows:
        return (
            f"it has no losses of {HEADLINE} on the targets of the compared runs: score it again at their context "
            "lengths and with their settings of eval"
        )
    if _span(rows, run, rivals) is None:
        lengths = ", ".join(f"{row['context_length']:,}" for row in rows)
        return (
            f"it was scored at {lengths} tokens, but takes two lengths from the others' training context on, up to "
            f"its own of {run.settings.context:,}"
        )
    return None


def _rows(run: Run, rivals: Sequence[Run]) -> list[Row]:
    """The headline's rows of a run on the targets that rivals are scored on, without an extension; shortest first."""
    same = {tuple(row.get(name) for name in SAME) for each in rivals for row in each.results["rows"] if _plain(row)}
    own = [row for row in run.results["rows"] if _plain(row) and tuple(row.get(name) for name in SAME) in same]
    return sorted(own, key=lambda row: row["context_length"])


def _plain(row: Row) -> bool:
    return row["protocol"] == HEADLINE and row["extension"] == "none" and row["status"] == "ok" and "control" not in row


def _span(rows: Sequence[Row], run: Run, rivals: Sequence[Run]) -> tuple[Row, Row] | None:
    """The rows of the short and the long context: the shortest that is no shorter than what the compared runs were
    trained on, and the longest that the evaluator was trained for."""
    first = min(each.settings.first_context for each in rivals)
    within = [row for row in rows if first <= row["context_length"] <= run.settings.context]
    return (within[0], within[-1]) if len(within) > 1 else None


def _gain(run: Run, key: np.ndarray, short: Row, long: Row) -> float | None:
    """A run's mean gain on the key tokens; None where it lacks these rows."""
    losses = run.folder.losses
    found = [losses.get(row_key({**row, **_evaluation(run)})) for row in (short, long)]
    if any(each is None or each.shape != key.shape for each in found) or not key.any():
        return None
    before, after = (each[key].astype(np.float64) for each in found)
    return float((before - after).mean())


def _evaluation(run: Run) -> dict[str, Any]:
    """How the keys of a run's rows begin."""
    return {name: row[name] for row in run.results["rows"][:1] for name in ["evaluation"] if name in row}


def _on_key_tokens(run: Run, key: np.ndarray, chosen: Row, evaluator: str) -> Run:
    """The run with its rows and windows on the key tokens alone; the evaluator's own are left out, but for floors."""
    losses, rows, windows = run.folder.losses, [], []
    for row in run.results["rows"]:
        if row["protocol"] != HEADLINE or any(row.get(name) != chosen.get(name) for name in SAME):
            continue
        if run.name == evaluator and "control" not in row:
            continue
        base = {name: value for name, value in row.items() if name not in FIGURES} | {"protocol": KEY}
        if row["status"] != "ok":
            rows.append(base)
            continue
        own, table = losses[row_key(row)], losses[row_key(row) + "/windows"]
        figures, here = _figures(own.astype(np.float64), table, key)
        rows.append(base | figures)
        place = {name: base.get(name) for name in (*PLACE, *PART)}
        windows.append(here.assign(key=row_key(base), **place)[["key", *PLACE, *PART, *WINDOW, "nats"]])
    results = {**run.results, "rows": rows, "tasks": []}
    frame = pd.concat(windows, ignore_index=True) if windows else run.windows.head(0)
    return replace(run, results=results, windows=frame)


def _figures(losses: np.ndarray, table: np.ndarray, key: np.ndarray) -> tuple[Mapping[str, Any], pd.DataFrame]:
    """A row's figures on the key tokens, and the windows that have any: their tokens, and the sum of their losses."""
    windows = pd.DataFrame(table, columns=WINDOW)
    firsts = np.cumsum(table[:, 2]) - table[:, 2]
    tokens, nats = (np.add.reduceat(values, firsts) for values in (key.astype(np.int64), np.where(key, losses, 0.0)))
    windows = windows.assign(tokens=tokens, nats=nats)[tokens > 0]
    interval = perplexity_interval(windows["nats"].to_numpy()[None], windows["tokens"], windows["block"])
    figures = {
        "nats": interval.nats,
        "perplexity": interval.perplexity,
        "bits_per_byte": None,  # what bytes these tokens are is not kept
        "tokens": int(windows["tokens"].sum()),
        "windows": len(windows),
        "blocks": windows["block"].nunique(),
    }
    return figures | interval_fields(interval), windows
