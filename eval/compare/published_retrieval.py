"""What a sweep's runs find again or answer, as the literature check asks for it, and what studies say of the like.

published_retrieval.csv says how much of what was asked a model found: needles and passkeys in a long text, and tasks
with an answer. A needle is asked of the grid's needle `pair` (a key and its value): which of two gains more, in nats a
token and over all depths; a task of the like-named task of ours: which answers more of its examples, in points of 100.

Seeds differ by more in what they find than in perplexity: at one perplexity, one finds 14 % and another 98 % (Möbius
RoPE). So a study's two accuracies are apart

- by more than SDS standard errors of their difference, where both have a spread over seeds;
- else, of one training that is stretched in two ways, by more than POINTS, twice the standard error that the
  difference of two shares of 200 trials has at worst; less than that is never enough;
- else by more than TRAININGS: twice the standard deviation of the difference of two runs at 10.6 points each, which
  lies between the median and the root mean square of those in the file.

What a method does within the training context by a factor beyond 1 (NTK, YaRN and others in STRING's table 1) is not in
the file: at test time ours are the trained encoding there.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eval.compare.comparison import STAGE, Comparison, units_of
from eval.compare.retrieval import retrieval_of
from eval.measure.units import ANSWERED

# What is asked of ours where a study has this task, by its first word: a needle of the grid, a task.
TASKS = {"NIAH": "pair", "passkey": "pair", "copy": "copy", "reverse": "reverse"}
NEEDLES = ("pair",)  # what is found of others is counted in examples
SDS = 2.0
POINTS, TRAININGS = 10.0, 30.0  # of the accuracy in %
FIGURE = ["protocol", "extension", "context_length", "length_ratio", "label"]
FIND = [*FIGURE, "seed", "block", "nats", "tokens"]


def finds_of(comparison: Comparison) -> pd.DataFrame:
    """A row a window like those of `comparison.windows`: protocol is the needle or the task, nats what was gained, or
    100 for an example of a task that is answered; none where neither was measured."""
    grid = retrieval_of(comparison)
    frames = [found_in_grid(grid.recalled)] if grid and len(grid.recalled) else []
    frames += [found_in_tasks(_answered(comparison))] if len(comparison.tasks) else []
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def found_in_grid(recalled: pd.DataFrame) -> pd.DataFrame:
    """recalled: of eval/compare/retrieval.py, a row a window and depth."""
    return recalled.rename(columns={"needle": "protocol", "gain": "nats"})[FIND].assign(position=0)


def found_in_tasks(answered: pd.DataFrame) -> pd.DataFrame:
    """answered: a row an example: task, extension, context_length, length_ratio, label, seed, example and exact."""
    found = answered.rename(columns={"task": "protocol", "example": "block"})
    return found.assign(nats=100.0 * answered["exact"], tokens=1)[FIND].assign(position=0)


def _answered(comparison: Comparison) -> pd.DataFrame:
    """What each example came to, of the labels that have a figure in every run."""
    runs = [{"run_id": run.name, "label": run.label, "seed": run.seed} for run in comparison.compared]
    examples = units_of(comparison.compared).reindex(columns=["run_id", "extension", "length", "unit", *ANSWERED])
    places = comparison.tasks[["task", "extension", "length", "label", "context_length", "length_ratio"]]
    found = examples.dropna(subset="right").merge(pd.DataFrame(runs)).merge(places)
    return found.rename(columns={"unit": "example"}).assign(exact=found["right"] == found["tokens"])


def figures_of(comparison: Comparison, finds: pd.DataFrame) -> pd.DataFrame:
    """A row for each figure, as in `comparison.summary`: `retrieved` on average, with the label's encoding and stage.

    finds: of `finds_of`.
    """
    sums = finds.groupby(FIGURE)[["nats", "tokens"]].sum().reset_index()
    names = comparison.rows.reindex(columns=["label", "encoding", *STAGE]).drop_duplicates("label")
    controls = {run.label: run.control for run in comparison.compared if run.control}
    control = sums["label"].map(controls).astype(object)
    return sums.assign(retrieved=sums["nats"] / sums["tokens"], control=control).merge(names)


def apart_points(pairs: pd.DataFrame) -> pd.Series:
    """Whether a study can tell two accuracies from each other, and `higher` is the higher; see the module's docstring.

    pairs: published, sd, published_seeds, encoding and published_stage, each ..._lower and ..._higher.
    """
    lower, higher = (
        pairs[
            [f"{name}_{side}" for name in ("published", "sd", "published_seeds", "encoding", "published_stage")]
        ].set_axis(["published", "sd", "seeds", "encoding", "stage"], axis="columns")
        for side in ("lower", "higher")
    )
    errors = [side["sd"] / np.sqrt(side["seeds"]) for side in (lower, higher)]
    one = lower["encoding"].str.split("+").str[0] == higher["encoding"].str.split("+").str[0]
    one &= lower["stage"].isna() & higher["stage"].isna()
    least = one.map({True: POINTS, False: TRAININGS})
    return higher["published"] - lower["published"] > (SDS * np.hypot(*errors)).clip(lower=POINTS).fillna(least)
