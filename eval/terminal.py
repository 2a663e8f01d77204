"""What a run and a sweep say in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def announce(config: Mapping[str, Any], data, module, folder) -> None:
    """What is about to happen: encoding, parameters, tokens, device."""
    counts = module.transformer.count_parameters()
    training = config["training"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{folder.name}: {config['encoding']['name']}, {counts['total'] - counts['embedding']:,} parameters "
        f"({counts['total']:,} with embeddings, {counts['encoding']:,} of them the encoding's)\n"
        f"{data.describe()}\n"
        f"training on {training['tokens']:,} tokens in {module.steps} steps, context {config['context']}, on {device}; "
        f"then scored at {', '.join(f'{m:g}x' for m in config['eval']['lengths'])} the context",
        flush=True,
    )


def print_rows(rows: Sequence[Mapping[str, Any]], context: int) -> None:
    """A run's rows: perplexity, nats and bits a byte by protocol, extension and context length."""
    table = Table(title=f"Trained on a context of {context} tokens")
    for name in ("protocol", "extension", "context"):
        table.add_column(name)
    for name in ("perplexity", "95 % interval", "nats/token", "bits/byte", "tokens"):
        table.add_column(name, justify="right")
    for row in rows:
        if row["protocol"] == "positions":
            continue
        place = (row["protocol"], row["extension"], f"{row['context_length']} ({row['length_ratio']:g}x)")
        if row["status"] != "ok":
            table.add_row(*place, row["reason"])
            continue
        interval = "-" if row["perplexity_low"] is None else f"{row['perplexity_low']:.2f}-{row['perplexity_high']:.2f}"
        bits = "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.3f}"
        table.add_row(*place, f"{row['perplexity']:.2f}", interval, f"{row['nats']:.4f}", bits, f"{row['tokens']:,}")
    console().print(table)


def console() -> Console:
    """The terminal; wide enough for the tables where the output is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=160)
