"""What a run says in the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from conf.schema import Settings
from eval.measure.rows import HEADLINE, Row

if TYPE_CHECKING:
    import pandas as pd

DASH = "-"  # no figure
GAP = 2  # characters between two columns of a table
WORDS = 30  # characters of a cell; longer ones are broken between words where the terminal is narrow
ASKED_FOR = re.compile(r" \(asked for [\d,]+\)")  # in a reason: the length, which stands beside it


def announce(settings: Settings, data, module, folder) -> None:
    """What is about to happen: encoding, parameters, tokens, device and precision, with what they were chosen by."""
    import torch

    from model.devices import uses_gpu, waits_asleep
    from model.training.trainer import choose_precision

    counts = module.transformer.count_parameters()
    precision, threads = choose_precision(settings.trainer), torch.get_num_threads()
    device = f"CPU, {threads} thread{'s' * (threads > 1)}"
    if threads > 1 and waits_asleep():
        device += " that wait asleep, since others keep cores busy"
    if uses_gpu(settings.trainer.accelerator):
        device = torch.cuda.get_device_name()
    options = "".join(f", {words}" for words in settings.model.options.values())
    said = (
        f"{folder.name}: {settings.encoding['name']}{options}, {counts['total'] - counts['embedding']:,} parameters "
        f"({counts['total']:,} with embeddings, {counts['encoding']:,} of them the encoding's)\n"
        f"{data.describe()}\n"
        f"{_before(settings)}training on {settings.training.tokens:,} tokens in {settings.steps} steps, context "
        f"{trained_on(settings)}{_growth(settings)}; then scored at "
        f"{', '.join(f'{m:g}x' for m in settings.eval.lengths)} the {'first ' if settings.stage else ''}context\n"
        f"{_going_on(settings, folder)}"
        f"on {device}, in {precision.name} ({precision.reason})"
    )
    print_notes(said.splitlines())
    sys.stdout.flush()


def _before(settings: Settings) -> str:
    """A line on what a second stage starts from; nothing for a first one."""
    stage = settings.stage
    return f"from {stage.run} after step {stage.step:,}, which had {stage.tokens:,} tokens\n" if stage else ""


def _going_on(settings: Settings, folder) -> str:
    """A line on the step from which a run that was stopped goes on; nothing where it begins."""
    from model.training.checkpoint import checkpoint_step, newest

    if (checkpoint := newest(folder.checkpoints)) is None:
        return ""
    return f"going on after step {checkpoint_step(checkpoint)} of {settings.steps}, from {checkpoint}\n"


def trained_on(settings: Settings) -> str:
    """The context, or those of all stages: "128, then 512 under yarn"."""
    under = f" under {settings.extension['name']}" if settings.extension else ""
    return ", then ".join(map(str, settings.contexts)) + under


def _growth(settings: Settings) -> str:
    """How the context grows while the run trains; nothing where it doesn't."""
    schedule = settings.training.context_schedule
    if schedule.kind is None:
        return ""
    how = {"skyladder": "attention within blocks", "warmup": "windows cut into pieces"}[schedule.kind]
    first = schedule.width(0, settings.steps, settings.context)
    return f" ({schedule.kind}: {how} of {first} tokens, which grow to it in {100 * schedule.growing:g} % of the steps)"


def print_results(results: Mapping[str, Any], settings: Settings, windows: pd.DataFrame) -> None:
    """All that a run has come to: exact match where it was trained on a task, retrieval and perplexity where it was
    scored for them, and then the effective context. windows: of `eval.record.folder`, behind the results' rows."""
    from eval.measure.effective import of_one_run

    if results.get("tasks"):
        print_exact_match(results["tasks"])
    if results.get("retrieval"):
        print_retrieval(results["retrieval"])
    if results["rows"]:
        print_rows(results["rows"], f"{results['run_id']}: trained on a context of {trained_on(settings)} tokens")
        print_effective(of_one_run(windows, settings.compare.level), settings.first_context)


def in_a_line(results: Mapping[str, Any]) -> str:
    """What a job comes to where others write into the same terminal: "perplexity 52.10 at 1x, 74.20 at 2x"."""
    rows = [row for row in results["rows"] if row["protocol"] == HEADLINE]
    kinds = {
        "exact match": [(row, f"{row['exact_match']:.1%}") for row in _good(results.get("tasks", []))],
        "perplexity": [(row, _perplexity(row)) for row in _good(rows) if "control" not in row],
    }
    said = [
        f"{kind} " + ", ".join(f"{figure} at {row['length_ratio']:g}x" for row, figure in found)
        for kind, found in kinds.items()
        if found
    ]
    return "; ".join(said) or "done"


def _good(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "ok" and row["extension"] == "none"]


