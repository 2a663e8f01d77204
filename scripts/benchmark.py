"""Training and evaluation speed, side by side with what a user would pick instead.

    python -m scripts.benchmark quick                         a minute: what to choose on this machine
    python -m scripts.benchmark peers --shape tiny            this project and the peers, each at every setting
    python -m scripts.benchmark encodings --shape tiny        every encoding against `none`
    python -m scripts.benchmark attention --shape tiny        attention alone, by every executor
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
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import nn

from conf.schema import fewest_layers
from eval.record.files import write_table
from eval.record.identity import settings_of
from eval.record.provenance import machine
from eval.record.terminal import console
from model.attention import attention
from model.catalogue import encoding_config, encoding_names
from model.devices import available_cores, bf16_unit
from model.encodings import Shape, build_encoding
from model.kernels import compile_training, cross_entropy
from model.training.graphs import Recorded
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


@dataclass(frozen=True)
class Setting:
    """How a step is computed. recorded: as a CUDA graph, and replayed."""

    dtype: torch.dtype
    compiled: bool = False
    recorded: bool = False


SETTINGS = {
    "fp32": Setting(torch.float32),
    "bf16": Setting(torch.bfloat16),
    "bf16 recorded": Setting(torch.bfloat16, recorded=True),
    "fp32 compiled": Setting(torch.float32, compiled=True),
    "bf16 compiled": Setting(torch.bfloat16, compiled=True),
    "bf16 compiled recorded": Setting(torch.bfloat16, compiled=True, recorded=True),
}
ON_CPU = ("fp32", "bf16", "fp32 compiled", "bf16 compiled")
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 operations a second, by the makers' data sheets
DEFAULT = settings_of().training  # the default job
STARTING = 6  # processes that compile and take their first steps at once
PAYS = 1.05  # times as fast, from which on more speed is more than the swing of a measurement
SEPARATORS = {"line": (3,), "sentence": (4,)}


def ours(encoding: str, sizes: Sizes) -> Transformer:
    """This project's transformer at the sizes of a contest."""
    shape = Shape(sizes.dim, sizes.num_heads, sizes.num_layers, sizes.context, SEPARATORS)
    return Transformer(sizes.vocab_size, build_encoding(encoding_config(encoding), shape))


def operations(sizes: Sizes) -> int:
    """Floating-point operations of a training step a token, by the convention of PaLM (Chowdhery et al. 2022, appendix
    B): six a weight that multiplies, and attention as if it weren't causal."""
    weights = 12 * sizes.num_layers * sizes.dim**2 + sizes.vocab_size * sizes.dim
    return 6 * weights + 12 * sizes.num_layers * sizes.dim * sizes.context


@dataclass(frozen=True)
class Entry:
    """One line of a contest. model: a peer's name, or an encoding of this project's transformer. executor: attention's,
    and then attention of one layer is all that is computed."""

    name: str
    model: str
    setting: str
    executor: str | None = None

    def step(self, sizes: Sizes, device: torch.device) -> Callable[[], None]:
        """Computes a step: forward, backward, and what follows."""
        torch.manual_seed(0)
        if self.executor:
            return attention_step(self, sizes, device)
        model = PEERS[self.model](sizes) if self.model in PEERS else ours(self.model, sizes)
        return Contestant(model, sizes, SETTINGS[self.setting], device).step


