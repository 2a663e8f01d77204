"""Training and evaluation speed, side by side with what a user would pick instead.

    python -m scripts.benchmark peers --shape tiny            this project and the peers, each at every setting
    python -m scripts.benchmark encodings --shape tiny        every encoding against `none`
    python -m scripts.benchmark evaluation                    one window of 65 536 tokens
    python -m scripts.benchmark loop                          Lightning's loop against a plain loop

Contestants take turns, round after round, so that a change in the machine's load meets all of them; the reference of
the ratios takes a turn before each. Peers have a process each. It writes a CSV and a table, and never judges.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import nn

from eval.record.files import write_table
from eval.record.provenance import machine
from eval.record.terminal import console
from model.catalogue import encoding_config, encoding_names
from model.encodings import Shape, build_encoding
from model.kernels import compile_training, cross_entropy
from model.training.meter import forget_peak_memory, peak_memory
from model.training.trainer import prepare_process
from model.transformer import Transformer
from scripts.command import end_with
from scripts.peers import PEERS, Sizes

SHAPES = {
    "nano": Sizes(dim=32, num_layers=2, num_heads=2, vocab_size=97, context=32, batch=4),
    "tiny": Sizes(dim=128, num_layers=4, num_heads=4, vocab_size=2048, context=128, batch=32),
    "medium": Sizes(dim=384, num_layers=6, num_heads=6, vocab_size=4096, context=256, batch=16),
    "gpt2": Sizes(dim=768, num_layers=12, num_heads=12, vocab_size=50304, context=1024, batch=16),
}
SETTINGS = {  # name: precision, compiled
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp32 compiled": (torch.float32, True),
    "bf16 compiled": (torch.bfloat16, True),
}
SEPARATORS = {"line": (3,), "sentence": (4,)}


def ours(encoding: str, sizes: Sizes) -> Transformer:
    """This project's transformer at the sizes of a contest."""
    shape = Shape(sizes.dim, sizes.num_heads, sizes.num_layers, sizes.context, SEPARATORS)
    return Transformer(sizes.vocab_size, build_encoding(encoding_config(encoding), shape))


class Contestant:
    """A model with its optimizer, and how it is run: `step` is forward, loss, backward and AdamW on one batch."""

    def __init__(self, model: nn.Module, sizes: Sizes, setting: str, device: torch.device):
        self.dtype, compiled = SETTINGS[setting]
        self.model = model.to(device)
        is_ours = isinstance(model, Transformer)
        self.loss = self._loss_of_ours if is_ours else self._loss
        if compiled:
            gpu = device.type == "cuda"
            self.loss = compile_training(self.loss, gpu) if is_ours else torch.compile(self.loss)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = torch.randint(sizes.vocab_size, (sizes.batch, sizes.context + 1), device=device)
        self.device = device

    def _logits(self) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.model(self.tokens[:, :-1]).flatten(0, 1)

    def _loss(self) -> torch.Tensor:
        return F.cross_entropy(self._logits().float(), self.tokens[:, 1:].flatten())

    def _loss_of_ours(self) -> torch.Tensor:
        return cross_entropy(self._logits(), self.tokens[:, 1:].flatten()).mean()

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass(frozen=True)
class Entry:
    """One line of a contest. model: a peer's name, or an encoding of this project's transformer."""

    name: str
    model: str
    setting: str


