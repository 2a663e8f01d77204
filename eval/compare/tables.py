"""The tables of a report, each defined once: for the page, for report.md and for the terminal."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.compare.comparison import HEADLINE, Comparison, Run

Row = Mapping[str, Any]
MINUS, SPACE = "\u2212", "\u00a0"  # a minus as wide as a plus, and a space that doesn't break


@dataclass(frozen=True)
class Column:
    """text(row) stands in the cell, detail(row) beside it in small print; value(row) is the number behind it, at full
    precision, for columns of numbers."""

    title: str
    text: Callable[[Row], str]
    value: Callable[[Row], float | None] | None = None
    detail: Callable[[Row], str] = lambda row: ""


@dataclass(frozen=True)
class Table:
    """title: what it shows; note: what one must know to read it; when: the selections under which the page shows it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str = ""
    when: Mapping[str, str] = field(default_factory=dict)

    def texts(self) -> list[list[str]]:
        """The cells as words, details in brackets."""
        return [
            [column.text(row) + (f" ({detail})" if (detail := column.detail(row)) else "") for column in self.columns]
            for row in self.rows
        ]


def words(key: str, title: str | None = None, detail: Callable[[Row], str] = lambda row: "") -> Column:
    """row[key] as it is, nothing where it is missing."""
    text = lambda row: "" if row.get(key) is None else str(row[key])  # noqa: E731
    return Column(title or key.replace("_", " "), text, detail=detail)


def number(key: str, title: str, show: Callable[[float], str], detail: Callable[[Row], str] = lambda row: "") -> Column:
    """row[key] by `show`, a dash where it is missing."""
    return Column(title, lambda row: "–" if row.get(key) is None else show(row[key]), lambda row: row.get(key), detail)


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


def show_length(length: int, context: int) -> str:
    """ "256 (8x)": tokens, and in training contexts."""
    return f"{length:,} ({length / context:g}x)"


def show_interval(row: Row, low: str, high: str, show: Callable[[float], str]) -> str:
    """ "4.1 to 4.3", or nothing where there is no interval."""
    return "" if row.get(low) is None else f"{show(row[low])} to {show(row[high])}"


def perplexity_interval_of(row: Row) -> str:
    return show_interval(row, "perplexity_low", "perplexity_high", show_perplexity)


def places(comparison: Comparison) -> dict[tuple[str, str], list[int]]:
    """The context lengths, ascending, of each (protocol, extension); the headline first."""
    found: dict[tuple[str, str], set[int]] = {}
    for row in comparison.summary:
        found.setdefault((row["protocol"], row["extension"]), set()).add(row["context_length"])
    order = sorted(found, key=lambda place: (place[0] != HEADLINE, place[0], place[1] != "none", place[1]))
    return {place: sorted(found[place]) for place in order}


def undefined_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """What has no figure, and why: a row for each (label, extension, context length, protocol)."""
    found = {
        (run.label, row["extension"], row["context_length"], row["protocol"]): {"label": run.label, **row}
        for run in runs
        for row in run.rows
        if row["status"] != "ok"
    }
    return [found[place] for place in sorted(found)]


def perplexity_table(comparison: Comparison, protocol: str, extension: str = "none") -> Table:
    """A row a label, a column a context length; best first by the longest, then the next that a label has."""
    lengths = places(comparison)[protocol, extension]
    here = [row for row in comparison.summary if (row["protocol"], row["extension"]) == (protocol, extension)]
    cells: dict[str, dict[int, Row]] = {}
    for row in here:
        cells.setdefault(row["label"], {})[row["context_length"]] = row
    labels = {row["label"]: row["control"] for row in here}
    rows = [
        {"label": label, "at": at, "seeds": max(row["seeds"] for row in at.values()), "control": labels[label]}
        for label, at in cells.items()
    ]
    nats = {row["label"]: [row["at"].get(n, {}).get("nats", math.inf) for n in reversed(lengths)] for row in rows}
    rows.sort(key=lambda row: (row["control"] is not None, nats[row["label"]]))
    covers = sorted({row["interval_covers"] for row in here if not row["control"]})
    return Table(
        f"Perplexity by context length: {_name(protocol, extension)}",
        [
            words("label", "encoding"),
            number("seeds", "seeds", show_count),
            *(_perplexity_column(length, comparison.context) for length in lengths),
        ],
        rows,
        f"{show_level(comparison.level)} intervals over {' or '.join(covers)}"
        + ("; – is not defined or not scored" if any(len(at) < len(lengths) for at in cells.values()) else ""),
        {"protocol": protocol, "extension": extension},
    )


