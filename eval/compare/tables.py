"""The tables of a report, each defined once: for the page, for report.md and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from eval.compare.comparison import HEADLINE, Comparison, frame_of

MINUS, SPACE = "\u2212", "\u00a0"  # a minus as wide as a plus, and a space that doesn't break


@dataclass(frozen=True)
class Column:
    """texts stand in the cells, details beside them in small print; values are the numbers behind them, at full
    precision and None where there is none, for columns of numbers."""

    title: str
    texts: Sequence[str]
    values: Sequence[float | None] | None = None
    details: Sequence[str] | None = None


@dataclass(frozen=True)
class Table:
    """title: what it shows; note: what one must know to read it; labels: whom each row is about, where it is about an
    encoding or a control; when: the selections under which the page shows it."""

    title: str
    columns: Sequence[Column]
    note: str = ""
    labels: Sequence[str] | None = None
    when: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns[0].texts) if self.columns else 0

    def texts(self) -> list[list[str]]:
        """The cells as words, row by row, details in brackets."""
        columns = [
            [text + f" ({detail})" * bool(detail) for text, detail in zip(each.texts, each.details, strict=True)]
            if each.details
            else each.texts
            for each in self.columns
        ]
        return [list(cells) for cells in zip(*columns, strict=True)]


def column(
    title: str, values: pd.Series, show: Callable[[float], str] | None = None, details: Sequence[str] | None = None
) -> Column:
    """Numbers by `show`, a dash where one is missing; without it words, nothing where one is missing."""
    gaps, values = values.isna().tolist(), values.tolist()
    if show is None:
        return Column(
            title, ["" if gap else str(value) for value, gap in zip(values, gaps, strict=True)], None, details
        )
    values = [None if gap else value for value, gap in zip(values, gaps, strict=True)]
    return Column(title, ["–" if value is None else show(value) for value in values], values, details)


def columns(frame: pd.DataFrame, *names: str, **titles: str) -> list[Column]:
    """Columns of a frame by NUMBERS, with their intervals where the frame has them, and others as words. titles: by the
    columns' names, instead of those of NUMBERS or the names themselves."""
    found = []
    for name in names:
        title, show = NUMBERS.get(name, (name.replace("_", " "), None))
        stem = name.removesuffix("_percent") if f"{name}_low" not in frame else name
        details = intervals(frame, stem, show) if f"{stem}_low" in frame else None
        found.append(column(titles.get(name, title), frame[name], show, details))
    return found


def show_perplexity(value: float) -> str:
    """Two decimals, none from 1000 on, powers of ten from a million on."""
    if not math.isfinite(value):
        return "overflow"
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def show_percent(value: float) -> str:
    """Signed, one decimal; none from 100 % on. Nothing in it breaks over lines."""
    if not math.isfinite(value):
        return "overflow"
    digits = f"{value:+.1f}" if abs(value) < 100 else f"{value:+,.0f}" if abs(value) < 1e6 else f"{value:+.1e}"
    return f"{digits.replace('-', MINUS)}{SPACE}%"


def show_level(level: float) -> str:
    """ "95 %"."""
    return f"{100 * level:g}{SPACE}%"


def show_count(value: float) -> str:
    return f"{value:,.0f}"


def show_p(value: float) -> str:
    return f"<{SPACE}0.001" if value < 0.001 else f"{value:.3f}"


