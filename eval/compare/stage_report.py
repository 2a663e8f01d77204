"""How a report shows what eval/compare/stages.py has found: its sentences, its tables, its figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from eval.compare.comparison import Comparison
from eval.compare.plots import Figure, Style, axis, curves, escape, layout
from eval.compare.show import (
    Column,
    Table,
    column,
    columns,
    columns_by_length,
    intervals,
    listed,
    show_change,
    show_count,
    show_interval,
    show_length,
    show_level,
    show_percent,
    show_perplexity,
    show_sure,
)
from eval.compare.stages import QUESTIONS, SCRATCH, Group, Stages, of, stages_of

SECONDS = "{:,.1f}".format
TITLES = {"same": "more tokens", "longer": "longer windows", "test": "test time", "ceiling": "the ceiling"}
SAID = {"better": "better than", "worse": "worse than", "not separable": "not to be told from"}


# ------------------------------------------------------------------------------------------------------------ sentences


def stage_sentences(comparison: Comparison) -> list[str]:
    """What the longest stages come to, of each root: at N, at the other lengths, in cost and with their length."""
    stages, said = stages_of(comparison), []
    for group in stages.longest if stages else ():
        first, *others = group.places
        begin = f"After a second stage of {_length_of(group)}"
        said.append(
            f"{begin}, at {show_length(first, comparison.context)}, {_verdict(comparison, stages, group, first)}"
        )
        said += [*_against(comparison, stages, group), *_inside(comparison, stages, group)]
        for length in others:
            if length > first:
                said.append(
                    f"At {show_length(length, comparison.context)}, {_verdict(comparison, stages, group, length)}"
                )
        said += [*_growing(stages, group), *_cost(stages, group)]
    return said


def _length_of(group: Group) -> str:
    """ "150,000 tokens (10 % of rope's 1,500,000)"."""
    return f"{group.tokens:,} tokens ({group.share:.3g} % of {group.root}'s {group.before:,})"


def _ranked(stages: Stages, group: Group, length: int) -> pd.DataFrame:
    """The figures of a group's arms at a length, best first."""
    rows = of(stages.figures, group, length)
    return rows[rows["label"].isin([arm.label for arm in group.arms]) & (rows["extension"] == "none")]


def _verdict(comparison: Comparison, stages: Stages, group: Group, length: int) -> str:
    """Which arms can't be told from the best at a length, and by how much."""
    rows = _ranked(stages, group, length)
    if rows.empty:
        return "no arm has a figure."
    lowest, *others = rows.assign(name=rows["label"].map(group.names)).itertuples()
    figure = f"a perplexity of {show_perplexity(lowest.perplexity)} ({show_sure(lowest, comparison.level)})"
    if not others:
        return f"{lowest.name} has {figure}."
    best = [row.name for row in (lowest, *others) if row.best]
    if best == [lowest.name]:
        other, said = others[0], f"{lowest.name} is the best of {len(rows)} arms: it has {figure}; the next"
    else:
        other = next((row for row in reversed(others) if row.best), others[0])
        among = "apart" if len(best) == len(rows) else f"from the best of {len(rows)} arms"
        said = f"{listed(best)} can't be told {among}: the lowest, {lowest.name}, has {figure}; the highest of them"
    pairs = of(stages.pairs, group, length)
    (change,) = pairs[(pairs["label"] == other.label) & (pairs["against"] == lowest.label)].itertuples()
    return f"{said}, {other.name}, has {show_perplexity(other.perplexity)}, {show_change(change, comparison.level)}."


def _against(comparison: Comparison, stages: Stages, group: Group) -> Iterator[str]:
    """How many arms beat what they are held against, at N, and how near the ceiling is."""
    rows = of(stages.answers, group, group.places[0]).dropna(subset="verdict")
    lowest = _ranked(stages, group, group.places[0])["label"].iloc[0]
    beaten = []
    for question, own in rows.groupby("question", sort=False):
        if question != "ceiling":
            won = f"{(own['verdict'] == 'better').sum()} of {len(own)}{_arms_are(len(own)) * (not beaten)} than "
            change = own["difference_percent"][own["label"] == lowest].map(show_percent)
            beaten.append(won + _asked(question, own, group, comparison) + "".join(f" ({each})" for each in change))
    if beaten:
        yield f"There, {'; '.join(beaten)}; in brackets {group.names[lowest]}'s change."
    near = rows[rows["question"] == "ceiling"].sort_values("difference_nats")
    if len(near):
        found = next(near.itertuples())
        what = f"the ceiling {found.against}, trained there from scratch on as many tokens in all"
        change = show_change(found, comparison.level)
        yield f"The nearest to {what}, {group.names[found.label]}, is {SAID[found.verdict]} it: {change}."