def _name(protocol: str, extension: str) -> str:
    return protocol if extension == "none" else f"{protocol}, extension {extension}"


def _perplexity_column(length: int, context: int) -> Column:
    def cell(row: Row) -> Row:
        return row["at"].get(length, {})

    return Column(
        show_length(length, context),
        lambda row: show_perplexity(cell(row)["perplexity"]) if cell(row) else "–",
        lambda row: cell(row).get("perplexity"),
        lambda row: perplexity_interval_of(cell(row)),
    )


def difference_table(comparison: Comparison, protocol: str, extension: str, length: int) -> Table:
    """Each label's perplexity at one length, and its change against the reference; best first."""
    place = (protocol, extension, length)
    rows = [
        row
        for row in comparison.summary
        if (row["protocol"], row["extension"], row["context_length"]) == place and not row["control"]
    ]
    return Table(
        f"Against {comparison.reference} at {show_length(length, comparison.context)}: {_name(protocol, extension)}",
        [
            words("label", "encoding"),
            number("seeds", "seeds", show_count),
            number("perplexity", "perplexity", show_perplexity, perplexity_interval_of),
            number("nats", "nats/token", lambda value: f"{value:.4f}"),
            number("bits_per_byte", "bits/byte", lambda value: f"{value:.3f}"),
            number("difference_percent", f"against {comparison.reference}", show_percent, difference_interval_of),
            number("p_holm", "p (Holm)", show_p),
            Column("verdict", lambda row: "reference" if row["label"] == comparison.reference else _verdict(row)),
            number("smallest_detectable", "visible", lambda nats: show_percent(100 * math.expm1(nats))),
            number("tokens", "tokens", show_count),
        ],
        rows,
        "perplexity, paired over seeds and windows; p corrected for all encodings here (Holm); visible: a difference "
        "of this size would have been found four times in five",
        {"protocol": protocol, "extension": extension, "context length": show_length(length, comparison.context)},
    )


def difference_interval_of(row: Row) -> str:
    return show_interval(row, "difference_low", "difference_high", show_percent)


def _verdict(row: Row) -> str:
    if "verdict" not in row:
        return "no seed in common"
    return row["verdict"] + (f": {row['verdict_reason']}" if row["verdict_reason"] else "")


def extension_table(comparison: Comparison, protocol: str, label: str) -> Table:
    """One label's extensions by context length: perplexity, and the change against no extension."""
    lengths = sorted({n for place, at in places(comparison).items() if place[0] == protocol for n in at})
    cells: dict[str, dict[int, Row]] = {}
    for row in comparison.summary:
        if (row["protocol"], row["label"]) == (protocol, label):
            cells.setdefault(row["extension"], {})[row["context_length"]] = row

    def column(length: int) -> Column:
        def detail(row: Row) -> str:
            cell = row["at"].get(length, {})
            return f"{show_percent(cell['gain_percent'])}, {cell['gain_verdict']}" if "gain_verdict" in cell else ""

        return Column(**{**vars(_perplexity_column(length, comparison.context)), "detail": detail})

    rows = [{"extension": name, "at": at} for name, at in cells.items()]
    rows.sort(key=lambda row: (row["extension"] != "none", row["extension"]))
    return Table(
        f"Extensions of {label}: {protocol}",
        [words("extension"), *map(column, lengths)],
        rows,
        "perplexity, its change against no extension on the same runs, and whether that is separable from none",
        {"protocol": protocol, "encoding": label},
    )


