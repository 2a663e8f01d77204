"""What a run says in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conf.schema import Settings

if TYPE_CHECKING:
    import pandas as pd


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
    print(
        f"{folder.name}: {settings.encoding['name']}{options}, {counts['total'] - counts['embedding']:,} parameters "
        f"({counts['total']:,} with embeddings, {counts['encoding']:,} of them the encoding's)\n"
        f"{data.describe()}\n"
        f"{_before(settings)}training on {settings.training.tokens:,} tokens in {settings.steps} steps, context "
        f"{trained_on(settings)}{_growth(settings)}; then scored at "
        f"{', '.join(f'{m:g}x' for m in settings.eval.lengths)} the {'first ' if settings.stage else ''}context\n"
        f"on {device}, in {precision.name} ({precision.reason})",
        flush=True,
    )


def _before(settings: Settings) -> str:
    """A line on what a second stage starts from; nothing for a first one."""
    stage = settings.stage
    return f"from {stage.run} after step {stage.step:,}, which had {stage.tokens:,} tokens\n" if stage else ""


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


def print_exact_match(rows: Sequence[Mapping[str, Any]]) -> None:
    """A task's rows: the share of examples answered without a mistake, by length."""
    longest = next(row["length"] / row["length_ratio"] for row in rows)
    table = Table(title=f"{rows[0]['task']}, trained at lengths up to {longest:g}")
    for name in ("extension", "length"):
        table.add_column(name)
    for name in ("exact match", "95 % interval", "tokens right", "examples", "context"):
        table.add_column(name, justify="right")
    for row in rows:
        place = (row["extension"], f"{row['length']} ({row['length_ratio']:g}x)")
        if row["status"] != "ok":
            table.add_row(*place, row["reason"])
            continue
        figures = (f"{row['exact_match']:.1%}", f"{row['low']:.1%}-{row['high']:.1%}", f"{row['token_accuracy']:.1%}")
        table.add_row(*place, *figures, f"{row['examples']}", f"{row['context_length']}")
    console().print(table)


def print_retrieval(rows: Sequence[Mapping[str, Any]]) -> None:
    """A run's rows of retrieval: the gain by needle, extension and context length, a column a depth, and exact match
    over all depths."""
    depths = sorted({row["depth"] for row in rows})
    table = Table(title="retrieval: what a needle in the context is worth, nats a token, by its depth")
    for name in ("needle", "extension", "context"):
        table.add_column(name)
    for name in (*(f"{depth:g}" for depth in depths), "exact match"):
        table.add_column(name, justify="right")
    places: dict[tuple[str, str, str], dict[float, Mapping[str, Any]]] = {}
    for row in rows:
        place = (row["needle"], row["extension"], f"{row['context_length']} ({row['length_ratio']:g}x)")
        places.setdefault(place, {})[row["depth"]] = row
    for place, own in places.items():
        good = [row for row in own.values() if row["status"] == "ok"]
        if not good:
            table.add_row(*place, next(iter(own.values()))["reason"])
            continue
        gains = ["-" if own.get(depth) not in good else f"{own[depth]['gain']:.3f}" for depth in depths]
        table.add_row(*place, *gains, f"{sum(row['exact_match'] for row in good) / len(good):.1%}")
    console().print(table)


def print_rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """A run's rows: perplexity, nats and bits a byte by protocol, extension and context length."""
    table = Table(title=title)
    for name in ("protocol", "extension", "context"):
        table.add_column(name)
    for name in ("perplexity", "95 % interval", "nats/token", "bits/byte", "tokens"):
        table.add_column(name, justify="right")
    shown = set()
    for row in rows:
        floor = (row["protocol"], row.get("control"))
        if row["protocol"] == "positions" or floor in shown:
            continue
        shown |= {floor} if "control" in row else set()  # a floor has no context: one length is enough to see it
        extension = f"{row['control']} floor" if "control" in row else row["extension"]
        place = (row["protocol"], extension, f"{row['context_length']} ({row['length_ratio']:g}x)")
        if row["status"] != "ok":
            table.add_row(*place, row["reason"])
            continue
        interval = f"{_figure(row['perplexity_low'])}-{_figure(row['perplexity_high'])}"
        interval = "-" if "interval_reason" in row else interval
        bits = "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.3f}"
        table.add_row(*place, _figure(row["perplexity"]), interval, f"{row['nats']:.4f}", bits, f"{row['tokens']:,}")
    console().print(table)


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
        print(f"effective context, {over}: {'; '.join(said)}")


def _figure(perplexity: float | None) -> str:
    """A perplexity; results.json can't hold one that is beyond what a float is."""
    return "overflow" if perplexity is None else f"{perplexity:.2f}"


def console() -> Console:
    """The terminal, with words and lines alone: nothing in what is printed is markup. Wide enough for the tables where
    the output is no terminal."""
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, color_system=None, markup=False, highlight=False, emoji=False)