def _arms_are(count: int) -> str:
    return " arms are better" if count > 1 else " arm is better"


def _inside(comparison: Comparison, stages: Stages, group: Group) -> Iterator[str]:
    """What the arms have lost at L, against one that went on there."""
    first = comparison.context
    rows = of(stages.answers, group, first)
    rows = rows[(rows["question"] == "same") & rows["verdict"].notna()]
    if rows.empty or first == group.places[0]:
        return
    worse = rows[rows["verdict"] == "worse"].sort_values("difference_nats")
    at, against = show_length(first, comparison.context), group.names.get(rows["against"].iloc[0])
    if worse.empty:
        yield f"At {at}, no arm is found to be worse than {against}."
    else:
        names, change = worse["label"].map(group.names).tolist(), show_percent(worse["difference_percent"].iloc[-1])
        are = "is" if len(names) == 1 else "are"
        yield f"At {at}, {listed(names)} {are} worse than {against}, {names[-1]} by {change}."


def _growing(stages: Stages, group: Group) -> Iterator[str]:
    """How the best arm's perplexity at N goes with the stage's length."""
    length = group.places[0]
    lowest = _ranked(stages, group, length)["label"].head(1)
    found = stages.growth[(stages.growth["root"] == group.root) & (stages.growth["context_length"] == length)]
    found = found[found["label"].isin(lowest)].sort_values("stage_tokens")
    if (found["stage_tokens"] > 0).sum() > 1:
        points = [f"{show_perplexity(row.perplexity)} after {row.share:.3g} %" for row in found.itertuples()]
        yield f"With the stage's length, {found['kind'].iloc[0]} goes at {length:,} tokens over {listed(points)}."


def _cost(stages: Stages, group: Group) -> Iterator[str]:
    costs = stages.costs.set_index("label")
    own = costs.loc[[arm.label for arm in group.arms]]
    seconds, before = own["seconds"].dropna(), own["seconds_before"].dropna()
    if seconds.empty:
        return
    ends = " to ".join(dict.fromkeys(SECONDS(end) for end in (seconds.min(), seconds.max())))
    beside = f" beside the {SECONDS(before.median())} s before it" if len(before) else ""
    ceilings = costs.loc[group.ceilings, "seconds"].dropna()
    from_scratch = f"; from scratch it takes {SECONDS(ceilings.median())} s" if len(ceilings) else ""
    yield f"The stage takes {ends} s{beside}{from_scratch}."


# --------------------------------------------------------------------------------------------------------------- tables


def _when(stages: Stages, group: Group, **more: str) -> dict[str, str]:
    title = f"{group.root}, {group.tokens:,} tokens"
    if len({(each.root, each.tokens) for each in stages.groups}) < len(stages.groups):
        title += f" after {group.before:,}"
    return {"second stage": title} | more


def _asked(question: str, rows: pd.DataFrame, group: Group, comparison: Comparison) -> str:
    """What a question holds arms against: by its label where that is the same for all."""
    names = rows["against"].unique()
    name = group.names.get(names[0], names[0]) if len(names) == 1 else "that"
    told = {
        "same": f"{name}, which went on at {comparison.context:,}",
        "longer": f"{name}, which had the longer windows alone",
        "test": f"{name} as it was, under the same extension at test time",
        "ceiling": f"{name}, from scratch on as many tokens in all",
    }
    return told[question]


def overview_table(comparison: Comparison, stages: Stages, group: Group) -> Table:
    """All of a group at L, N, 2 N: parent, test time, arms, ceiling; best first by N."""
    here = of(stages.figures, group)
    rows = here.drop_duplicates(["label", "extension"])[["label", "extension", "what"]]  # by the first place, N
    best = here[here["context_length"] == group.places[0]].set_index(["label", "extension"])["best"]
    among = [bool(best.get(side, False)) for side in zip(rows["label"], rows["extension"], strict=True)]
    tokens = rows["label"].map(stages.costs.set_index("label")["stage_tokens"]).where(rows["extension"] == "none", 0)
    tokens = tokens.astype("Int64").mask(rows["what"] == SCRATCH)
    here = here.assign(at=here["context_length"], detail=intervals(here, "perplexity", show_perplexity))
    keys = pd.MultiIndex.from_frame(rows[["label", "extension"]])
    titles = {length: show_length(length, comparison.context) for length in sorted(group.places)}
    shown = columns_by_length(here, keys, "perplexity", show_perplexity, titles)
    covers = " or ".join(sorted(here["interval_covers"].unique()))
    first = show_length(group.places[0], comparison.context)
    names = rows["label"].map(group.names) + rows["extension"].map(
        lambda name: "" if name == "none" else f", {name} at test time"
    )
    return Table(
        f"Second stage of {_length_of(group)}",
        [
            column("run", names),
            column("what it is", rows["what"], details=["among the best arms" if each else "" for each in among]),
            column("tokens of the stage", tokens, show_count),
            *shown,
        ],
        f"perplexity, {stages.protocol}; {show_level(comparison.level)} intervals over {covers}; best first at {first}"
        ", where no other arm is better than one among the best",
        _when(stages, group),
        rows["label"],
    )


