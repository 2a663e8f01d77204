"""A GPU looked over in minutes: does training run there, do the encodings compute what they do on the CPU, how fast.

    python -m scripts.gpu_check FOLDER                       every step, most important first
    python -m scripts.gpu_check FOLDER steps=default,laws    some of them
    python -m scripts.gpu_check FOLDER device=cpu            small, to try it out without one

Each step is a command with a time limit of its own, and goes on after a failure of the one before. Its output is in
FOLDER/STEP.log, a benchmark's rows in FOLDER/STEP.csv as soon as it has ended; FOLDER/steps.csv says how each ended.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eval.compare.bank import EXTENDED, SEEDS, catalogue
from eval.record.files import write_table
from scripts.command import end_with, folder_and_options

PYTHON = sys.executable
BIASED = "none,rope,alibi,t5,fire,fox"
MPS = "nvidia-cuda-mps-control"  # with which processes share a card, and don't take turns of it


@dataclass(frozen=True)
class Step:
    """seconds: its time limit."""

    name: str
    seconds: int
    command: list[str]


def steps(folder: Path, gpu: bool) -> list[Step]:
    """All steps, most important first; on the CPU at sizes of seconds, so that the commands are seen to work."""

    def train(name: str, seconds: int, *settings: str) -> Step:
        where = ["trainer=gpu"] if gpu else ["trainer=cpu", "experiment=smoke"]
        return Step(name, seconds, [PYTHON, "train.py", *where, f"runs={folder / 'runs'}", "logger=none", *settings])

    def benchmark(name: str, seconds: int, what: str, shape: str, *options: str) -> Step:
        turns = (
            ["--rounds", "2", "--seconds", "0.5"] if gpu else ["--device", "cpu", "--rounds", "1", "--seconds", "0.01"]
        )
        files = ["--csv", str(folder / f"{name}.csv")]
        if what == "peers":
            files += ["--profile", str(folder / f"{name}.profile")]
        command = [PYTHON, "-m", "scripts.benchmark", what, "--shape", shape if gpu else "nano", *options]
        return Step(name, seconds, ["env", "TORCHINDUCTOR_COMPILE_THREADS=4", *command, *turns, *files])

    def tests(name: str, seconds: int, *which: str) -> Step:
        many = [] if gpu else ["-k", "rope and output and not recorded"]
        pytest = [PYTHON, "-m", "pytest", "-m", "gpu", "-n", "16" if gpu else "0", "--durations", "20", *which, *many]
        return Step(name, seconds, ["env", "OMP_NUM_THREADS=1", *pytest])

    def bank(name: str, seconds: int) -> Step:
        """As many runs of the bank as the time allows, seventeen at once; RoPE's, scored under every extension, take
        longest and begin at once."""
        sweep = [PYTHON, "train.py", "-m", "experiment=standard", "logger=none", f"runs={folder / 'runs'}"]
        sweep += ["hydra/launcher=processes", "trainer.threads=1"]
        at_once = "hydra.launcher.n_jobs"
        if gpu:
            seeds = f"seed={','.join(map(str, SEEDS))}"
            others = ",".join(sorted({*catalogue()} - {*EXTENDED}))
            which = (
                [seeds, f"encoding={','.join(EXTENDED)}", "eval.extensions=[all]", "sweep=rope", f"{at_once}=3"],
                [seeds, f"encoding={others}", "sweep=others", f"{at_once}=14"],
            )
        else:
            small = ["training.tokens=2048", "eval.tokens=1024", "eval.windows=4", "trainer=cpu", "seed=0"]
            which = (
                [*small, "encoding=rope", "sweep=rope", f"{at_once}=1"],
                [*small, "encoding=none,alibi", "sweep=others", f"{at_once}=1"],
            )
        one, other = (shlex.join([*sweep, *each]) for each in which)
        both = f"{one} & first=$!; {other}; code=$?; wait $first || code=$?; exit $code"
        shared = f"{MPS} -d\n{{sweeps}}\ncode=$?\necho quit | {MPS}\nexit $code" if shutil.which(MPS) else "{sweeps}"
        return Step(
            name, seconds, ["sh", "-c", shared.format(sweeps=f"timeout {seconds - 20} sh -c {shlex.quote(both)}")]
        )

    ways = "bf16,bf16 recorded,bf16 compiled,bf16 compiled recorded" if gpu else "bf16"
    compiled = ("--settings", "bf16 compiled" if gpu else "bf16")
    peers = ("--peers", "nanogpt;x-transformers rotary, sdpa")
    return [
        train("default", 60, "trainer.compile=false"),
        bank("bank", 420),
        tests("laws", 150, "tests/test_cuda_runs.py", "tests/test_cuda.py"),
        *(
            benchmark(f"long-{length}", 60, "evaluation", "tiny", "--length", str(length), "--encodings", BIASED)
            for length in ((65536, 262144) if gpu else (128, 256))
        ),
        benchmark("tiny", 180, "encodings", "tiny", "--batch", "8", "--encodings", "none,rope,t5", "--settings", ways),
        benchmark("gpt2-flex", 240, "encodings", "gpt2", "--encodings", "none,t5,fire", *compiled),
        benchmark("gpt2", 110, "peers", "gpt2", "--encodings", "none,rope,alibi,fox", *compiled, *peers),
        train("compiled", 90, "trainer.compile=true", "seed=1"),
        benchmark("attention", 120, "attention", "gpt2", *compiled),
    ]


def carry_out(step: Step, folder: Path) -> dict[str, str | float]:
    """How a step ended: ok, failed, or ended at its limit, all of its processes with it."""
    begin = time.monotonic()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen(step.command, start_new_session=True, **streams)

    def end() -> None:
        with suppress(ProcessLookupError):  # all of its processes have ended
            os.killpg(process.pid, signal.SIGKILL)

    limit = threading.Timer(step.seconds, end)
    limit.start()
    with open(folder / f"{step.name}.log", "w", encoding="utf-8", buffering=1) as log:
        for line in process.stdout:
            log.write(f"{time.monotonic() - begin:6.1f} s  {line}")
    code, over = process.wait(), limit.finished.is_set()
    limit.cancel()
    end()
    seconds = round(time.monotonic() - begin, 1)
    ended = (
        "ok" if code == 0 else f"ended at its limit of {step.seconds} s" if over else f"failed with exit code {code}"
    )
    return {"step": step.name, "ended": ended, "seconds": seconds}


def main(arguments: list[str]) -> int:
    """0 where every step is ok, else 1."""
    where, options = folder_and_options(arguments, __doc__, known=("steps", "device"))
    folder = Path(where).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    known = steps(folder, gpu=options.get("device", "gpu") == "gpu")
    wanted = options["steps"].split(",") if "steps" in options else [step.name for step in known]
    if unknown := set(wanted) - {step.name for step in known}:
        raise ValueError(f"steps={','.join(unknown)}: must be among {', '.join(step.name for step in known)}")
    done = []
    for step in known:
        if step.name in wanted:
            done.append(carry_out(step, folder))
            print(f"{step.name}: {done[-1]['ended']}, {done[-1]['seconds']} s", flush=True)
            write_table(folder / "steps.csv", done)
    return int(any(row["ended"] != "ok" for row in done))


if __name__ == "__main__":
    end_with(main)