class Contestant:
    """A model with its optimizer, and how it is run: `step` is forward, loss, backward and AdamW on one batch."""

    def __init__(self, model: nn.Module, sizes: Sizes, setting: Setting, device: torch.device):
        self.model, self.dtype, self.device = model.to(device), setting.dtype, device
        is_ours = isinstance(model, Transformer)
        self.loss = self._loss_of_ours if is_ours else self._loss
        if setting.compiled:
            self.loss = compile_training(self.loss, device.type == "cuda") if is_ours else torch.compile(self.loss)
        self.recorded = Recorded(self.loss, self.model) if setting.recorded else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = torch.randint(sizes.vocab_size, (sizes.batch, sizes.context + 1), device=device)

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.model(tokens[:, :-1]).flatten(0, 1)

    def _loss(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self._logits(tokens).float(), tokens[:, 1:].flatten())

    def _loss_of_ours(self, tokens: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self._logits(tokens), tokens[:, 1:].flatten()).mean()

    def step(self) -> None:
        if self.recorded:
            self.recorded.backward(self.recorded(self.tokens))
        else:
            self.loss(self.tokens).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def attention_step(entry: Entry, sizes: Sizes, device: torch.device) -> Callable[[], None]:
    """Attention of one layer under an encoding, forward and backward, by one executor."""
    setting = SETTINGS[entry.setting]
    encoding = ours(entry.model, sizes).encoding.to(device)
    heads = (3, sizes.batch, sizes.num_heads, sizes.context, sizes.dim // sizes.num_heads)
    qkv = torch.randn(heads, device=device, dtype=setting.dtype, requires_grad=True)
    x_BTD = torch.randn(sizes.batch, sizes.context, sizes.dim, device=device, dtype=setting.dtype)
    positions = encoding.positions(torch.zeros(sizes.batch, sizes.context, dtype=torch.long, device=device))
    learned = [parameter for parameter in encoding.parameters() if parameter.requires_grad]

    def out() -> torch.Tensor:
        return attention(*qkv, encoding, positions, x_BTD, 0, executor=entry.executor)

    run = compile_training(out, device.type == "cuda") if setting.compiled else out
    gradient = torch.randn_like(run())

    def step() -> None:
        torch.autograd.grad(run(), [qkv, *learned], gradient, allow_unused=True)

    return step


class Process:
    """A process of its own for some entries, so that what this project sets in a process is no gift to the peers.

    prepared: with this project's settings of the process (the allocator's); else as torch comes. names: the entries
    that can run, once `ready` has waited for them.
    """

    def __init__(self, entries: list[Entry], sizes: Sizes, options, prepared: bool, starting=None):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        of_process = (other, entries, sizes, options.device, options.threads, prepared, starting)
        self.process = context.Process(target=_serve, args=of_process, daemon=True)
        self.process.start()
        other.close()
        self.entries, self.names = entries, []

    def ready(self) -> Process:
        """Itself, when its entries have taken their first steps; those that can't are left out, with a line."""
        for entry in self.entries:
            try:
                problem = self.connection.recv()
            except EOFError:
                problem = "its process ended"
            if problem:
                print(f"{entry.name}: left out ({problem})", flush=True)
            else:
                self.names.append(entry.name)
        return self

    def time(self, name: str, count: int) -> float:
        """Seconds a step, over `count` of them."""
        self.connection.send((name, count))
        return self.connection.recv()

    def peak_memory(self, name: str) -> int:
        """The most bytes that a step holds on the device (without a GPU: that the process does)."""
        self.connection.send((name, 0))
        return self.connection.recv()

    def profile(self, name: str) -> str:
        """Where the time of three steps goes, a table."""
        self.connection.send((name, -3))
        return self.connection.recv()

    def close(self) -> None:
        self.connection.close()
        self.process.join()


def start(teams: list[tuple[list[Entry], bool]], sizes: Sizes, options) -> list[Process]:
    """A process for each of several lists of entries (and whether it is prepared), ready."""
    starting = multiprocessing.get_context("spawn").BoundedSemaphore(STARTING if options.device.type == "cuda" else 1)
    processes = [Process(entries, sizes, options, prepared, starting) for entries, prepared in teams]
    return [process.ready() for process in processes]


def _serve(
    connection, entries: list[Entry], sizes: Sizes, device, threads: int | None, prepared: bool, starting
) -> None:
    if prepared:
        prepare_process(threads)
    elif threads:
        torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 8 + len(entries)  # beyond it, models would run uncompiled and not say so
    steps = {}
    for entry in entries:
        try:
            with starting or nullcontext():
                steps[entry.name] = entry.step(sizes, device)
                _time(steps[entry.name], 3, device)
                _give_back(device)
            connection.send(None)
        except Exception as error:
            connection.send(f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
    while True:
        try:
            name, count = connection.recv()
        except EOFError:  # the contest is over
            return
        connection.send(_answer(steps[name], count, device))
        _give_back(device)


def _answer(step: Callable[[], None], count: int, device: torch.device) -> float | int | str:
    """Seconds a step; for a count of 0 the bytes that a step needs at most, below it the profile of so many steps."""
    if count > 0:
        return _time(step, count, device)
    if count == 0:
        forget_peak_memory()
        step()
        return peak_memory()
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        _time(step, -count, device)
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return found.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=90)


def _give_back(device: torch.device) -> None:
    """Leaves the device's memory to the contestant whose turn it is."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


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


def contest(processes: list[Process], references: list[str], sizes: Sizes, options) -> list[dict[str, Any]]:
    """A row each: median, least and most tokens a second, and the ratios to the fastest of the references, which takes
    a turn before every other's turn. A turn lasts about `options.seconds`. On a known GPU also the model's floating-
    point operations as a share of what the card can (MFU)."""
    contestants = {name: process for process in processes for name in process.names}
    steps = {name: max(1, round(options.seconds / process.time(name, 3))) for name, process in contestants.items()}

    def speed(name: str) -> float:
        return sizes.batch * sizes.context / contestants[name].time(name, steps[name])

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
                "batch": sizes.batch,
                "peak_memory_gb": round(contestants[name].peak_memory(name) / 1e9, 2),
            }
        )
        if peak := _peak(options.device):
            rows[-1]["mfu"] = round(operations(sizes) * statistics.median(speeds) / peak, 3)
        print(f"{name}: {rows[-1]['tokens_per_second']:,} tokens/s", flush=True)  # whatever becomes of the others
    if options.profile:
        with open(options.profile, "a", encoding="utf-8") as file:
            for name, process in contestants.items():
                file.write(f"{name}, {options.shape}\n{process.profile(name)}\n")
    return rows


def _peak(device: torch.device) -> float | None:
    """Dense bf16 operations a second of this device, where it is known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for card, peak in PEAK.items() if card in name), None)