def print_exact_match(rows: Sequence[Row]) -> None:
    """A task's rows: the share of examples answered without a mistake, by length; of several extensions a row each."""
    longest = next(row["length"] / row["length_ratio"] for row in rows)
    title = f"{rows[0]['task']}, trained at lengths up to {longest:g}"
    extensions = _named(rows, "extension")
    if len(extensions) == 1:
        head = ("length", "exact match", "95 % interval", "tokens right", "examples", "context")
        print_table(title + _under(extensions), head, [(_length(row, "length"), *_answered(row)) for row in rows])
    else:
        _print_by_length(f"{title}: exact match", rows, lambda row: f"{row['exact_match']:.1%}", "length")
    print_notes(_reasons(rows, "length"))


def _answered(row: Row) -> Sequence[str]:
    """The cells of a row of a task, after its length."""
    if row["status"] != "ok":
        return [DASH] * 5
    interval = f"{row['low']:.1%}-{row['high']:.1%}"
    of = f"{row['examples']}", f"{row['context_length']}"
    return f"{row['exact_match']:.1%}", interval, f"{row['token_accuracy']:.1%}", *of


def print_retrieval(rows: Sequence[Row]) -> None:
    """A run's rows of retrieval: the gain by needle and context length, a column a depth, and exact match over all
    depths; of several extensions a row each, with the mean over the depths."""
    worth = "what a needle in the context is worth, nats a token"
    extensions, depths = _named(rows, "extension"), sorted({row["depth"] for row in rows})
    places: dict[tuple[str, str, int], dict[float, Row]] = {}
    for row in rows:
        places.setdefault((row["needle"], row["extension"], row["context_length"]), {})[row["depth"]] = row
    if len(extensions) == 1:
        head = ("needle", "context", *(f"{depth:g}" for depth in depths), "exact match")
        cells = [(place[0], _length(next(iter(own.values()))), *_found(own, depths)) for place, own in places.items()]
        print_table(f"retrieval{_under(extensions)}: {worth}, by its depth", head, cells, words=2, keys=2)
    else:
        for needle in _named(rows, "needle"):
            own = [_over_depths(list(each.values())) for place, each in places.items() if place[0] == needle]
            title = f"retrieval, {needle}: {worth}, the mean over its depths"
            _print_by_length(title, own, lambda row: f"{row['gain']:.3f}")
    print_notes(_reasons(rows))


def _found(own: Mapping[float, Row], depths: Sequence[float]) -> list[str]:
    """The cells of a needle at one length, after its place. own: its rows by depth."""
    good = {depth: row for depth, row in own.items() if row["status"] == "ok"}
    gains = [f"{good[depth]['gain']:.3f}" if depth in good else DASH for depth in depths]
    return [*gains, f"{sum(row['exact_match'] for row in good.values()) / len(good):.1%}" if good else DASH]


def _over_depths(rows: Sequence[Row]) -> Row:
    """The row over all depths of a needle at one place: a mean, since each is asked of the same windows; one without a
    figure where one of them is."""
    without = [row for row in rows if row["status"] != "ok"]
    return without[0] if without else {**rows[0], "gain": sum(row["gain"] for row in rows) / len(rows)}


def print_rows(rows: Sequence[Row], title: str) -> None:
    """A run's rows: perplexity, nats and bits a byte by context length, a table a protocol; of several extensions the
    perplexity, a row each."""
    print(f"\n{title}")
    shown = [row for row in rows if row["protocol"] != "positions"]
    models, floors = ([row for row in shown if ("control" in row) is floor] for floor in (False, True))
    for protocol in _named(shown, "protocol"):
        own, beside = ([row for row in each if row["protocol"] == protocol] for each in (models, floors))
        extensions = _named(own, "extension")
        if len(extensions) > 1:
            beside = [{**row, "extension": _floor(row)} for row in beside]
            _print_by_length(f"perplexity, {protocol}", own, _perplexity, apart=beside)
            continue
        head = ("context", "perplexity", "95 % interval", "nats/token", "bits/byte", "tokens")
        cells: list[Sequence[str] | None] = [(_length(row), *_scored(row)) for row in own]
        one_each = {_floor(row): row for row in reversed(beside)}  # a floor has no context: one length shows it
        last = [(name, *_scored(row)) for name, row in reversed(one_each.items())]
        print_table(f"{protocol}{_under(extensions)}", head, [*cells, *([None, *last] if last else [])])
    if len(_named(models, "extension")) > 1:
        print_notes(["the intervals, nats a token and bits a byte of all these stand in results.json"])
    print_notes(_reasons(models))


def _scored(row: Row) -> Sequence[str]:
    """The cells of a row of perplexity, after its length."""
    if row["status"] != "ok":
        return [DASH] * 5
    interval = f"{_figure(row['perplexity_low'])}-{_figure(row['perplexity_high'])}"
    interval = DASH if "interval_reason" in row else interval
    bits = DASH if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.3f}"
    return _perplexity(row), interval, f"{row['nats']:.4f}", bits, f"{row['tokens']:,}"


def _perplexity(row: Row) -> str:
    return _figure(row["perplexity"])


