"""The literature check: do a sweep's orderings agree with those that published figures support?

published.csv holds the perplexities of several studies, published_retrieval.csv what models have found again or
answered (accuracy, in %); `evidence` says whether a figure stands in the paper itself, in another's, or in the authors'
log. Absolute figures are never compared across corpora: a study says which of two figures *of its own* is lower, and
the sweep is asked the same of two of its own. There are three kinds of statements:

- encodings: the perplexity of two encodings (or extensions of one) at the same multiple of the training context;
- lengths: that of one encoding at its training context and beyond ("it degrades", "it gains");
- retrieval: which of two encodings (or extensions) finds more at the same multiple of the training context.

A figure with a `stage` is that of a run that was trained further, at a context of so many tokens: multiples are of that
one, and the extension behind the plus is what it was trained with. Such figures are asked of second stages alone, the
longest over the same contexts, which went on from as many tokens for as many more; all others of first runs alone.

A study supports a statement where its two figures are apart: by more than SDS standard deviations of their difference
where it gives both, else by more than MARGIN, which is two of them at the 0.7 % that seeds differ by in small models.
Protocols are compared with their like alone, and multiples of the training context with the nearest within FACTOR.
What of a study retrieval is asked of, and when its figures are apart, is in published_retrieval.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from eval.compare.comparison import Comparison
from eval.compare.paired import difference_fields, frame_of
from eval.compare.published_retrieval import NEEDLES, SDS, TASKS, apart_points, figures_of, finds_of
from eval.measure.statistics import difference, judged

PUBLISHED = Path(__file__).with_name("published.csv")
RETRIEVAL = Path(__file__).with_name("published_retrieval.csv")
MARGIN = 0.02  # of the perplexity
FACTOR = 1.25
PROTOCOLS = {"non-overlapping": "non_overlapping", "last": "fixed_targets", "sliding": "sliding"}  # by the first word
VERDICTS = {"worse": "agree", "better": "disagree", "not separable": "not separable"}  # of the higher minus the lower
FIGURE = ["protocol", "extension", "context_length", "label"]  # what tells the summary's rows apart
QUESTION = ["protocol", *(f"{name}_{side}" for side in ("lower", "higher") for name in FIGURE[1:])]
STAGES = ["contexts", "tokens_before", "stage_tokens"]  # what two second stages must have in common
PERCENT = ["percent", "percent_low", "percent_high"]  # of a perplexity; of what is retrieved:
AMOUNT = ["difference", "difference_low", "difference_high"]
ANSWER = ["seeds", *PERCENT, *AMOUNT, "covers", "p_holm", "verdict", "reason"]
COLUMNS = ["kind", "statement", "study", "corpus", "evidence", "published_protocol", "published_lower"]
COLUMNS += ["published_stage", "published_higher", "published_ratio_lower", "published_ratio_higher"]
COLUMNS += ["published_percent", "published_points", "protocol"]
COLUMNS += ["lower", "higher", "ratio_lower", "ratio_higher", "perplexity_lower", "perplexity_higher"]
COLUMNS += ["retrieved_lower", "retrieved_higher", *ANSWER, "unit"]


def read_published(path: Path = PUBLISHED) -> pd.DataFrame:
    """The figures of a file like published.csv, in its order: study, corpus, evidence, published_protocol and protocol
    (ours that asks the same question), encoding, published_ratio (context length over that of the last training),
    published_stage (that context, in tokens, of runs that were trained further; missing for first runs), published (the
    perplexity), sd (over seeds, missing where not given). Or of one like published_retrieval.csv: published is the
    accuracy in %, published_protocol the task and protocol the needle or task of ours, and there is published_seeds.
    published_length: the context length itself, in tokens or in a task's units."""
    names = {"task": "published_protocol", "accuracy": "published", "seeds": "published_seeds"}
    names |= {"protocol": "published_protocol", "ppl": "published", "stage": "published_stage"}
    found = pd.read_csv(path).rename(columns=names)
    return found.assign(
        protocol=found["published_protocol"].str.extract(r"^([\w-]+)", expand=False).map(PROTOCOLS | TASKS),
        published_ratio=found["context_length"] / found["published_stage"].fillna(found["train_length"]),
        published_length=found["context_length"],
    ).drop(columns=["context_length", "train_length"])