def _sizes(options) -> Sizes:
    sizes = SHAPES[options.shape]
    return replace(sizes, batch=options.batch or sizes.batch, context=options.context or sizes.context)


def peers(options) -> list[dict[str, Any]]:
    """none, rope and alibi against every peer, setting by setting; the peers as torch comes, and on the CPU with this
    project's allocator too. A process has one model and one setting: what another leaves behind in its heap would speed
    it up."""
    sizes, rows = _sizes(options), []
    memories = ("torch's",) if options.device.type == "cuda" else ("torch's", "kept")
    for setting in options.settings or ON_CPU:
        contestants = [(name, "kept") for name in options.encodings or ("none", "rope", "alibi")]
        contestants += itertools.product(options.peers or PEERS, memories)
        teams = []
        for name, memory in contestants:
            label = name if name in PEERS else f"trainshort {name}"
            teams.append(([Entry(f"{label} | {memory}", name, setting)], memory == "kept"))
        processes = start(teams, sizes, options)
        as_torch_comes = [name for process in processes for name in process.names if name.endswith("torch's")]
        for row in contest(processes, as_torch_comes, sizes, options):
            contestant, memory = row["contestant"].split(" | ")
            reference = row["ratio_to"].split(" | ")[0]
            rows.append(row | {"contestant": contestant, "ratio_to": reference, "memory": memory, "setting": setting})
        for process in processes:
            process.close()
    return rows