def against_table(comparison: Comparison, stages: Stages, group: Group, length: int) -> Table:
    """Each arm against what it must beat, at one length; best first."""
    here = of(stages.answers, group, length)
    rows = _ranked(stages, group, length)
    shown, told = [], []
    for question in QUESTIONS:
        asked = here[here["question"] == question]
        if len(asked):
            told.append(f"{TITLES[question]}: {_asked(question, asked, group, comparison)}")
            found = asked.set_index("label").reindex(rows["label"])
            shown.append(_difference_column(f"against {TITLES[question]}", found))
    at = show_length(length, comparison.context)
    return Table(
        f"Against what an arm must beat, at {at}",
        [column("arm", rows["label"].map(group.names)), *columns(rows, "seeds", "perplexity"), *shown],
        f"change of perplexity, {stages.protocol}, paired over seeds and windows; verdicts after Holm's correction for "
        f"all arms of a column; {'; '.join(told)}",
        _when(stages, group, **{"context length": at}),
        rows["label"],
    )


def pairs_table(comparison: Comparison, stages: Stages, group: Group, length: int) -> Table:
    """Each arm against each other one, at one length."""
    here = of(stages.pairs, group, length)
    rows = _ranked(stages, group, length)
    shown = [
        column(f"against {group.names[other]}", changes["difference_percent"].astype(float), show_percent, verdicts)
        for other in rows["label"]
        if len(rows) > 1
        for changes in [here[here["against"] == other].set_index("label").reindex(rows["label"])]
        for verdicts in [changes["verdict"].astype(object).where(changes["verdict"].notna(), "").tolist()]
    ]
    at = show_length(length, comparison.context)
    return Table(
        f"Arm against arm, at {at}",
        [column("arm", rows["label"].map(group.names)), *shown] if shown else [],
        f"change of perplexity of the row against the column, {stages.protocol}, paired over seeds and windows; "
        "verdicts after Holm's correction for all arms of a column",
        _when(stages, group, **{"context length": at}),
        rows["label"],
    )


def _difference_column(title: str, rows: pd.DataFrame) -> Column:
    """Changes of perplexity, with their intervals and verdicts beside them."""
    ranges = intervals(rows, "difference", show_percent)
    details = [
        ", ".join(filter(None, (interval, row.verdict))) if isinstance(row.verdict, str) else ""
        for interval, row in zip(ranges, rows.itertuples(), strict=True)
    ]
    return column(title, rows["difference_percent"].astype(float), show_percent, details)


def growth_table(comparison: Comparison, stages: Stages, root: str, length: int) -> Table:
    """Perplexity by the stage's length, at one context length; best first by the longest stage."""
    rows = _grown(stages, root, length)
    shares = rows.drop_duplicates("stage_tokens").sort_values("stage_tokens")
    titles = {row.stage_tokens: f"{row.stage_tokens:,} ({row.share:.3g} %)" for row in shares.itertuples()}
    rows = rows.assign(at=rows["stage_tokens"], detail=intervals(rows, "perplexity", show_perplexity))
    wide = rows.pivot(index="kind", columns="at", values="nats").sort_values([*reversed(titles)])
    labels = rows.drop_duplicates("kind").set_index("kind")["label"]
    at = show_length(length, comparison.context)
    return Table(
        f"Perplexity at {at} by tokens of the stage: {root}",
        [column("arm", wide.index), *columns_by_length(rows, wide.index, "perplexity", show_perplexity, titles)],
        "0: the parent under the arm's extension at test time; shares are of the tokens trained on before",
        {"context length": at, "root": root},
        labels[wide.index],
    )


def _grown(stages: Stages, root: str, length: int) -> pd.DataFrame:
    """Of one root and length the kinds of arms that there are several lengths of."""
    rows = stages.growth[(stages.growth["root"] == root) & (stages.growth["context_length"] == length)]
    several = rows[rows["stage_tokens"] > 0].groupby("kind").size()
    return rows[rows["kind"].isin(several.index[several > 1])]