def show_bytes(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def show_length(length: int, context: float) -> str:
    """ "256 (8x)": tokens, and in training contexts."""
    return f"{length:,} ({length / context:g}x)"


NUMBERS = {
    "seeds": ("seeds", show_count),
    "context_length": ("context length", show_count),
    "perplexity": ("perplexity", show_perplexity),
    "nats": ("nats/token", "{:.4f}".format),
    "bits_per_byte": ("bits/byte", "{:.3f}".format),
    "difference_percent": ("difference", show_percent),
    "p_holm": ("p (Holm)", show_p),
    "smallest_detectable": ("visible", lambda nats: show_percent(100 * math.expm1(nats))),
    "tokens": ("tokens", show_count),
    "total": ("parameters", show_count),
    "own": ("encoding's own", show_count),
    "tokens_per_second": ("tokens/s", show_count),
    "peak_memory": ("peak memory", show_bytes),
    "seconds": ("training s", "{:.1f}".format),
    "evaluation": ("evaluation s", "{:.1f}".format),
    "published_percent": ("difference there", show_percent),
    "percent": ("difference here", show_percent),
}  # the title of a column of numbers, and how one is shown


def show_interval(low: float, high: float, show: Callable[[float], str]) -> str:
    """ "4.1 to 4.3", or nothing where there is no interval."""
    return "" if pd.isna(low) else f"{show(low)} to {show(high)}"


def intervals(frame: pd.DataFrame, name: str, show: Callable[[float], str]) -> list[str]:
    """Those of the columns `name`_low and `name`_high."""
    return [show_interval(*ends, show) for ends in zip(frame[f"{name}_low"], frame[f"{name}_high"], strict=True)]


def places(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """Each (protocol, extension); the headline and no extension first."""
    found = set(zip(summary["protocol"], summary["extension"], strict=True))
    return sorted(found, key=lambda place: (place[0] != HEADLINE, place[0], place[1] != "none", place[1]))


def extended(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """Each (protocol, label) that was scored with extensions; the headline first."""
    rows = summary[summary["extension"] != "none"]
    return sorted(set(zip(rows["protocol"], rows["label"], strict=True)), key=lambda at: (at[0] != HEADLINE, at))


def tasks(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Each (task, extension)."""
    return list(dict.fromkeys(zip(rows["task"], rows["extension"], strict=True)))


def name_of(what: str, extension: str) -> str:
    """A protocol, or what else was scored, with the extension under which it was where there is one."""
    return what if extension == "none" else f"{what}, extension {extension}"


def _by_length(
    frame: pd.DataFrame, rows: pd.Index, value: str, show: Callable[[float], str], titles: Mapping[int, str]
) -> list[Column]:
    """A column a length, with these titles and in the order of `rows`: frame's `value`, and beside it its `detail`.

    rows: their names are frame's columns that tell the table's rows apart; frame has the lengths in `at`.
    """
    if frame.empty:
        return []
    wide = frame.set_index([*rows.names, "at"])[[value, "detail"]].unstack("at")
    values, details = (wide[name].reindex(index=rows, columns=list(titles)) for name in (value, "detail"))
    return [column(title, values[at], show, details[at].fillna("").tolist()) for at, title in titles.items()]


def _titles(comparison: Comparison, frame: pd.DataFrame) -> dict[int, str]:
    """Those of the columns, by context length."""
    lengths = sorted(frame["context_length"].unique().tolist())
    return {length: show_length(length, comparison.context) for length in lengths}


def perplexity_table(comparison: Comparison, protocol: str, extension: str = "none") -> Table:
    """A row a label, a column a context length; best first by the longest, then the next that a label has."""
    here = comparison.summary.query("protocol == @protocol and extension == @extension")
    here = here.assign(at=here["context_length"], detail=intervals(here, "perplexity", show_perplexity))
    titles, nats = _titles(comparison, here), here.pivot(index="label", columns="context_length", values="nats")
    rows = here.groupby("label").agg(seeds=("seeds", "max"), control=("control", lambda control: control.notna().any()))
    rows = rows.join(nats).sort_values(["control", *reversed(titles)])
    covers = sorted(here["interval_covers"][here["control"].isna()].unique())
    return Table(
        f"Perplexity by context length: {name_of(protocol, extension)}",
        [
            column("encoding", rows.index),
            *columns(rows, "seeds"),
            *_by_length(here, rows.index, "perplexity", show_perplexity, titles),
        ],
        f"{show_level(comparison.level)} intervals over {' or '.join(covers)}"
        + "; – is not defined or not scored" * bool(nats.isna().any(axis=None)),
        rows.index.tolist(),
        {"protocol": protocol, "extension": extension},
    )


def difference_table(comparison: Comparison, protocol: str, extension: str, length: int) -> Table:
    """Each label's perplexity at one length, and its change against the reference; best first."""
    rows = comparison.summary.query("protocol == @protocol and extension == @extension and context_length == @length")
    rows = rows[rows["control"].isna()]
    verdicts = rows["verdict"].astype(object).where(rows["verdict"].notna(), "no seed in common")
    reasons = rows["verdict_reason"].map(": {}".format).where(rows["verdict_reason"].notna(), "")
    rows = rows.assign(verdict=(verdicts + reasons).mask(rows["label"] == comparison.reference, "reference"))
    names = ["label", "seeds", "perplexity", "nats", "bits_per_byte", "difference_percent", "p_holm", "verdict"]
    names += ["smallest_detectable", "tokens"]
    return Table(
        f"Against {comparison.reference} at {show_length(length, comparison.context)}: {name_of(protocol, extension)}",
        columns(rows, *names, label="encoding", difference_percent=f"against {comparison.reference}"),
        "perplexity, paired over seeds and windows; p corrected for all encodings here (Holm); visible: a difference "
        "of this size would have been found four times in five",
        rows["label"].tolist(),
        {"protocol": protocol, "extension": extension, "context length": show_length(length, comparison.context)},
    )


def extension_table(comparison: Comparison, protocol: str, label: str) -> Table:
    """One label's extensions by context length: perplexity, and the change against no extension."""
    here = comparison.summary.query("protocol == @protocol")
    titles, here = _titles(comparison, here), here.query("label == @label")
    changes = [
        "" if pd.isna(row.gain_verdict) else f"{show_percent(row.gain_percent)}, {row.gain_verdict}"
        for row in here.itertuples()
    ]
    here = here.assign(at=here["context_length"], detail=changes)
    rows = pd.Index(sorted(here["extension"].unique(), key=lambda name: (name != "none", name)), name="extension")
    return Table(
        f"Extensions of {label}: {protocol}",
        [column("extension", rows), *_by_length(here, rows, "perplexity", show_perplexity, titles)],
        "perplexity, its change against no extension on the same runs, and whether that is separable from none",
        when={"protocol": protocol, "encoding": label},
    )


def control_table(comparison: Comparison) -> Table:
    """What stands beside the encodings to judge them by: floors, and models trained on a longer context."""
    here = comparison.summary[comparison.summary["control"].notna()]
    titles, here = _titles(comparison, here), here.query("extension == 'none'")
    here = here.assign(at=here["context_length"], detail=intervals(here, "perplexity", show_perplexity))
    rows = here[["label", "control", "protocol"]].drop_duplicates()
    return Table(
        "Controls",
        [
            *columns(rows, *rows, label="control", control="what it is"),
            *_by_length(here, pd.MultiIndex.from_frame(rows), "perplexity", show_perplexity, titles),
        ],
        "a floor is an n-gram of the training text: an encoding that does not beat it has learned nothing from context",
        rows["label"].tolist(),
    )


def task_table(comparison: Comparison, task: str, extension: str = "none") -> Table:
    """Exact match: a row a label, a column a length; most exact first by the longest, then the next."""
    here = comparison.tasks.query("task == @task and extension == @extension").sort_values("length", kind="stable")
    here = here.assign(at=here["length"], detail=[f"{row.low:.1%} to {row.high:.1%}" for row in here.itertuples()])
    ratios = here.drop_duplicates("length").set_index("length")["length_ratio"]
    titles = {length: f"{length:,} ({ratio:g}x)" for length, ratio in ratios.items()}
    shares = here.pivot(index="label", columns="length", values="exact_match")
    rows = here.groupby("label").agg(seeds=("seeds", "max")).join(-shares).sort_values([*reversed(titles)])
    return Table(
        f"Exact match by length: {name_of(task, extension)}",
        [
            column("encoding", rows.index),
            *columns(rows, "seeds"),
            *_by_length(here, rows.index, "exact_match", "{:.1%}".format, titles),
        ],
        f"share of {here['examples'].iloc[0]:,} examples whose answer is right in every token; in brackets: "
        + " or ".join(sorted(here["range"].unique())),
        rows.index.tolist(),
        {"extension": extension},
    )


def costs(comparison: Comparison) -> pd.DataFrame:
    """What each label costs, the fastest first: parameters, speed and memory in training, seconds; medians over seeds.

    Seconds of a pass that several rows share are counted once, as the last of them has it.
    """
    facts = ["tokens", "tokens_per_second", "peak_memory", "seconds"]
    runs = frame_of(
        (
            {"run_id": run.name, "label": run.label, "total": run.results["parameters"]["total"]}
            | {"own": run.results["parameters"]["encoding"]}
            | {name: run.results["training"][name] for name in facts}
            for run in comparison.compared
            if "training" in run.results
        ),
        ["run_id", "label", "total", "own", *facts],
    )
    passes = comparison.scored[comparison.scored["control"] != "floor"]
    passes = passes.drop_duplicates(["run_id", "extension", "context_length"], keep="last")
    runs["evaluation"] = runs["run_id"].map(passes.groupby("run_id")["seconds"].sum()).fillna(0)
    labels = runs.groupby("label")
    found = labels.agg(seeds=("run_id", "size"), total=("total", "first"), own=("own", "first"))
    found = found.join(labels[[*facts, "evaluation"]].median())
    found = found.loc[[label for label in comparison.labels if label in found.index]].reset_index()
    return found.sort_values("tokens_per_second", ascending=False, kind="stable")


def cost_table(comparison: Comparison) -> Table:
    """See `costs`."""
    rows = costs(comparison)
    names = ("label", "total", "own", "tokens", "tokens_per_second", "peak_memory", "seconds", "evaluation")
    machines = {str(run.results.get("machine")) for run in comparison.compared}
    return Table(
        "Cost",
        columns(rows, *names, label="encoding"),
        "tokens trained on, tokens a second in training; medians over the seeds"
        + "; measured on different machines, so speeds do not compare" * (len(machines) > 1),
        rows["label"].tolist(),
    )


def undefined_table(comparison: Comparison) -> Table:
    """Labels and places without a figure, and why (where reasons differ by the length: the shortest's)."""
    place = ["label", "extension", "context_length", "protocol"]
    rows = comparison.scored.query("status != 'ok'").drop_duplicates(place, keep="last").sort_values(place)
    rows["at"] = [show_length(length, comparison.context) for length in rows["context_length"]]
    alike = rows.groupby(["label", "extension", "status"], sort=False)
    found = alike.agg(at=("at", lambda at: ", ".join(at.unique())), reason=("reason", "first")).reset_index()
    shown = columns(found, *found, label="encoding", at="context lengths")
    return Table("Without a figure", shown, labels=found["label"].tolist())


def run_table(comparison: Comparison) -> Table:
    """The figures of each run, for runs that are not compared."""
    rows = comparison.scored.query("status == 'ok' and position == 0")
    rows = rows.assign(floor=rows["label"].where(rows["control"] == "floor"))
    names = ("floor", "protocol", "extension", "context_length", "perplexity", "nats", "bits_per_byte", "tokens")
    shown = columns(rows, "run_id", *names, run_id="run")
    return Table("Figures of each run", shown, "not to be compared with each other", rows["run_id"].tolist())


def left_out_table(comparison: Comparison) -> Table:
    """The runs that take no part in the comparison."""
    left_out = [(run.name, run.label, run.seed, run.state, run.problem) for run in comparison.left_out]
    rows = pd.DataFrame(left_out, columns=["run", "encoding", "seed", "state", "reason"], dtype=object)
    return Table("Failed and skipped", columns(rows, *rows))


def literature_table(statements: pd.DataFrame) -> Table:
    """The published orderings that the sweep can be asked about (see `literature.check`), and its answers."""
    counts = statements["verdict"].value_counts()
    protocols = statements["published_protocol"] + " there, " + statements["protocol"] + " here"
    return Table(
        "Published orderings",
        [
            *columns(statements, "statement"),
            column("study", statements["study"], details=protocols.tolist()),
            *columns(statements, "published_percent", "percent", "seeds", "verdict"),
        ],
        ", ".join(f"{counts.get(word, 0)} {word}" for word in ("agree", "disagree", "not separable"))
        + "; orderings alone are compared, never perplexities across corpora",
    )


def provenance_table(comparison: Comparison) -> Table:
    """Where each run's numbers come from."""
    rows = []
    for run in comparison.runs:
        row = {"run": run.name, "state": run.state, "config": run.results.get("config_hash")}
        row |= {"commit": run.results.get("commit"), "corpus": run.results.get("corpus_hash")}
        row |= {"tokenizer": run.results.get("tokenizer_hash")}
        row = {name: value if name in ("run", "state") else str(value or "")[:8] for name, value in row.items()}
        row["commit"] += "+" * (run.results.get("commit") or "").endswith("+")
        device = (run.results.get("machine") or {}).get("device")
        rows.append(row | {"device": device, "ended": (run.time or "")[:16].replace("T", " ")})
    frame = pd.DataFrame(rows, dtype=object)
    note = "hashes cut to eight digits; a commit with + had uncommitted changes"
    return Table("Runs", columns(frame, *frame), note)


def records_table(title: str, frame: pd.DataFrame) -> Table:
    """A frame of objects as it is: a column a column, numbers where every value is one."""
    shown = []
    for name, values in frame.items():
        kind = pd.api.types.infer_dtype(values)
        numbers = kind in ("integer", "floating", "mixed-integer-float")
        shown.append(column(name.replace("_", " "), values, _show_number if numbers else None))
    return Table(title, shown, labels=[*frame.get("label", [])])


def _show_number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