def _figure(perplexity: float | None) -> str:
    """A perplexity; results.json can't hold one that is beyond what a float is."""
    if perplexity is None:
        return "overflow"
    return (
        f"{perplexity:.2f}" if perplexity < 1000 else f"{perplexity:,.0f}" if perplexity < 1e6 else f"{perplexity:.2e}"
    )


def _floor(row: Row) -> str:
    return f"{row['control']} floor"


def _named(rows: Iterable[Row], field: str) -> list[str]:
    """The values of a field, each once, in order."""
    return list(dict.fromkeys(row[field] for row in rows))


def _under(extensions: Sequence[str]) -> str:
    """Of the one extension that rows are of; nothing where it is none."""
    return "".join(f" under {name}" for name in extensions if name != "none")


def _length(row: Row, field: str = "context_length") -> str:
    return f"{row[field]} ({row['length_ratio']:g}x)"


def _print_by_length(
    title: str,
    rows: Sequence[Row],
    figure: Callable[[Row], str],
    field: str = "context_length",
    apart: Sequence[Row] = (),
) -> None:
    """A table with a row an extension and a column a length. apart: rows below a gap."""
    lengths = {row[field]: _length(row, field) for row in sorted([*rows, *apart], key=lambda row: row[field])}

    def cells(part: Sequence[Row], gap: str) -> list[Sequence[str]]:
        by = {(row["extension"], row[field]): figure(row) for row in part if row["status"] == "ok"}
        return [(name, *(by.get((name, length), gap) for length in lengths)) for name in _named(part, "extension")]

    last = [None, *cells(apart, "")] if apart else []
    print_table(title, ("extension", *lengths.values()), [*cells(rows, DASH), *last])


def _reasons(rows: Sequence[Row], field: str = "context_length") -> list[str]:
    """Why there is a dash, each reason once: where it differs by the length, the shortest's."""
    why: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[field]):
        if row["status"] != "ok":
            why.setdefault((row["extension"], row["status"]), []).append(row)
    alike: dict[tuple[str, str], list[str]] = {}
    for (extension, _), own in why.items():
        at = ", ".join(map(str, dict.fromkeys(row[field] for row in own)))
        alike.setdefault((at, ASKED_FOR.sub("", own[0]["reason"])), []).append(extension)
    several = len(_named(rows, "extension")) > 1
    return [
        f"{DASH} at {at}{f' of {listed}' * several}: {reason}"
        for (at, reason), names in alike.items()
        if (listed := ", ".join(names))
    ]


def print_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str] | None], *, words: int = 1, keys: int = 1
) -> None:
    """A table under its title. The columns that don't fit beside the others go on below, after the first ones again;
    nothing is cut off.

    rows: None is a gap. words: so many columns, the first ones, hold words, the others numbers. keys: so many, the
    first ones, say what a row is of.
    """
    out = console()
    widths = [
        max(len(line) for cells in [head, *filter(None, rows)] for line in cells[at].split("\n"))
        for at in range(len(head))
    ]
    needed = [width if at < keys else min(width, WORDS) for at, width in enumerate(widths)]
    print_notes(["", title])
    for number, columns in enumerate(_parts(needed, keys, out.width)):
        print("\n" * bool(number), end="")
        table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
        for at in columns:
            justify = "left" if at < words else "right"
            table.add_column(head[at], justify=justify, no_wrap=widths[at] <= WORDS, overflow="fold")
        for cells in rows:
            if cells is None:
                table.add_section()
            else:
                table.add_row(*(cells[at] for at in columns))
        out.print(table)


def _parts(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """The columns of each part of a table, by number, for a terminal of so many characters."""
    first = list(range(keys))
    parts, taken = [first.copy()], 0
    for at in range(keys, len(widths)):
        taken += GAP + widths[at]
        if len(parts[-1]) > keys and sum(widths[:keys]) + GAP * (keys - 1) + taken > width:
            parts.append(first.copy())
            taken = GAP + widths[at]
        parts[-1].append(at)
    return parts


def print_notes(notes: Iterable[str]) -> None:
    """Lines above and below tables; in a terminal they break between words."""
    for note in notes:
        console().print(note, soft_wrap=not sys.stdout.isatty())


def print_effective(effective: pd.DataFrame, context: int) -> None:
    """A line on the effective contexts of one run; nothing where no length and its double were scored. effective: of
    eval.measure.effective."""
    from eval.measure.effective import SIGNS

    said = [
        (f"{row.extension}: " if row.extension != "none" else "")
        + f"{SIGNS.get(row.effective_bound, '')}{row.effective_context:,} ({row.effective_context / context:g}x)"
        for row in effective.dropna(subset="effective_context").itertuples()
    ]
    if said:
        over = "the last at which a doubling still lowers the loss, by the held-out windows of this one seed"
        print_notes([f"effective context, {over}: {'; '.join(said)}"])


def console() -> Console:
    """The terminal, with words and lines alone: nothing in what is printed is markup. Wide enough for most tables where
    the output is no terminal, and COLUMNS doesn't say how wide it is."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 160
    return Console(width=width, color_system=None, markup=False, highlight=False, emoji=False)