class Process:
    """A process of its own for some entries, so that what this project sets in a process is no gift to the peers.

    prepared: with this project's settings of the process (the allocator's); else as torch comes.
    """

    def __init__(self, entries: list[Entry], sizes: Sizes, options, prepared: bool):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        of_process = (other, entries, sizes, options.device, options.threads, prepared)
        self.process = context.Process(target=_serve, args=of_process, daemon=True)
        self.process.start()
        other.close()
        self.names = []
        for entry in entries:
            if problem := self.connection.recv():
                print(f"{entry.name}: left out ({problem})", flush=True)
            else:
                self.names.append(entry.name)

    def time(self, name: str, count: int) -> float:
        """Seconds a step, over `count` of them."""
        self.connection.send((name, count))
        return self.connection.recv()

    def close(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(connection, entries: list[Entry], sizes: Sizes, device, threads: int | None, prepared: bool) -> None:
    if prepared:
        prepare_process(threads)
    elif threads:
        torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 8 + len(entries)  # beyond it, models would run uncompiled and not say so
    steps = {}
    for entry in entries:
        torch.manual_seed(0)
        try:
            model = PEERS[entry.model](sizes) if entry.model in PEERS else ours(entry.model, sizes)
            steps[entry.name] = Contestant(model, sizes, entry.setting, device).step
            _time(steps[entry.name], 3, device)
            connection.send(None)
        except Exception as error:
            connection.send(f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
    while True:
        try:
            name, count = connection.recv()
        except EOFError:  # the contest is over
            return
        connection.send(_time(steps[name], count, device))


def _time(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Seconds a step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count


def contest(processes: list[Process], references: list[str], unit: float, options) -> list[dict[str, Any]]:
    """A row each: median, least and most of `unit` times steps a second, and the ratios to the fastest of the
    references, which takes a turn before every other's turn. A turn lasts about `options.seconds`."""
    contestants = {name: process for process in processes for name in process.names}
    steps = {name: max(1, round(options.seconds / process.time(name, 2))) for name, process in contestants.items()}

    def speed(name: str) -> float:
        return unit / contestants[name].time(name, steps[name])

    reference = max(references, key=speed)
    turns = {name: [] for name in contestants}  # pairs: the reference's speed, and its own
    for _ in range(options.rounds):
        for name, pairs in turns.items():
            before = speed(reference)
            pairs.append((before, before if name == reference else speed(name)))
    rows = []
    for name, pairs in turns.items():
        speeds = [own for _, own in pairs]
        ratios = [own / before for before, own in pairs]
        rows.append(
            {
                "contestant": name,
                "tokens_per_second": round(statistics.median(speeds)),
                "least": round(min(speeds)),
                "most": round(max(speeds)),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_least": round(min(ratios), 3),
                "ratio_most": round(max(ratios), 3),
                "ratio_to": reference,
                "shape": options.shape,
            }
        )
    return rows


def peers(options) -> list[dict[str, Any]]:
    """none, rope and alibi against every peer, setting by setting; the peers as torch comes, and with this project's
    allocator. A process has one model and one setting: what another leaves behind in its heap would speed it up."""
    sizes, rows = SHAPES[options.shape], []
    for setting in options.settings or SETTINGS:
        teams = [(name, "kept") for name in options.encodings or ("none", "rope", "alibi")]
        teams += itertools.product(PEERS, ("torch's", "kept"))
        processes = []
        for name, memory in teams:
            label = name if name in PEERS else f"trainshort {name}"
            entry = Entry(f"{label} | {memory}", name, setting)
            processes.append(Process([entry], sizes, options, prepared=memory == "kept"))
        as_torch_comes = [name for process in processes for name in process.names if name.endswith("torch's")]
        for row in contest(processes, as_torch_comes, sizes.batch * sizes.context, options):
            contestant, memory = row["contestant"].split(" | ")
            reference = row["ratio_to"].split(" | ")[0]
            rows.append(row | {"contestant": contestant, "ratio_to": reference, "memory": memory, "setting": setting})
        for process in processes:
            process.close()
    return rows


def encodings(options) -> list[dict[str, Any]]:
    """Every encoding against none, at one setting."""
    sizes = SHAPES[options.shape]
    (setting,) = options.settings or ["bf16"]
    names = ["none", *(name for name in options.encodings or encoding_names() if name != "none")]
    process = Process([Entry(name, name, setting) for name in names], sizes, options, prepared=True)
    rows = contest([process], ["none"], sizes.batch * sizes.context, options)
    process.close()
    return [row | {"setting": setting} for row in rows]


def evaluation(options) -> list[dict[str, Any]]:
    """Seconds and peak memory of one forward pass over a long window, last 64 tokens to the head, float32 and bf16."""
    sizes, rows = SHAPES[options.shape], []
    for name in options.encodings or ("none", "rope", "alibi"):
        model = ours(name, sizes).to(options.device).eval()
        for setting in options.settings or ("fp32", "bf16"):
            tokens = torch.randint(sizes.vocab_size, (1, options.length), device=options.device)
            enabled = setting.startswith("bf16")
            forget_peak_memory()
            with torch.no_grad(), torch.autocast(options.device.type, torch.bfloat16, enabled=enabled):
                seconds = _time(
                    lambda m=model, t=tokens: F.linear(m.hidden(t)[:, -64:], m.embedding.weight), 1, options.device
                )
            rows.append(
                {
                    "contestant": name,
                    "setting": setting,
                    "length": options.length,
                    "seconds": round(seconds, 2),
                    "peak_memory_gb": round(peak_memory() / 1e9, 2),
                }
            )
    return rows


def loop(options) -> list[dict[str, Any]]:
    """Lightning's loop, with this project's callbacks, against a plain loop over the same steps."""
    import lightning as L
    from torch.utils.data import DataLoader

    from eval.record.identity import settings_of
    from model.training.language_model import LanguageModel
    from model.training.meter import Meter

    sizes = SHAPES[options.shape]
    batch = torch.randint(sizes.vocab_size, (sizes.batch, sizes.context + 1))
    plain = Contestant(ours("rope", sizes), sizes, "bf16", options.device)
    steps = 30
    settings = settings_of(
        f"context={sizes.context}",
        f"training.tokens={steps * sizes.batch * sizes.context}",
        f"training.batch_size={sizes.batch}",
        f"training.log_every={steps}",
        "training.lr=1e-4",
        "training.clip=0",
    )

    def lightning_loop():
        meter = Meter(settings)
        trainer = L.Trainer(
            accelerator=options.device.type,
            precision="bf16-mixed",
            max_steps=steps,
            callbacks=[meter],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = LanguageModel(ours("rope", sizes), settings.training, steps)
        trainer.fit(module, DataLoader([batch] * steps, batch_size=None))
        return meter.seconds / steps

    rows = []
    for _ in range(options.rounds):
        of_plain = _time(plain.step, steps, options.device)
        rows.append({"contestant": "lightning", "seconds_a_step": lightning_loop(), "plain_seconds_a_step": of_plain})
        rows[-1]["ratio"] = rows[-1]["seconds_a_step"] / of_plain
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="?", default="peers", choices=("peers", "encodings", "evaluation", "loop"))
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--settings", type=lambda text: text.split(","), help=", ".join(SETTINGS))
    parser.add_argument("--encodings", type=lambda text: text.split(","), help="names under conf/encoding")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--length", type=int, default=65536, help="tokens of the evaluation's window")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--csv", type=Path, help="where the rows go")
    options = parser.parse_args(arguments)
    prepare_process(options.threads)
    rows = {"peers": peers, "encodings": encodings, "evaluation": evaluation, "loop": loop}[options.what](options)
    show(rows)
    if options.csv:
        about = machine(torch.device(options.device)) | {
            "torch": torch.__version__,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        write_table(options.csv, [row | about for row in rows])


if __name__ == "__main__":
    end_with(main)