def encodings(options) -> list[dict[str, Any]]:
    """Every encoding at every setting, against none at the first; but for those whose layers are more than there are,
    where none are named."""
    settings = options.settings or ["bf16"]
    layers = _sizes(options).num_layers
    fitting = [name for name in encoding_names() if fewest_layers(encoding_config(name)) <= layers]
    names = ["none", *(name for name in options.encodings or fitting if name != "none")]
    return _apart([[Entry(f"{name} | {each}", name, each) for each in settings] for name in names], options)


def executors(options) -> list[dict[str, Any]]:
    """Attention of one layer, forward and backward, by every executor that an encoding has, against none's."""
    settings = options.settings or ["bf16"]
    names = [name for name in options.encodings or ("alibi", "t5", "fire", "fox") if name != "none"]
    ways = (
        ("dense", "folded", "flex") if options.device.type == "cuda" else ("dense",)
    )  # FlexAttention has no backward on CPU
    by_name = [[Entry(f"none, fused | {each}", "none", each, "fused") for each in settings]]
    for name in names:
        by_name.append([Entry(f"{name}, {way} | {each}", name, each, way) for each in settings for way in ways])
    return _apart(by_name, options)


def _apart(by_name: list[list[Entry]], options) -> list[dict[str, Any]]:
    """A contest of entries named "NAME | SETTING", against the first. On a GPU each list has a process of its own, and
    compiles beside the others; on the CPU, where they would be in each other's way, they share one."""
    sizes = _sizes(options)
    teams = by_name if options.device.type == "cuda" else [list(itertools.chain(*by_name))]
    processes = start([(entries, True) for entries in teams], sizes, options)
    rows = []
    for row in contest(processes, [by_name[0][0].name], sizes, options):
        contestant, setting = row["contestant"].split(" | ")
        rows.append(row | {"contestant": contestant, "ratio_to": row["ratio_to"].split(" | ")[0], "setting": setting})
    for process in processes:
        process.close()
    return rows


def quick(options) -> list[dict[str, Any]]:
    """RoPE at the tiny shape and the default job's batch: each setting, and a thread for a job; and what follows."""
    settings = options.settings or _worth_a_look(options.device)
    options.encodings, options.batch = ["rope"], options.batch or DEFAULT.batch_size
    options.rounds, options.seconds = min(options.rounds, 3), min(options.seconds, 1.0)
    sizes = _sizes(options)
    names = {each: f"{each}, {options.threads or available_cores()} threads" for each in settings}
    teams = [([Entry(name, "rope", each) for each, name in names.items()], True)]
    processes = start(teams, sizes, options)
    alone = argparse.Namespace(**{**vars(options), "threads": 1})
    processes += start([([Entry(f"{each}, 1 thread", "rope", each) for each in settings[:2]], True)], sizes, alone)
    rows = contest(processes, [names[settings[0]]], sizes, options)
    for process in processes:
        process.close()
    for row in rows:
        row["seconds_of_the_default_job"] = round(DEFAULT.tokens / row["tokens_per_second"], 1)
    return rows


def _worth_a_look(device: torch.device) -> tuple[str, ...]:
    """The settings that could be the best of a device; compiled, which takes long, is the one that `auto` chooses."""
    if device.type == "cuda":
        return "bf16", "bf16 recorded", "bf16 compiled recorded"
    return "fp32", "bf16", "bf16 compiled" if bf16_unit(gpu=False) else "fp32 compiled"


