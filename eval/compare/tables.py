"""The tables of a report, each defined once: for the page, for report.md and for the terminal."""

from __future__ import annotations

import pandas as pd

from eval.compare.comparison import BEST, FIELDS, HEADLINE, Comparison
from eval.compare.key_tokens import KEY
from eval.compare.paired import frame_of
from eval.compare.show import (
    Column,
    Table,
    column,
    columns,
    columns_by_length,
    intervals,
    show_interval,
    show_length,
    show_level,
    show_percent,
    show_perplexity,
    show_share,
)
from eval.compare.sight import described
from eval.record.tuning import widen


def places(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """Each (protocol, extension); the headline and no extension first."""
    found = set(zip(summary["protocol"], summary["extension"], strict=True))
    return sorted(found, key=lambda place: (place[0] != HEADLINE, place[0], place[1] != "none", place[1]))


def extended(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """Each (protocol, label) that was scored with extensions; the headline first."""
    rows = summary[summary["extension"] != "none"]
    return sorted(set(zip(rows["protocol"], rows["label"], strict=True)), key=lambda at: (at[0] != HEADLINE, at))


def judged(comparison: Comparison, protocol: str, extension: str) -> list[tuple[int, str]]:
    """Each (context length, reference) at which anything can be compared; the longest and the reference first."""
    rows = comparison.differences.query("protocol == @protocol and extension == @extension").dropna(subset="verdict")
    found = set(zip(rows["context_length"], rows["reference"], strict=True))
    return sorted(found, key=lambda at: (-at[0], at[1] != comparison.reference, at[1]))


def tasks(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Each (task, extension)."""
    return list(dict.fromkeys(zip(rows["task"], rows["extension"], strict=True)))


def name_of(what: str, extension: str) -> str:
    """A protocol, or what else was scored, with the extension under which it was where there is one."""
    return what if extension == "none" else f"{what}, extension {extension}"


def _titles(comparison: Comparison, frame: pd.DataFrame) -> dict[int, str]:
    """Those of the columns, by context length."""
    return {
        length: show_length(length, comparison.context) for length in sorted(frame["context_length"].unique().tolist())
    }


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the summary as `columns_by_length` takes them."""
    return frame.assign(at=frame["context_length"], detail=intervals(frame, "perplexity", show_perplexity))


def perplexity_table(comparison: Comparison, protocol: str, extension: str = "none") -> Table:
    """A row a label, a column a context length; best first by the longest, then the next that a label has."""
    here = comparison.summary.query("protocol == @protocol and extension == @extension")
    titles, nats = _titles(comparison, here), here.pivot(index="label", columns="context_length", values="nats")
    rows = here.groupby("label").agg(seeds=("seeds", "max"), control=("control", lambda control: control.notna().any()))
    rows = rows.join(nats).sort_values(["control", *reversed(titles)])
    shown = columns_by_length(_with_intervals(here), rows.index, "perplexity", show_perplexity, titles)
    covers = " or ".join(sorted(here["interval_covers"][here["control"].isna()].unique()))
    return Table(
        f"Perplexity by context length: {name_of(protocol, extension)}",
        [column("encoding", rows.index), *columns(rows, "seeds"), *shown],
        (f"LongPPL, on {comparison.key_tokens.words}; " if protocol == KEY else "")
        + f"{show_level(comparison.level)} intervals over {covers}"
        + "; – is not defined or not scored" * bool(nats.isna().any(axis=None)),
        {"protocol": protocol, "extension": extension},
        rows.index,
    )


def difference_table(comparison: Comparison, protocol: str, extension: str, length: int, reference: str) -> Table:
    """Each label's perplexity at one length, and its change against a reference; best first."""
    rows = comparison.differences.query(
        "protocol == @protocol and extension == @extension and context_length == @length and reference == @reference"
    )
    verdicts = rows["verdict"].astype(object).where(rows["verdict"].notna(), "no seed in common")
    reasons = rows["verdict_reason"].map(": {}".format).where(rows["verdict_reason"].notna(), "")
    verdicts = (verdicts + reasons).mask(rows["label"] == reference, "reference")
    best = rows[BEST].map({True: "among the best"}).fillna("").tolist()
    names = ["label", "seeds", "perplexity", "nats", "bits_per_byte", "difference_percent", "p_holm"]
    at, against = show_length(length, comparison.context), f"against {reference}"
    return Table(
        f"Against {reference} at {at}: {name_of(protocol, extension)}",
        [
            *columns(rows, *names, label="encoding", difference_percent=against),
            column("verdict", verdicts, details=best),
            *columns(rows, "smallest_detectable", "tokens"),
        ],
        "perplexity, paired over seeds and windows; p corrected for all encodings here (Holm); visible: a difference "
        "of this size would have been found four times in five; among the best: no other is better",
        {"protocol": protocol, "extension": extension, "context length": at, "reference": reference},
        rows["label"],
    )


def extension_table(comparison: Comparison, protocol: str, label: str) -> Table:
    """One label's extensions by context length: perplexity, and the change against no extension."""
    here = comparison.summary.query("protocol == @protocol")
    titles, here = _titles(comparison, here), here.query("label == @label")
    changes = here["gain_percent"].fillna(0).map(show_percent) + ", " + here["gain_verdict"].astype("str")
    here = here.assign(at=here["context_length"], detail=changes)
    rows = pd.Index(sorted(here["extension"].unique(), key=lambda name: (name != "none", name)), name="extension")
    return Table(
        f"Extensions of {label}: {protocol}",
        [column("extension", rows), *columns_by_length(here, rows, "perplexity", show_perplexity, titles)],
        "perplexity, its change against no extension on the same runs, and whether that is separable from none",
        {"protocol": protocol, "encoding": label},
    )


def control_table(comparison: Comparison) -> Table:
    """What stands beside the encodings to judge them by: floors, and models trained on a longer context."""
    here = comparison.summary[comparison.summary["control"].notna()]
    titles, here = _titles(comparison, here), _with_intervals(here.query("extension == 'none'"))
    rows = here[["label", "control", "protocol"]].drop_duplicates()
    shown = columns_by_length(here, pd.MultiIndex.from_frame(rows), "perplexity", show_perplexity, titles)
    return Table(
        "Controls",
        [*columns(rows, *rows, label="control", control="what it is"), *shown],
        "a floor is an n-gram of the training text: an encoding that does not beat it has learned nothing from context",
        labels=rows["label"],
    )


def task_table(comparison: Comparison, task: str, extension: str = "none") -> Table:
    """Exact match: a row a label, a column a length; most exact first by the longest, then the next."""
    here = comparison.tasks.query("task == @task and extension == @extension").sort_values("length", kind="stable")
    detail = [show_interval(*ends, show_share) for ends in zip(here["low"], here["high"], strict=True)]
    here = here.assign(at=here["length"], detail=detail)
    titles = {row.length: show_length(row.length, row.length / row.length_ratio) for row in here.itertuples()}
    shares = here.pivot(index="label", columns="length", values="exact_match")
    rows = here.groupby("label").agg(seeds=("seeds", "max")).join(-shares).sort_values([*reversed(titles)])
    shown = columns_by_length(here, rows.index, "exact_match", show_share, titles)
    return Table(
        f"Exact match by length: {name_of(task, extension)}",
        [column("encoding", rows.index), *columns(rows, "seeds"), *shown],
        f"share of {here['examples'].iloc[0]:,} examples whose answer is right in every token; "
        + sure_of(here, comparison.level),
        {"extension": extension},
        rows.index,
    )


def sure_of(rows: pd.DataFrame, level: float) -> str:
    """What the intervals of rows cover, or why there are none."""
    covers = " or ".join(sorted(rows["interval_covers"].dropna().unique()))
    found = [f"{show_level(level)} intervals over {covers}" * bool(covers), *rows["interval_reason"].dropna().unique()]
    return "; ".join(filter(None, found))


def costs(comparison: Comparison) -> pd.DataFrame:
    """What each label costs, the fastest first: parameters, speed and memory in training, seconds; medians over seeds.

    Seconds of a pass that several rows share are counted once, as the last of them has it.
    """
    trained = [run for run in comparison.compared if "training" in run.results]
    facts = ["tokens", "tokens_per_second", "peak_memory", "seconds"]
    runs = (
        frame_of([run.results["training"] for run in trained])
        .reindex(columns=facts)
        .assign(
            run_id=[run.name for run in trained],
            label=[run.label for run in trained],
            total=[run.results["parameters"]["total"] for run in trained],
            own=[run.results["parameters"]["encoding"] for run in trained],
        )
    )
    passes = comparison.scored[comparison.scored["control"] != "floor"]
    passes = passes.drop_duplicates(["run_id", "extension", "context_length"], keep="last")
    runs["evaluation"] = runs["run_id"].map(passes.groupby("run_id")["seconds"].sum()).fillna(0)
    labels = runs.groupby("label")
    found = labels[[*facts, "evaluation"]].median().join(labels[["total", "own"]].first())
    found = found.loc[[label for label in comparison.labels if label in found.index]].reset_index()
    return found.sort_values("tokens_per_second", ascending=False, kind="stable")


def cost_table(comparison: Comparison) -> Table:
    """See `costs`."""
    rows = costs(comparison)
    names = ["label", "total", "own", "tokens", "tokens_per_second", "peak_memory", "seconds", "evaluation"]
    if windows := described(comparison):
        for name in ("receptive field", "scores left out"):
            rows[name] = rows["label"].map({label: each[name] for label, each in windows.items()}).fillna("–")
            names.append(name)
    note = "tokens trained on, tokens a second in training; medians over the seeds"
    if len({str(run.results.get("machine")) for run in comparison.compared}) > 1:
        note += "; measured on different machines, so speeds do not compare"
    return Table("Cost", columns(rows, *names, label="encoding"), note, labels=rows["label"])


def tuning(comparison: Comparison) -> pd.DataFrame:
    """The learning rates that trials chose: a row a label, with its seeds, the rate chosen (lr), the trials' seed and
    val_loss by rate (missing where a trial failed), and advice where the rate lies at the edge of the grid."""
    rows = [
        {"label": run.label, "seed": run.seed, "lr": run.settings.training.lr, "trials": run.results["tuning"]["seed"]}
        | {"val_loss": {float(rate): loss for rate, loss in run.results["tuning"]["val_loss"].items()}}
        for run in comparison.compared
        if "tuning" in run.results
    ]
    found = pd.DataFrame(rows, columns=["label", "seed", "lr", "trials", "val_loss"])
    found["advice"] = [widen(row.val_loss, row.lr) for row in found.itertuples()]
    seeds = found.groupby("label")["seed"].agg(lambda seeds: ", ".join(map(str, seeds)))
    return found.drop_duplicates("label").assign(seeds=found["label"].map(seeds))


def tuning_table(comparison: Comparison) -> Table:
    """See `tuning`."""
    rows = tuning(comparison)
    losses = pd.DataFrame(rows["val_loss"].tolist(), dtype=float)
    at_rates = [column(f"at {rate:g}", losses[rate], "{:.4f}".format) for rate in sorted(losses)]
    chosen = [column("encoding", rows["label"]), column("seeds", rows["seeds"]), *columns(rows, "lr", lr="training.lr")]
    return Table(
        "Learning rates",
        [*chosen, *at_rates, *columns(rows, "advice")],
        "chosen by the validation loss (nats a token) of one trial a rate, at the training context; – where it failed",
        labels=rows["label"],
    )


def apart_table(comparison: Comparison) -> Table:
    """The figures of controls that can't stand beside those of the others, and in what they differ from them."""
    rows = comparison.rows.reindex(columns=list(dict.fromkeys([*comparison.rows, *FIELDS])))
    rows = rows[rows["run_id"].isin(comparison.apart) & (rows["status"] == "ok") & (rows["extension"] == "none")]
    rows = rows[rows["control"].isna() & rows["position"].isna() & rows["task"].isna()].rename(
        columns={"run_id": "run"}
    )
    rows["what it is"] = rows["run"].map({run.name: run.control for run in comparison.runs})
    titles, names = _titles(comparison, rows), rows[["run", "what it is", "protocol"]].drop_duplicates()
    keys = pd.MultiIndex.from_frame(names)
    shown = columns_by_length(_with_intervals(rows), keys, "perplexity", show_perplexity, titles)
    note = "perplexity, not to be compared with the encodings'; they differ in " + "; ".join(
        {*comparison.apart.values()}
    )
    return Table("Controls that stand apart", [*columns(names, *names), *shown], note)


def undefined_table(comparison: Comparison) -> Table:
    """Labels and places without a figure, and why (where reasons differ by the length: the shortest's)."""
    place = ["label", "extension", "context_length", "protocol"]
    rows = comparison.scored.query("status != 'ok'").drop_duplicates(place, keep="last").sort_values(place)
    rows["at"] = [show_length(length, comparison.context) for length in rows["context_length"]]
    alike = rows.groupby(["label", "extension", "status"], sort=False)
    found = alike.agg(at=("at", lambda at: ", ".join(at.unique())), reason=("reason", "first")).reset_index()
    shown = columns(found, *found, label="encoding", at="context lengths")
    return Table("Without a figure", shown, labels=found["label"])


def run_table(comparison: Comparison) -> Table:
    """The figures of each run, for runs that are not compared."""
    rows = comparison.scored.query("status == 'ok' and position == 0")
    rows = rows.assign(floor=rows["label"].where(rows["control"] == "floor"))
    names = ("run_id", "floor", "protocol", "extension", "context_length", "perplexity", "nats", "bits_per_byte")
    shown = columns(rows, *names, "tokens", run_id="run")
    return Table("Figures of each run", shown, "not to be compared with each other", labels=rows["run_id"])


def left_out_table(comparison: Comparison) -> Table:
    """The runs that take no part in the comparison."""
    left_out = [(run.name, run.label, run.seed, run.state, run.problem) for run in comparison.left_out]
    rows = pd.DataFrame(left_out, columns=["run", "encoding", "seed", "state", "reason"], dtype=object)
    return Table("Failed and skipped", columns(rows, *rows))


def literature_tables(statements: pd.DataFrame) -> list[Table]:
    """The published orderings of perplexity and those of retrieval, where there are any."""
    if statements.empty:
        return []
    return [table for table in (literature_table(statements), retrieval_literature_table(statements)) if len(table)]


def literature_table(statements: pd.DataFrame) -> Table:
    """The published orderings that the sweep can be asked about (see `literature.check`), and its answers."""
    rows = statements[statements["kind"] != "retrieval"]
    shown = columns(rows, "published_percent", "percent")
    note = "; orderings alone are compared, never perplexities across corpora"
    return _orderings("Published orderings", rows, shown, note)


def retrieval_literature_table(statements: pd.DataFrame) -> Table:
    """Those of what is found: needles, and tasks answered."""
    rows = statements[statements["kind"] == "retrieval"]
    note = "; in points of the accuracy there; here in nats a token that a needle gains, or points of a task's examples"
    shown = columns(rows, "published_points", "difference", "unit", difference="difference here", unit="")
    return _orderings("Published orderings of retrieval", rows, shown, note)


def _orderings(title: str, rows: pd.DataFrame, shown: list[Column], note: str) -> Table:
    counts = rows["verdict"].value_counts()
    protocols = rows["published_protocol"] + " there, " + rows["protocol"] + " here"
    return Table(
        title,
        [
            *columns(rows, "statement"),
            column("study", rows["study"], details=protocols.tolist()),
            *shown,
            *columns(rows, "seeds", "verdict"),
        ],
        ", ".join(f"{counts.get(word, 0)} {word}" for word in ("agree", "disagree", "not separable")) + note,
    )


def provenance_table(comparison: Comparison) -> Table:
    """Where each run's numbers come from."""
    facts = pd.DataFrame(
        [run.results for run in comparison.runs], columns=["config_hash", "commit", "corpus_hash", "tokenizer_hash"]
    ).astype("str")
    rows = facts.apply(lambda values: values.str[:8]).rename(columns=lambda name: name.removesuffix("_hash"))
    rows["commit"] += facts["commit"].str.extract(r"(\+?)$", expand=False)
    rows.insert(0, "run", [run.name for run in comparison.runs])
    rows.insert(1, "state", [run.state for run in comparison.runs])
    rows["device"] = [(run.results.get("machine") or {}).get("device") for run in comparison.runs]
    rows["ended"] = [(run.time or "")[:16].replace("T", " ") for run in comparison.runs]
    note = "hashes cut to eight digits; a commit with + had uncommitted changes"
    return Table("Runs", columns(rows, *rows), note)


def records_table(title: str, frame: pd.DataFrame) -> Table:
    """A frame of objects as it is: a column a column, numbers where every value is one."""
    kinds = {name: pd.api.types.infer_dtype(values) for name, values in frame.items()}
    numbers = [name for name, kind in kinds.items() if kind in ("integer", "floating", "mixed-integer-float")]
    shown = [
        column(name.replace("_", " "), values, _show_number if name in numbers else None)
        for name, values in frame.items()
    ]
    return Table(title, shown, labels=frame.get("label", ()))


def _show_number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