def check(
    comparison: Comparison,
    published: pd.DataFrame | None = None,
    retrieval: pd.DataFrame | None = None,
    finds: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A row for each published statement that the sweep can be asked about, with both sides' numbers and a verdict.

    verdict: agree or disagree where the sweep's paired difference is significant after Holm's correction over all
    questions, of perplexity and of retrieval, else not separable. percent (with its interval) is by how much the
    sweep's perplexity of `higher` exceeds that of `lower`, published_percent the same in the study; difference and
    published_points are the like for what is retrieved. unit: of difference (nats a token, or points of 100 examples),
    or "%". Several studies may ask the same question.

    published, retrieval: figures instead of those of published.csv and published_retrieval.csv; finds: instead of the
    sweep's own.
    """
    found = find_statements(comparison.summary, read_published() if published is None else published)
    finds = finds_of(comparison) if finds is None else finds
    if len(finds):
        rows = figures_of(comparison, finds)
        asked = find_retrieval(rows, read_published(RETRIEVAL) if retrieval is None else retrieval)
        found = pd.concat([each for each in (found, asked) if len(each)] or [pd.DataFrame()], ignore_index=True)
    if found.empty:
        return pd.DataFrame(columns=COLUMNS)
    blocks = _blocks(comparison.windows, finds)
    found = found.merge(_answers(comparison, blocks, found[QUESTION].drop_duplicates()), "left", on=QUESTION)
    at = {}
    for side in ("lower", "higher"):
        found[side] = _extended(found[f"label_{side}"], found[f"extension_{side}"])
        context = found[f"stage_context_{side}"]
        of = context.map(" of {:,}".format).where(context > 0, "")
        at[side] = found[side] + " at " + found[f"ratio_{side}"].map("{:g}x".format) + of
    finding = found["kind"] == "retrieval"
    below, above = at["lower"] + " below " + at["higher"], at["higher"] + " above " + at["lower"]
    found["statement"] = below.mask(finding, above)
    found["published_percent"] = (100 * (found["published_higher"] / found["published_lower"] - 1)).mask(finding)
    found["published_points"] = (found["published_higher"] - found["published_lower"]).where(finding)
    found = found.assign(**found[PERCENT].mask(finding), **found[AMOUNT].where(finding))
    found["unit"] = found["protocol"].isin(NEEDLES).map({True: "nats", False: "points"}).where(finding, "%")
    return found.reindex(columns=COLUMNS)


def _blocks(*windows: pd.DataFrame) -> pd.DataFrame:
    """nats and tokens of whole windows, summed by block, of a figure and a seed each."""
    whole = [each[each["position"] == 0] for each in windows if len(each)]
    return pd.concat(whole).groupby([*FIGURE, "seed", "block"])[["nats", "tokens"]].sum()


def _answers(comparison: Comparison, blocks: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """To each question the sweep's higher minus lower, over the seeds that both have, or why there is none.

    It is paired by blocks, since the windows of two lengths are not the same.
    """
    answers, compared = asked.to_dict("records"), {}
    for number, answer in enumerate(answers):
        places = [
            (answer["protocol"], *(answer[f"{name}_{side}"] for name in FIGURE[1:])) for side in ("higher", "lower")
        ]
        sides = [blocks.loc[place].unstack("block") for place in places]
        seeds = sides[0].index.intersection(sides[1].index)
        losses, tokens = ([side.loc[seeds, name].to_numpy(float) for side in sides] for name in ("nats", "tokens"))
        answer |= {"seeds": len(seeds), "verdict": "not separable"}
        if seeds.empty:
            answer["verdict_reason"] = "no seed in common"
        elif tokens[0].shape != tokens[1].shape or (np.stack(tokens) != tokens[0][0]).any():
            answer["verdict_reason"] = "the two were not scored on the same tokens"
        else:
            how = {"level": comparison.level, "comparisons": len(asked)}
            compared[number] = difference(*losses, tokens[0][0], **how)
    for number, found in judged(compared, comparison.level).items():
        names = {"difference_percent": "percent", "difference_low": "percent_low", "difference_high": "percent_high"}
        fields = {names.get(name, name): value for name, value in difference_fields(found).items()}
        amount = dict(zip(AMOUNT, (found.nats, found.low, found.high), strict=True))
        answers[number] |= fields | amount | {"verdict": VERDICTS[found.verdict]}
    return frame_of(answers).rename(columns={"verdict_reason": "reason"}).reindex(columns=[*QUESTION, *ANSWER])


def find_statements(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The statements "lower is below higher" that studies support, and that the sweep has both sides of: `kind`, what
    `published` has and the columns of the summary's rows, ..._lower and ..._higher. Controls take no part, and no two
    of which one is a second stage and the other none."""
    pairs = _pairs(summary, published, "perplexity")
    if pairs.empty:
        return pairs
    same = {name: pairs[f"{name}_lower"] == pairs[f"{name}_higher"] for name in ("encoding", "label", "extension")}
    ratios = pairs[["published_ratio_lower", "published_ratio_higher"]]
    lengths = same["encoding"] & same["label"] & same["extension"] & (ratios.min(axis="columns") == 1)
    encodings = ~same["encoding"] & (ratios.nunique(axis="columns") == 1)
    pairs["kind"] = lengths.map({True: "lengths", False: "encodings"})
    supported = apart(*(pairs[f"{name}_{side}"] for name in ("published", "sd") for side in ("lower", "higher")))
    return pairs[pairs["alike"] & (lengths | encodings) & supported]


def find_retrieval(rows: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The statements "higher finds more than lower", like `find_statements`. A second stage and a first run are held
    against each other where, there as here, both are at the same length: the stage has kept the context.

    rows: of `figures_of`.
    """
    pairs = _pairs(rows, published, "retrieved")
    if pairs.empty:
        return pairs
    same = {
        name: pairs[f"{name}_lower"] == pairs[f"{name}_higher"]
        for name in ("encoding", "staged", "published_ratio", "published_length", "context_length", "published_task")
    }
    asked = ~same.pop("encoding") & (pairs["alike"] | ~same.pop("staged")) & pd.DataFrame(same).all(axis="columns")
    return pairs[asked & apart_points(pairs)].assign(kind="retrieval")


def _pairs(rows: pd.DataFrame, published: pd.DataFrame, value: str) -> pd.DataFrame:
    """Each two figures of one study and protocol that the sweep has both sides of, in both orders (of one that is
    apart, the lower comes first in one of them), by their places in the file: the columns of `published` and of the
    rows, ..._lower and ..._higher, and whether the two are `alike`: first runs, or second stages over the same
    contexts that went on from as many tokens for as many more. Those of what is the same for both sides, once."""
    ours = rows[rows["control"].isna()]
    if ours.empty or published.empty:
        return pd.DataFrame()
    ours = _named(ours)
    studies = []
    published = published.assign(staged=published.reindex(columns=["published_stage"])["published_stage"].notna())
    for (_, protocol, staged), figures in published.groupby(["study", "protocol", "staged"], sort=False):
        like = ours[(ours["protocol"] == protocol) & (ours["staged"] == staged)]
        ratios = match_ratios(figures["published_ratio"].unique(), like["ratio"].unique())
        studies.append(figures.assign(ratio=figures["published_ratio"].map(ratios)))
    own = ours[["encoding", *FIGURE, "ratio", value, "staged", "stage_context", *STAGES]]
    sides = pd.concat(studies).merge(own)
    sides = sides.assign(number=range(len(sides)), published_task=sides["published_protocol"])
    pairs = sides.merge(sides, on=["study", "protocol"], suffixes=("_lower", "_higher"))
    alike = [pairs[f"{name}_lower"] == pairs[f"{name}_higher"] for name in ("staged", *STAGES)]
    order = pairs[["number_lower", "number_higher"]]
    once = ("corpus", "evidence", "published_protocol")
    stage = pairs.reindex(columns=["published_stage_lower", "published_stage_higher"])
    return (
        pairs.assign(
            alike=np.logical_and.reduce(alike),
            published_stage=stage.max(axis="columns"),
            first=order.min(axis="columns"),
            second=order.max(axis="columns"),
        )
        .sort_values(["first", "second"])
        .rename(columns={f"{name}_lower": name for name in once})
    )


def _named(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be asked about, under published.csv's names: of a first run `encoding` with the extension at
    test time and `ratio` of the training context; of a second stage (`staged`) with the extension that it was trained
    with, without another at test time, and of its last context, `stage_context` (0 for a first run)."""
    rows = summary.reindex(columns=list(dict.fromkeys([*summary, *STAGES, "trained_extension"])))
    longest = rows.groupby("contexts")["stage_tokens"].transform("max")
    rows = rows[rows["contexts"].isna() | ((rows["extension"] == "none") & (rows["stage_tokens"] == longest))]
    staged = rows["contexts"].notna()
    last = rows["contexts"].map(lambda each: int(each.split(">")[-1]), na_action="ignore").fillna(0).astype(int)
    extension = rows["extension"].where(~staged, rows["trained_extension"].fillna("none"))
    return rows.assign(
        encoding=_extended(rows["encoding"], extension),
        ratio=rows["length_ratio"].where(~staged, rows["context_length"] / last.where(staged, 1)),
        staged=staged,
        stage_context=last,
        **rows[STAGES].astype(object).where(staged, 0),
    )


def _extended(name: pd.Series, extension: pd.Series) -> pd.Series:
    """How published.csv names an encoding, as in "rope", or "rope+yarn" under an extension."""
    return name.where(extension == "none", name + "+" + extension)


def apart(lower: pd.Series, higher: pd.Series, sd_lower: pd.Series, sd_higher: pd.Series) -> pd.Series:
    """Whether a study can tell its figures from each other; see the module's docstring."""
    noise = SDS * np.hypot(sd_lower / lower, sd_higher / higher)
    return np.log(higher / lower) > noise.fillna(math.log(1 + MARGIN))


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