def advice(rows: list[dict[str, Any]]) -> str:
    """What the rows of `quick` say, a line each: precision, compilation, jobs side by side. By the ratios, which swing
    less than the speeds."""
    speed = {row["contestant"]: row["ratio"] for row in rows}
    tokens = {row["contestant"]: row["tokens_per_second"] for row in rows}
    lone = [name for name in speed if name.endswith(" 1 thread")]
    compiled = [name for name in speed if "compiled" in name and name not in lone]
    best = max(speed.keys() - {*lone, *compiled}, key=speed.get)
    said = [f"fastest without compiling: {best}, {tokens[best]:,} tokens/s"]
    if compiled:
        gain = max(map(speed.get, compiled)) / speed[best]
        pays = (
            "for 10 to 60 s at the start (trainer.compile=true)" if gain > PAYS else "too little to pay for its start"
        )
        said.append(f"compiled: {gain:.2f} times that, {pays}")
    if lone:
        jobs, share = available_cores(), max(map(speed.get, lone)) / speed[best]
        said.append(
            f"a job with one thread: {share:.2f} times that, so that {jobs} jobs side by side come to "
            f"{jobs * share:.2f} times (hydra/launcher=processes hydra.launcher.n_jobs={jobs} trainer.threads=1)"
        )
    return "\n".join(said)


def evaluation(options) -> list[dict[str, Any]]:
    """Seconds and peak memory of one forward pass over a long window, last 64 tokens to the head, float32 and bf16. The
    first pass, in which kernels are chosen or compiled, stands apart."""
    sizes, rows = _sizes(options), []
    for name in options.encodings or ("none", "rope", "alibi"):
        model = ours(name, sizes).to(options.device).eval()
        for setting in options.settings or ("fp32", "bf16"):
            tokens = torch.randint(sizes.vocab_size, (1, options.length), device=options.device)
            enabled = setting.startswith("bf16")
            forget_peak_memory()
            with torch.no_grad(), torch.autocast(options.device.type, torch.bfloat16, enabled=enabled):
                score = lambda m=model, t=tokens: F.linear(m.hidden(t)[:, -64:], m.embedding.weight)  # noqa: E731
                first = _time(score, 1, options.device)
                again = _time(score, 1 if first > 1 else 3, options.device)
            rows.append(
                {
                    "contestant": name,
                    "setting": setting,
                    "length": options.length,
                    "seconds": float(f"{again:.3g}"),
                    "first_seconds": float(f"{first:.3g}"),
                    "peak_memory_gb": round(peak_memory() / 1e9, 2),
                }
            )
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def loop(options) -> list[dict[str, Any]]:
    """Lightning's loop, with this project's callbacks, against a plain loop over the same steps."""
    import lightning as L
    from torch.utils.data import DataLoader

    from model.training.language_model import LanguageModel
    from model.training.meter import Meter

    sizes = _sizes(options)
    batch = torch.randint(sizes.vocab_size, (sizes.batch, sizes.context + 1))
    plain = Contestant(ours("rope", sizes), sizes, SETTINGS["bf16"], options.device)
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


COMMANDS = {
    "quick": quick,
    "peers": peers,
    "encodings": encodings,
    "attention": executors,
    "evaluation": evaluation,
    "loop": loop,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="?", default="peers", choices=tuple(COMMANDS))
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--settings", type=lambda text: text.split(","), help=", ".join(SETTINGS))
    parser.add_argument("--peers", type=lambda text: text.split(";"), help="; ".join(PEERS))
    parser.add_argument("--encodings", type=lambda text: text.split(","), help="names under conf/encoding")
    parser.add_argument("--batch", type=int, help="windows a step; else the shape's")
    parser.add_argument("--context", type=int, help="tokens a window; else the shape's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--length", type=int, default=65536, help="tokens of the evaluation's window")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--csv", type=Path, help="where the rows go")
    parser.add_argument("--profile", type=Path, help="where the profile of each contestant goes, a table")
    options = parser.parse_args(arguments)
    prepare_process(options.threads)
    rows = COMMANDS[options.what](options)
    show(rows)
    if options.what == "quick":
        print(advice(rows))
    if options.csv:
        about = machine(torch.device(options.device)) | {
            "torch": torch.__version__,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        write_table(options.csv, [row | about for row in rows])


if __name__ == "__main__":
    end_with(main)