def _growths(stages: Stages) -> list[tuple[str, int]]:
    """Each (root, length) at which stages of several lengths can be shown; N first."""
    places = [(group.root, length) for group in stages.longest for length in group.places]
    return [place for place in dict.fromkeys(places) if len(_grown(stages, *place))]


def stage_cost_table(stages: Stages) -> Table:
    """What each label has cost: the parent, the arms, the ceiling."""
    rows = stages.costs
    return Table(
        "What a second stage costs",
        [
            *columns(rows, "label", "what", label="run", what="what it is"),
            column("tokens before", rows["tokens_before"], show_count),
            column("tokens of the stage", rows["stage_tokens"], show_count),
            column("tokens in all", rows["tokens_before"] + rows["stage_tokens"], show_count),
            column("seconds before", rows["seconds_before"], SECONDS),
            column("seconds of the stage", rows["seconds"], SECONDS),
            column("seconds in all", rows["seconds_before"] + rows["seconds"], SECONDS),
        ],
        "of training; medians over the seeds",
        labels=rows["label"],
    )


def stage_tables(comparison: Comparison) -> Iterator[Table]:
    """Those of report.md: of the longest stages, the overview and all differences; growth at N; cost."""
    if (stages := stages_of(comparison)) is None:
        return
    for group in stages.longest:
        yield overview_table(comparison, stages, group)
        yield from (against_table(comparison, stages, group, length) for length in group.places)
        yield from (pairs_table(comparison, stages, group, length) for length in group.places[:1])
    for root, length in _growths(stages):
        yield growth_table(comparison, stages, root, length)
    yield stage_cost_table(stages)


def stage_panels(comparison: Comparison, style: Mapping[str, Style]) -> Sequence[Figure | Table]:
    """Those of the page: of every group, at every length."""
    if (stages := stages_of(comparison)) is None:
        return []
    groups = sorted(stages.groups, key=lambda group: group not in stages.longest)
    return [
        *(growth_figure(comparison, stages, style, *place) for place in _growths(stages)),
        *(growth_table(comparison, stages, *place) for place in _growths(stages)),
        *(overview_table(comparison, stages, group) for group in groups),
        *(against_table(comparison, stages, group, length) for group in groups for length in group.places),
        *(
            table
            for group in groups
            for length in group.places
            if (table := pairs_table(comparison, stages, group, length))
        ),
        stage_cost_table(stages),
    ]


def growth_figure(comparison: Comparison, stages: Stages, style: Mapping[str, Style], root: str, length: int) -> Figure:
    """Perplexity against the tokens of the stage, with bands for the intervals; it begins at test time."""
    rows, at = _grown(stages, root, length), show_length(length, comparison.context)
    rows = rows.assign(
        hover=[
            f"<b>{escape(row.kind)}</b> at {at}<br>perplexity {row.perplexity:.6g} "
            f"({show_interval(row.perplexity_low, row.perplexity_high, show_perplexity) or row.interval_reason})<br>"
            + (f"after {row.stage_tokens:,} tokens ({row.share:.3g} %)" if row.stage_tokens else "at test time")
            + f", {row.seeds} seed{'s' if row.seeds > 1 else ''}"
            for row in rows.itertuples()
        ]
    )
    ticks = rows.drop_duplicates("stage_tokens").sort_values("stage_tokens")
    edges = ("perplexity_low", "perplexity_high")
    data = curves(rows, style, "stage_tokens", "perplexity", edges)
    data += curves(
        _ceilings(stages, root, length, ticks["stage_tokens"]), style, "stage_tokens", "perplexity", markers=False
    )
    texts = [f"{row.stage_tokens:,}<br>{row.share:.3g} %" for row in ticks.itertuples()]
    x = axis("tokens of the second stage, and their share of those before")
    x |= {"tickvals": ticks["stage_tokens"].tolist(), "ticktext": texts}
    return Figure(
        f"Perplexity at {at} by tokens of the stage: {root}",
        data,
        layout(x, axis(f"perplexity at {at} (log)", log=True)),
        {"context length": at, "root": root},
    )


def _ceilings(stages: Stages, root: str, length: int, tokens: pd.Series) -> pd.DataFrame:
    """Those of the longest stages, at the first and the last of these tokens, for a line across."""
    rows = pd.concat([of(stages.figures, group, length) for group in stages.longest if group.root == root])
    rows = rows[rows["what"] == SCRATCH].drop_duplicates("label")
    hover = [
        f"<b>{escape(row.label)}</b>, from scratch<br>perplexity {row.perplexity:.6g}" for row in rows.itertuples()
    ]
    rows = rows.assign(hover=hover)
    return pd.concat([rows.assign(stage_tokens=end) for end in (tokens.min(), tokens.max())])
