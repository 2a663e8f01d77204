"""A sweep's second stages, side by side: which arm is better than which, and each against what it must beat.

An arm is a run that goes on from another one (`stage` in its settings). Arms are compared with each other where they
start from the same parent, after as many tokens, and are as long: a `Group`. All is paired by seed and window, on the
headline's targets, at L (the context of the first run), at the arms' contexts N and at 2 N. What an arm must beat:

    same      an arm without an extension that went on at L: what more tokens alone bring
    longer    one that went on at N: what the longer windows alone bring
    test      the parent under the arm's own extension at test time: what it costs nothing to have
    ceiling   a run from scratch at N, on as many tokens in all

A difference is the arm's loss minus the other's; Holm's correction is over all arms that one question is asked of, or
that are held against one other. The figures of a stage of no tokens, where `growth` begins, are those of `test`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from eval.compare.comparison import HEADLINE, Comparison
from eval.compare.paired import DIFFERENCE, difference_fields, frame_of, losses_by
from eval.compare.runs import Run, as_many, differing
from eval.measure.statistics import difference, judged, shared_seeds

QUESTIONS = ("same", "longer", "test", "ceiling")
SCRATCH = "from scratch at N"
GROUP = ["root", "before", "tokens"]  # of a group's rows in every frame here
COMPARED = [*GROUP, "context_length", "label", "against", "against_extension", "seeds", *DIFFERENCE]
FIRST = [*GROUP, "context_length", "label", "question"]
Side = tuple[str, str]  # a label, and the extension at test time


@dataclass(frozen=True, eq=False)
class Arm:
    """One label of second stages. run: one of its runs; parent: its parent's label, where that is in the sweep; root:
    the label of the first run of its chain there, or else the encoding's name. own: the extension that this stage has
    added, "none" where it has added none; whole: whether it starts where the parent ended."""

    run: Run
    parent: str | None
    root: str

    label = property(lambda self: self.run.label)
    context = property(lambda self: self.run.settings.context)
    own = property(lambda self: (self.run.settings.extension or {}).get("name", "none"))
    whole = property(lambda self: self.run.settings.init_at == 1)
    key = property(lambda self: (self.root, self.run.stage.tokens, self.run.settings.training.tokens))

    @property
    def trained(self) -> str:
        """ "yarn at 512", "continued at 128"."""
        return f"{self.run.extension or 'continued'} at {self.context:,}"

    @property
    def kind(self) -> str:
        """The label without the length of the stage."""
        name, _, rest = self.label.partition(" (")
        parts = [
            part for part in rest.removesuffix(")").split(", ") if part and not part.startswith("training.tokens=")
        ]
        return f"{name} ({', '.join(parts)})" if parts else name


@dataclass(frozen=True, eq=False)
class Group:
    """Arms of one root that start after as many tokens and are as long. places: the lengths at which they are held
    against each other, the longest of their contexts first; against: by label and question, the side to beat."""

    root: str
    before: int
    tokens: int
    arms: Sequence[Arm]
    places: Sequence[int]
    against: Mapping[str, Mapping[str, Side]]

    key = property(lambda self: (self.root, self.before, self.tokens))
    share = property(lambda self: 100 * self.tokens / self.before)
    parent = property(lambda self: self.arms[0].parent)

    @property
    def ceilings(self) -> list[str]:
        return sorted({asked["ceiling"][0] for asked in self.against.values() if "ceiling" in asked})

    @property
    def sides(self) -> dict[Side, str]:
        """All that belongs to it, and what each is: the parent, by itself and under the arms' extensions; the arms; the
        ceiling."""
        found = {(self.parent, "none"): "the parent"} if self.parent else {}
        tests = {asked["test"] for asked in self.against.values() if "test" in asked}
        found |= {side: f"{side[1]} at test time" for side in sorted(tests) if side not in found}
        found |= {(arm.label, "none"): arm.trained for arm in self.arms}
        return found | {(label, "none"): SCRATCH for label in self.ceilings}

    @property
    def names(self) -> dict[str, str]:
        """What its labels are called where only it is meant: arms without the length of their stage."""
        return {label: label for label, _ in self.sides} | {arm.label: arm.kind for arm in self.arms}


@dataclass(frozen=True, eq=False)
class Stages:
    """What the second stages of a sweep come to.

    groups: by root; of one root the longest stages first. protocol: by which all is compared.
    answers: a row for each (group, length, arm, question): `against` (and `against_extension`) what, the arm's figures
        minus that one's, and the verdict.
    pairs: the like of each arm against each other one of its group.
    figures: of each (group, length, side) perplexity with its interval, what it is, and whether it is an arm that no
        other is better than (`best`); best first.
    growth: of each (root, kind, length, tokens of the stage) perplexity with its interval, and the share of the
        parent's tokens; `label`: of the longest stage of that kind.
    costs: a row a label: what it is, tokens before and of the stage, seconds of both (medians over the seeds).
    """

    groups: Sequence[Group]
    protocol: str
    answers: pd.DataFrame
    pairs: pd.DataFrame
    figures: pd.DataFrame
    growth: pd.DataFrame
    costs: pd.DataFrame

    @property
    def labels(self) -> set[str]:
        """All that take part: parents, arms, ceilings."""
        return {label for group in self.groups for label, _ in group.sides}

    @property
    def longest(self) -> list[Group]:
        """Of each root the group of the longest stages with the most arms."""
        found: dict[str, Group] = {}
        for group in self.groups:
            found[group.root] = max(found.get(group.root, group), group, key=lambda each: (len(each.arms), each.tokens))
        return [*found.values()]


def of(frame: pd.DataFrame, group: Group, length: int | None = None) -> pd.DataFrame:
    """The rows of a group, at one length where it is given."""
    rows = frame[(frame[GROUP] == pd.Series(dict(zip(GROUP, group.key, strict=True)))).all(axis="columns")]
    return rows if length is None else rows[rows["context_length"] == length]


def stage_rows(stages: Stages) -> pd.DataFrame:
    """What stages.csv holds: `answers`, and `pairs` under the question "arm"."""
    table = pd.concat([stages.answers, stages.pairs.assign(question="arm")], ignore_index=True)
    return table[[*FIRST, *(name for name in table if name not in FIRST)]].drop(columns="smallest_detectable")


@functools.lru_cache(maxsize=1)  # the terminal, report.md and the page ask for the same
def stages_of(comparison: Comparison) -> Stages | None:
    """None where the sweep has no second stages that are compared."""
    found = _arms(comparison)
    if not found or comparison.summary.empty:
        return None
    protocols = {*comparison.summary["protocol"]}
    protocol = HEADLINE if HEADLINE in protocols else min(protocols)
    here = comparison.summary[comparison.summary["protocol"] == protocol]
    here = here.set_index(["context_length", "label", "extension"])
    groups = [_group(comparison, here, [*arms]) for arms in _grouped(found)]
    losses = _losses(comparison, protocol)
    answers, pairs, figures = [], [], []
    for group in groups:
        for length in group.places:
            place = dict(zip(GROUP, group.key, strict=True)) | {"context_length": length}
            answers += [place | row for row in _answers(group, losses[length], comparison.level)]
            own = [place | row for row in _pairs(group, losses[length], comparison.level)]
            pairs += own
            beaten = {row["against"] for row in own if row.get("verdict") == "better"}
            figures += [place | row for row in _figures(group, here.loc[length], beaten)]
    return Stages(
        groups,
        protocol,
        frame_of(answers, [*COMPARED, "question", "covers"]),
        frame_of(pairs, [*COMPARED, "covers"]),
        pd.DataFrame(figures),
        pd.DataFrame(_growth(groups, here)),
        pd.DataFrame(_costs(comparison, groups)),
    )


def _arms(comparison: Comparison) -> list[Arm]:
    """One of each label."""
    known = {run.results.get("config_hash"): run for run in comparison.runs if run.problem is None}
    found: dict[str, Arm] = {}
    for run in comparison.compared:
        if run.stage and not run.control and run.label not in found:
            parent = first = known.get(run.stage.parent)
            while first and first.stage and first.stage.parent in known:
                first = known[first.stage.parent]
            root = first.label if first and not first.stage else run.encoding
            found[run.label] = Arm(run, parent and parent.label, root)
    return [*found.values()]


def _grouped(arms: Iterable[Arm]) -> Iterator[Iterator[Arm]]:
    ordered = sorted(arms, key=lambda arm: (arm.root, -arm.key[1], -arm.key[2]))
    return (found for _, found in itertools.groupby(ordered, key=lambda arm: arm.key))


def _group(comparison: Comparison, summary: pd.DataFrame, arms: Sequence[Arm]) -> Group:
    """summary: by length, label, extension."""
    first, longest = comparison.context, max(arm.context for arm in arms)
    labels = {arm.label for arm in arms}
    scored = {length for length, label, _ in summary.index if label in labels}
    wanted = {first, 2 * longest, *(arm.context for arm in arms)}
    if longest == first:  # nothing was stretched: all that they are read at
        wanted = {length for length in scored if length >= first}
    places = sorted(wanted & scored, key=lambda length: (length != longest, length))
    sides = {(label, extension) for _, label, extension in summary.index}
    against = {arm.label: _to_beat(arm, arms, comparison.compared, longest, first) for arm in arms}
    against = {
        label: {question: side for question, side in asked.items() if side in sides and side != (label, "none")}
        for label, asked in against.items()
    }
    return Group(*arms[0].key, arms, places, against)


def _to_beat(arm: Arm, arms: Sequence[Arm], runs: Sequence[Run], longest: int, first: int) -> dict[str, Side]:
    """What an arm is held against, by question."""
    context = arm.context if arm.context > first else longest
    plain = [each.run for each in arms if not each.run.extension]
    scratch = [run for run in runs if not run.stage and run.encoding == arm.run.encoding and as_many(run, arm.run)]
    candidates = {
        # a first run that was as long in all went on at L too: what a stage within a run (init_at) is held against
        "same": [run for run in plain if run.settings.context == first] or [run for run in scratch if not run.control],
        "longer": [run for run in plain if run.settings.context == context],
        "ceiling": [run for run in scratch if run.control and run.settings.context == context],
    }
    if first == longest:
        del candidates["longer"]
    found = {question: (_nearest(arm.run, each).label, "none") for question, each in candidates.items() if each}
    return found | ({"test": (arm.parent, arm.own)} if arm.parent else {})


def _nearest(run: Run, others: Sequence[Run]) -> Run:
    """That of the others which differs from it in the fewest settings of the encoding and of training."""
    return min(others, key=lambda each: (len(differing([each.flat, run.flat], ("encoding", "training"))), each.label))


Losses = tuple[dict[Side, dict[int, np.ndarray]], np.ndarray, np.ndarray]


def _losses(comparison: Comparison, protocol: str) -> dict[int, Losses]:
    """By length: of each side loss_W by seed, and of each window its tokens and its block."""
    windows = comparison.windows.query("position == 0 and protocol == @protocol")
    windows = windows[windows["control"] != "floor"]
    windows = windows.assign(side=windows["label"] + "\n" + windows["extension"])
    return {
        length: ({tuple(side.split("\n")): by_seed for side, by_seed in sides.items()}, *scored)
        for (length,), sides, *scored in losses_by(windows, ["context_length"], "side")
    }


def _answers(group: Group, losses: Losses, level: float) -> Iterator[dict[str, Any]]:
    for question in QUESTIONS:
        sides = {label: asked[question] for label, asked in group.against.items() if question in asked}
        yield from ({"question": question} | row for row in _against(sides, losses, level))


def _pairs(group: Group, losses: Losses, level: float) -> Iterator[dict[str, Any]]:
    labels = [arm.label for arm in group.arms]
    for other in labels:
        yield from _against({label: (other, "none") for label in labels if label != other}, losses, level)


def _against(sides: Mapping[str, Side], losses: Losses, level: float) -> Iterator[dict[str, Any]]:
    """Arms, by label, minus what each is held against, judged together."""
    by_seed, *scored = losses
    seeds = {label: shared_seeds(by_seed.get((label, "none"), {}), by_seed.get(sides[label], {})) for label in sides}
    pairs = {label: pair for label, pair in seeds.items() if pair}
    found = {
        label: difference(*pair, *scored, level=level, comparisons=None, names=(label, " ".join(sides[label])))
        for label, pair in pairs.items()
    }
    found = judged(found, level)
    for label, (against, extension) in sides.items():
        row = {"label": label, "against": against, "against_extension": extension}
        if label in found:
            row |= {"seeds": len(pairs[label][0])} | difference_fields(found[label])
        yield row


FIGURE = ["seeds", "perplexity", "perplexity_low", "perplexity_high", "nats", "interval_reason", "interval_covers"]


def _figures(group: Group, here: pd.DataFrame, beaten: Iterable[str]) -> list[dict[str, Any]]:
    """here: the summary at one length, by label and extension."""
    arms, beaten = {arm.label for arm in group.arms}, {*beaten}
    rows = [
        {"label": label, "extension": extension, "what": what}
        | here.loc[(label, extension), FIGURE].to_dict()
        | {"best": label in arms - beaten and len(arms) > 1 and what != "the parent"}
        for (label, extension), what in group.sides.items()
        if (label, extension) in here.index
    ]
    return sorted(rows, key=lambda row: row["nats"])


def _growth(groups: Sequence[Group], summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """summary: by length, label, extension."""
    kinds: dict[tuple, list[tuple[Group, Arm]]] = {}
    for group in groups:
        for arm in group.arms:
            kinds.setdefault((group.root, group.before, arm.kind), []).append((group, arm))
    for (root, _, kind), found in kinds.items():
        group, longest = max(found, key=lambda each: each[0].tokens)
        points = [(group.tokens, (arm.label, "none")) for group, arm in found]
        if longest.parent and longest.whole:
            points.append((0, (longest.parent, longest.own)))
        for tokens, side in sorted(points):
            for length in group.places:
                if (length, *side) in summary.index:
                    place = {"root": root, "kind": kind, "label": longest.label, "context_length": length}
                    share = {"stage_tokens": tokens, "share": 100 * tokens / group.before}
                    yield place | share | summary.loc[(length, *side), FIGURE].to_dict()


def _costs(comparison: Comparison, groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    known = {run.results.get("config_hash"): run for run in comparison.runs if run.problem is None}

    def before(run: Run) -> float:
        """Seconds of all stages before; NaN where one of them isn't there."""
        if run.stage is None:
            return 0.0
        parent = known.get(run.stage.parent)
        return before(parent) + _seconds(parent) if parent else np.nan

    told = {label: what for group in groups for (label, extension), what in group.sides.items() if extension == "none"}
    for label, what in told.items():
        runs = [run for run in comparison.compared if run.label == label]
        trained = runs[0].results["training"]["tokens"]  # rounded up to whole steps
        first, stage = (runs[0].stage.tokens, trained) if runs[0].stage else (trained, 0)
        seconds = {"seconds_before": [before(run) for run in runs], "seconds": [_seconds(run) for run in runs]}
        medians = {name: float(np.median(values)) for name, values in seconds.items()}
        yield {"label": label, "what": what, "tokens_before": first, "stage_tokens": stage} | medians


def _seconds(run: Run) -> float:
    return run.results.get("training", {}).get("seconds", np.nan)
