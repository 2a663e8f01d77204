"""The literature check: do a sweep's orderings agree with those that published perplexities support?

published.csv holds the figures of several studies; `evidence` says whether a figure stands in the paper itself, in
another's, or in the authors' log. Absolute perplexities are never compared across corpora: a study says which of two
figures *of its own* is lower, and the sweep is asked the same of two of its own. There are two kinds of statements:

- encodings: two encodings (or extensions of one) at the same multiple of the training context;
- lengths: one encoding at its training context and beyond ("it degrades", "it gains").

A study supports a statement where its two figures are apart: by more than SDS standard deviations of their difference
where it gives both, else by more than MARGIN, which is two of them at the 0.7 % that seeds differ by in small models.
Protocols are compared with their like alone, and multiples of the training context with the nearest within FACTOR.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.compare.comparison import Run
from eval.measure.rows import row_key
from eval.measure.statistics import Difference, difference, holm, verdict

PUBLISHED = Path(__file__).with_name("published.csv")
SDS = 2.0
MARGIN = 0.02  # of the perplexity
FACTOR = 1.25
PROTOCOLS = {"non-overlapping": "non_overlapping", "last": "fixed_targets", "sliding": "sliding"}  # by the first word
VERDICTS = {"worse": "agree", "better": "disagree", "not separable": "not separable"}  # of the higher minus the lower


@dataclass(frozen=True)
class Figure:
    """A published perplexity. ratio: context length over training length; sd: over seeds, None where not given."""

    study: str
    corpus: str
    published_protocol: str
    encoding: str
    ratio: float
    perplexity: float
    sd: float | None
    evidence: str

    @property
    def protocol(self) -> str:
        """The protocol of ours that asks the same question."""
        return PROTOCOLS[self.published_protocol.split()[0]]


def read_published(path: Path = PUBLISHED) -> list[Figure]:
    """The figures of a file like published.csv, in its order."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Figure(
                study=row["study"],
                corpus=row["corpus"],
                published_protocol=row["protocol"],
                encoding=row["encoding"],
                ratio=int(row["context_length"]) / int(row["train_length"]),
                perplexity=float(row["ppl"]),
                sd=float(row["sd"]) if row["sd"] else None,
                evidence=row["evidence"],
            )
            for row in csv.DictReader(file)
        ]


@dataclass(frozen=True)
class Statement:
    """A study's "lower is below higher", and the sweep's rows (of its summary) that stand for the two."""

    kind: str
    lower: Figure
    higher: Figure
    lower_row: Mapping[str, Any]
    higher_row: Mapping[str, Any]

    @property
    def question(self) -> tuple[tuple, tuple]:
        """What the sweep is asked; several studies may ask the same."""
        return place(self.lower_row), place(self.higher_row)


def check(
    runs: Iterable[Run],
    summary: Iterable[Mapping[str, Any]],
    level: float = 0.95,
    published: Sequence[Figure] | None = None,
) -> list[dict[str, Any]]:
    """A row for each published statement that the sweep can be asked about, with both sides' numbers and a verdict.

    verdict: agree or disagree where the sweep's paired difference is significant after Holm's correction over all
    questions, else not separable. percent (with its interval) is by how much the sweep's perplexity of `higher`
    exceeds that of `lower`, published_percent the same in the study.

    runs, summary: of eval.compare.comparison. published: figures instead of those of published.csv.
    """
    statements = find_statements(summary, read_published() if published is None else published)
    asked = dict.fromkeys(statement.question for statement in statements)
    scored = _by_place(runs)
    found = {(lower, higher): _paired(scored[lower], scored[higher], level, len(asked)) for lower, higher in asked}
    differences = {question: each for question, (each, _) in found.items() if isinstance(each, Difference)}
    adjusted = holm({question: each.p for question, each in differences.items() if each.p is not None})
    return [_row(each, *found[each.question], adjusted.get(each.question), level) for each in statements]


def find_statements(summary: Iterable[Mapping[str, Any]], published: Iterable[Figure]) -> list[Statement]:
    """The statements that studies support, and that the sweep has both sides of; controls take no part."""
    rows = [row for row in summary if row["control"] is None]
    studies: dict[tuple[str, str], list[Figure]] = {}
    for figure in published:
        studies.setdefault((figure.study, figure.protocol), []).append(figure)
    statements = []
    for (_, protocol), figures in studies.items():
        ours = [row for row in rows if row["protocol"] == protocol]
        ratios = match_ratios({figure.ratio for figure in figures}, {row["length_ratio"] for row in ours})
        sides = [
            (figure, row)
            for figure in figures
            for row in ours
            if figure.encoding == published_name(row) and ratios.get(figure.ratio) == row["length_ratio"]
        ]
        for pair in itertools.combinations(sides, 2):
            (lower, lower_row), (higher, higher_row) = sorted(pair, key=lambda side: side[0].perplexity)
            if (kind := _kind(lower, lower_row, higher, higher_row)) and apart(lower, higher):
                statements.append(Statement(kind, lower, higher, lower_row, higher_row))
    return statements


def _kind(lower: Figure, lower_row: Mapping, higher: Figure, higher_row: Mapping) -> str | None:
    if lower.encoding != higher.encoding:
        return "encodings" if lower.ratio == higher.ratio else None
    same_runs = (lower_row["label"], lower_row["extension"]) == (higher_row["label"], higher_row["extension"])
    return "lengths" if same_runs and min(lower.ratio, higher.ratio) == 1 else None