def task_table(comparison: Comparison, task: str, extension: str = "none") -> Table:
    """Exact match: a row a label, a column a length."""
    here = [row for row in comparison.tasks if (row["task"], row["extension"]) == (task, extension)]
    lengths = sorted({row["length"] for row in here})
    cells: dict[str, dict[int, Row]] = {}
    for row in here:
        cells.setdefault(row["label"], {})[row["length"]] = row
    rows = [
        {"label": label, "at": at, "seeds": max(cell["seeds"] for cell in at.values())} for label, at in cells.items()
    ]

    def column(length: int) -> Column:
        ratio = next(row["length_ratio"] for row in here if row["length"] == length)
        return Column(
            f"{length:,} ({ratio:g}x)",
            lambda row: f"{row['at'][length]['exact_match']:.1%}" if length in row["at"] else "–",
            lambda row: row["at"].get(length, {}).get("exact_match"),
            lambda row: "{low:.1%} to {high:.1%}".format(**row["at"][length]) if length in row["at"] else "",
        )

    shares = {row["label"]: [-row["at"].get(n, {}).get("exact_match", -1) for n in reversed(lengths)] for row in rows}
    return Table(
        f"Exact match by length: {_name(task, extension)}",
        [words("label", "encoding"), number("seeds", "seeds", show_count), *map(column, lengths)],
        sorted(rows, key=lambda row: shares[row["label"]]),
        f"share of {here[0]['examples']:,} examples whose answer is right in every token; in brackets: "
        + " or ".join(sorted({row["range"] for row in here})),
        {"extension": extension},
    )


def cost_table(comparison: Comparison) -> Table:
    """What each label costs: parameters, speed and memory in training, seconds; medians over the seeds."""
    rows = []
    for label in comparison.labels:
        runs = [run for run in comparison.compared if run.label == label and "training" in run.results]
        if not runs:
            continue
        passes = [
            {
                (row["extension"], row["context_length"]): row.get("seconds", 0)
                for row in run.rows
                if "control" not in row
            }
            for run in runs
        ]
        rows.append(
            {
                "label": label,
                "seeds": len(runs),
                **{key: runs[0].results["parameters"][key] for key in ("total", "encoding")},
                **{
                    key: statistics.median(run.results["training"][key] for run in runs)
                    for key in ("tokens", "tokens_per_second", "peak_memory", "seconds")
                },
                "evaluation": statistics.median(sum(each.values()) for each in passes),
            }
        )
    machines = {str(run.results.get("machine")) for run in comparison.compared}
    return Table(
        "Cost",
        [
            words("label", "encoding"),
            number("total", "parameters", show_count),
            number("encoding", "encoding's own", show_count),
            number("tokens", "tokens", show_count),
            number("tokens_per_second", "tokens/s", show_count),
            number("peak_memory", "peak memory", show_bytes),
            number("seconds", "training s", lambda value: f"{value:.1f}"),
            number("evaluation", "evaluation s", lambda value: f"{value:.1f}"),
        ],
        sorted(rows, key=lambda row: -row["tokens_per_second"]),
        "tokens trained on, tokens a second in training; medians over the seeds"
        + ("; measured on different machines, so speeds do not compare" if len(machines) > 1 else ""),
    )


def undefined_table(comparison: Comparison) -> Table:
    """Labels and places without a figure, and why (where reasons differ by the length: the shortest's)."""
    lengths: dict[tuple, set[int]] = {}
    reasons: dict[tuple, str] = {}
    for row in undefined_rows(comparison.compared):
        place = (row["label"], row["extension"], row["status"])
        lengths.setdefault(place, set()).add(row["context_length"])
        reasons.setdefault(place, row["reason"])
    return Table(
        "Without a figure",
        [
            words("label", "encoding"),
            words("extension"),
            words("status"),
            words("at", "context lengths"),
            words("reason"),
        ],
        [
            {
                "label": label,
                "extension": extension,
                "status": status,
                "at": ", ".join(show_length(length, comparison.context) for length in sorted(at)),
                "reason": reasons[label, extension, status],
            }
            for (label, extension, status), at in lengths.items()
        ],
    )