def apart(lower: Figure, higher: Figure) -> bool:
    """Whether a study can tell its two figures from each other; see the module's docstring."""
    gap = math.log(higher.perplexity / lower.perplexity)
    if lower.sd is None or higher.sd is None:
        return gap > math.log(1 + MARGIN)
    return gap > SDS * math.hypot(lower.sd / lower.perplexity, higher.sd / higher.perplexity)


def match_ratios(published: Iterable[float], ours: Iterable[float]) -> dict[float, float]:
    """Ours by published multiple of the training context: pairs that are each other's nearest, within FACTOR, and
    both beyond the training context or both within it.

    >>> match_ratios([1.0, 1.4, 2.1, 5.5], [1.0, 2.0, 4.0])
    {1.0: 1.0, 2.1: 2.0}
    """
    published, ours = sorted(published), sorted(ours)
    if not published or not ours:
        return {}

    def gap(theirs: float, mine: float) -> float:
        return abs(math.log(theirs / mine)) if (theirs > 1) == (mine > 1) else math.inf

    nearest = {theirs: min(ours, key=lambda mine, theirs=theirs: gap(theirs, mine)) for theirs in published}
    back = {mine: min(published, key=lambda theirs, mine=mine: gap(theirs, mine)) for mine in ours}
    return {
        theirs: mine
        for theirs, mine in nearest.items()
        if back[mine] == theirs and gap(theirs, mine) <= math.log(FACTOR)
    }


def published_name(row: Mapping[str, Any]) -> str:
    """How published.csv names an encoding, as in "rope", or "rope+yarn" under an extension."""
    return row["encoding"] if row["extension"] == "none" else f"{row['encoding']}+{row['extension']}"


def place(row: Mapping[str, Any]) -> tuple:
    """What tells the summary's rows apart."""
    return row["protocol"], row["extension"], row["context_length"], row["label"]


Blocks = tuple[np.ndarray, np.ndarray]  # summed losses (nats) and tokens of each block of windows, (B,) both


def _by_place(runs: Iterable[Run]) -> dict[tuple, dict[int, Blocks]]:
    """The losses of each seed by block, by the place of the summary's row."""
    scored: dict[tuple, dict[int, Blocks]] = {}
    for run in runs:
        for row in run.rows:
            if row["status"] == "ok" and not {"control", "position"} & set(row):
                windows = run.windows[row_key(row)]
                blocks = np.unique(windows.blocks, return_inverse=True)[1]
                sums = np.bincount(blocks, windows.losses), np.bincount(blocks, windows.tokens)
                scored.setdefault(place({**row, "label": run.label}), {})[run.seed] = sums
    return scored


def _paired(
    lower: Mapping[int, Blocks], higher: Mapping[int, Blocks], level: float, comparisons: int
) -> tuple[Difference | str, int]:
    """The sweep's higher minus lower over the seeds that both have, or why there is none; and how many seeds."""
    seeds = sorted(set(lower) & set(higher))
    if not seeds:
        return "no seed in common", 0
    tokens = lower[seeds[0]][1]
    if not all(np.array_equal(side[seed][1], tokens) for side in (lower, higher) for seed in seeds):
        return "the two were not scored on the same tokens", len(seeds)
    losses = [np.stack([side[seed][0] for seed in seeds]) for side in (higher, lower)]
    return difference(*losses, tokens, level=level, comparisons=comparisons), len(seeds)


def _row(
    statement: Statement, found: Difference | str, seeds: int, p_holm: float | None, level: float
) -> dict[str, Any]:
    lower, higher = statement.lower, statement.higher
    lower_row, higher_row = statement.lower_row, statement.higher_row
    row = {
        "kind": statement.kind,
        "statement": f"{_side(lower_row)} below {_side(higher_row)}",
        "study": lower.study,
        "corpus": lower.corpus,
        "evidence": lower.evidence,
        "published_protocol": lower.published_protocol,
        "published_lower": lower.perplexity,
        "published_higher": higher.perplexity,
        "published_ratio_lower": lower.ratio,
        "published_ratio_higher": higher.ratio,
        "published_percent": 100 * (higher.perplexity / lower.perplexity - 1),
        "protocol": lower_row["protocol"],
        "lower": _name(lower_row),
        "higher": _name(higher_row),
        "ratio_lower": lower_row["length_ratio"],
        "ratio_higher": higher_row["length_ratio"],
        "perplexity_lower": lower_row["perplexity"],
        "perplexity_higher": higher_row["perplexity"],
        "seeds": seeds,
    }
    if isinstance(found, str):
        return row | {"verdict": "not separable", "reason": found}
    return row | {
        "percent": found.percent,
        "percent_low": found.percent_low,
        "percent_high": found.percent_high,
        "covers": found.covers,
        "p_holm": p_holm,
        "verdict": VERDICTS[verdict(found, p_holm, level)],
        "reason": found.reason,
    }


def _name(row: Mapping[str, Any]) -> str:
    return row["label"] if row["extension"] == "none" else f"{row['label']}+{row['extension']}"


def _side(row: Mapping[str, Any]) -> str:
    return f"{_name(row)} at {row['length_ratio']:g}x"