def run_table(comparison: Comparison) -> Table:
    """The figures of each run, for runs that are not compared."""
    rows = [
        {"label": run.name, **row}
        for run in comparison.compared
        for row in run.rows
        if row["status"] == "ok" and "position" not in row
    ]
    return Table(
        "Figures of each run",
        [
            words("label", "run"),
            words("control", "floor"),
            words("protocol"),
            words("extension"),
            number("context_length", "context length", show_count),
            number("perplexity", "perplexity", show_perplexity, perplexity_interval_of),
            number("nats", "nats/token", lambda value: f"{value:.4f}"),
            number("bits_per_byte", "bits/byte", lambda value: f"{value:.3f}"),
            number("tokens", "tokens", show_count),
        ],
        rows,
        "not to be compared with each other",
    )


def left_out_table(comparison: Comparison) -> Table:
    """The runs that take no part in the comparison."""
    return Table(
        "Failed and skipped",
        [words("run"), words("encoding"), words("seed"), words("state"), words("reason")],
        [
            {"run": run.name, "encoding": run.label, "seed": run.seed, "state": run.state, "reason": run.problem}
            for run in comparison.left_out
        ],
    )


def control_table(comparison: Comparison) -> Table:
    """What stands beside the encodings to judge them by: floors, and models trained on a longer context."""
    lengths = sorted({row["context_length"] for row in comparison.summary if row["control"]})
    cells: dict[tuple, dict[int, Row]] = {}
    for row in comparison.summary:
        if row["control"] and row["extension"] == "none":
            cells.setdefault((row["label"], row["control"], row["protocol"]), {})[row["context_length"]] = row
    return Table(
        "Controls",
        [
            words("label", "control"),
            words("control", "what it is"),
            words("protocol"),
            *(_perplexity_column(length, comparison.context) for length in lengths),
        ],
        [
            {"label": label, "control": control, "protocol": protocol, "at": at}
            for (label, control, protocol), at in cells.items()
        ],
        "a floor is an n-gram of the training text: an encoding that does not beat it has learned nothing from context",
    )


def literature_table(statements: Sequence[Row]) -> Table:
    """The published orderings that the sweep can be asked about (see `literature.check`), and its answers."""
    counts = Counter(row["verdict"] for row in statements)
    return Table(
        "Published orderings",
        [
            words("statement"),
            words("study", detail=lambda row: f"{row['published_protocol']} there, {row['protocol']} here"),
            number("published_percent", "difference there", show_percent),
            number("percent", "difference here", show_percent, _literature_interval),
            number("seeds", "seeds", show_count),
            words("verdict"),
        ],
        statements,
        ", ".join(f"{counts[word]} {word}" for word in ("agree", "disagree", "not separable"))
        + "; orderings alone are compared, never perplexities across corpora",
    )


def _literature_interval(row: Row) -> str:
    return show_interval(row, "percent_low", "percent_high", show_percent)


def provenance_table(comparison: Comparison) -> Table:
    """Where each run's numbers come from."""
    return Table(
        "Runs",
        [
            words("run"),
            words("state"),
            words("config_hash", "config"),
            words("commit"),
            words("corpus_hash", "corpus"),
            words("tokenizer_hash", "tokenizer"),
            words("device"),
            words("time", "ended"),
        ],
        [_provenance(run) for run in comparison.runs],
        "hashes cut to eight digits; a commit with + had uncommitted changes",
    )


def _provenance(run: Run) -> dict[str, Any]:
    hashes = ("config_hash", "corpus_hash", "tokenizer_hash")
    commit = run.results.get("commit") or ""
    return {
        "run": run.name,
        "state": run.state,
        **{key: str(run.results.get(key) or "")[:8] for key in hashes},
        "commit": commit[:8] + ("+" if commit.endswith("+") else ""),
        "device": (run.results.get("machine") or {}).get("device"),
        "time": (run.time or "")[:16].replace("T", " "),
    }


def records_table(title: str, records: Sequence[Row], note: str = "") -> Table:
    """A list of dicts as it is: a column a key, numbers where every value is one."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    columns = [
        number(key, key.replace("_", " "), _show_number) if _is_numeric(records, key) else words(key) for key in keys
    ]
    return Table(title, columns, records, note)


def _is_numeric(records: Sequence[Row], key: str) -> bool:
    values = [record[key] for record in records if record.get(key) is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _show_number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
