"""The Lightning trainer of a run: device, precision, callbacks; and the meter that measures it."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from model.build import build_transformer, training_steps
from model.devices import out_of_memory, rank, uses_gpu
from model.training.checkpoint import AtomicCheckpointIO, Checkpoint, load_weights, newest


def fit(config: Mapping[str, Any], module: L.LightningModule, data: L.LightningDataModule, folder: Path, meter: Meter):
    """Trains the module, from the newest checkpoint of folder/checkpoints where there is one; leaves it on its device.

    Raises MemoryError, with the remedy, where memory runs out.
    """
    trainer = build_trainer(config, folder, meter)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=newest(folder / "checkpoints"), weights_only=True)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        training = config["training"]
        raise MemoryError(
            f"out of memory with training.batch_size={training['batch_size']} (training.accumulate="
            f"{training['accumulate']}) and context={config['context']}: raise training.accumulate, which keeps the "
            "batch, or shorten the context, or choose a smaller model"
        ) from error
    if isinstance(trainer.strategy, FullyShardedStrategy):
        module.transformer = build_transformer(config, data.vocab_size, data.separators)
        module.transformer.load_state_dict(load_weights(newest(folder / "checkpoints")))
    module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU


def build_trainer(config: Mapping[str, Any], folder: Path, meter: Meter) -> L.Trainer:
    """The trainer of a run's configuration; checkpoints go to folder/checkpoints."""
    training, settings = config["training"], dict(config["trainer"])
    steps = training_steps(config)
    every = {}
    for key in ("validate_every", "checkpoint_every"):
        if not 0 < training[key] <= 1:
            raise ValueError(f"training.{key}={training[key]}: a share of the run, must lie in (0, 1]")
        every[key] = max(1, round(training[key] * steps))
    for key in ("name", "compile", "threads"):
        settings.pop(key)
    settings["precision"] = choose_precision(settings["precision"], settings["accelerator"])
    if settings["strategy"] == "fsdp":
        settings["strategy"] = FullyShardedStrategy(settings["devices"] * settings["num_nodes"])
    return L.Trainer(
        **settings,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=training["accumulate"],
        val_check_interval=every["validate_every"] * training["accumulate"],
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[
            RandomNumbers(config["seed"]),
            meter,
            Checkpoint(folder / "checkpoints", every["checkpoint_every"]),
        ],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=training["log_every"],
        default_root_dir=folder,
    )


class FullyShardedStrategy(ModelParallelStrategy):
    """Parameters, gradients and optimizer state in shards over the devices (FSDP), GPUs or CPUs; checkpoints are single
    files, as without it."""

    def __init__(self, devices: int):
        super().__init__(data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False)


class RandomNumbers(L.Callback):
    """The random numbers of a step (dropout's) are a function of the seed, the step and the device: a run that goes on
    draws what one that was never stopped does, and no job of a sweep depends on those before it."""

    def __init__(self, seed: int):
        self.seed = seed
        self.step = -1

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            entropy = np.random.SeedSequence([self.seed, self.step, trainer.global_rank])
            drawn = int(entropy.generate_state(1, np.uint64)[0])
            torch.default_generator.manual_seed(drawn)  # torch.manual_seed asks every kind of device there is: 2 ms
            if module.device.type == "cuda":
                torch.cuda.manual_seed(drawn)


def choose_precision(precision: str, accelerator: str) -> str:
    """Lightning's name of the precision; "auto" is bfloat16 (mixed) where the device computes in it, else float32."""
    if precision in ("16", "16-mixed", "16-true"):  # its gradients are scaled, and clipped before they are scaled back
        raise ValueError(f"trainer.precision={precision}: float16 is not supported; use bf16-mixed or 32-true")
    if precision != "auto":
        return precision
    if uses_gpu(accelerator):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def prepare_process(threads: int | None) -> None:
    """Settings of the whole process: CPU threads, nothing compiled for another job, and no page faults.

    torch.compile keeps what it compiled, and gives up compiling after a few models: a sweep's jobs share a process.
    glibc hands large blocks back to the system at every free and faults them in again at every allocation; keeping
    them made training on CPU 1.2 to 1.3 times faster.
    """
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process; the first one speaks for all
    if threads is not None:
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"trainer.threads={threads!r}: must be a whole number from 1, or null")
        torch.set_num_threads(threads)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")  # its advice on workers, loggers and pytrees
    if sys.platform == "linux" and not os.environ.get("LD_PRELOAD"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def forget_peak_memory() -> None:
    """Lets `peak_memory` begin anew: jobs of one process don't inherit one another's."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to what is held now


def peak_memory() -> int:
    """Most bytes held since `forget_peak_memory`: on the GPU where there is one in use, else by this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


class Meter(L.Callback):
    """Measures a training run, shows its progress, and reports points of its curve.

    report: called with each point, a dict of step, tokens, seconds, loss, lr, tokens_per_second or val_loss.
    A terminal gets a progress bar, anything else a line now and then. The curve is part of the checkpoint.
    """

    def __init__(self, config: Mapping[str, Any], steps: int, report=lambda point: None):
        self.tokens_a_step = config["training"]["batch_size"] * config["context"]
        self.steps, self.every, self.report = steps, config["training"]["log_every"], report
        self.prefix = f"{config['run_id']}: " if config.get("sweep") else ""  # a sweep's jobs may run side by side
        self.curve: list[dict[str, float]] = []
        self.seconds = 0.0
        self._pending = 0.0, 0  # sum and number of the losses since the last point, as a checkpoint holds them
        self.bar = None

    def on_train_start(self, trainer, module):
        forget_peak_memory()
        self._reduce = trainer.strategy.reduce
        self._mark = time.perf_counter()
        self._marked_step = trainer.global_step
        loss_sum, self._losses = self._pending
        self._loss_sum = torch.tensor(loss_sum, device=module.device)
        if trainer.is_global_zero and sys.stdout.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.steps, initial=trainer.global_step, unit="step", dynamic_ncols=True)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self._loss_sum += outputs["loss"].detach().float() * trainer.accumulate_grad_batches
        self._losses += 1
        step = trainer.global_step
        if trainer.fit_loop._should_accumulate() or (step % self.every and step != self.steps):
            return
        module.check_finite()
        loss = self._mean_sum() / self._losses
        seconds = time.perf_counter() - self._mark
        self.seconds += seconds
        point = {
            "step": step,
            "tokens": step * self.tokens_a_step,
            "seconds": self.seconds,
            "loss": loss,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "tokens_per_second": (step - self._marked_step) * self.tokens_a_step / seconds,
        }
        self._add(trainer, point)
        self._loss_sum.zero_()
        self._losses, self._marked_step = 0, step
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix_str(f"loss {loss:.3f}, {point['tokens_per_second']:,.0f} tokens/s")
        elif trainer.is_global_zero and (len(self.curve) == 1 or step % (5 * self.every) == 0 or step == self.steps):
            rate = f"{point['tokens_per_second']:,.0f} tokens/s"
            whole = self.seconds + (self.steps - step) * self.tokens_a_step / point["tokens_per_second"]
            known = step < self.steps and step > self.every  # the first steps include what is done once: compilation
            spent = f"{self.seconds:.0f} s" + (f" of about {whole:.0f} s" if known else "")
            print(f"{self.prefix}step {step}/{self.steps}  loss {loss:.3f}  {rate}  {spent}", flush=True)
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer, module):
        """Validation's time is not training's."""
        step = trainer.global_step
        loss = float(trainer.callback_metrics["val/loss"])
        self._add(trainer, {"step": step, "tokens": step * self.tokens_a_step, "val_loss": loss})
        self._mark += time.perf_counter() - self._validation_start

    def on_validation_start(self, trainer, module):
        self._validation_start = time.perf_counter()

    def on_train_end(self, trainer, module):
        if self.bar is not None:
            self.bar.close()

    def _add(self, trainer, point):
        self.curve.append(point)
        if trainer.is_global_zero:
            self.report(point)

    def _mean_sum(self) -> float:
        """The sum of the losses since the last point, the mean over the devices: all of them must ask."""
        return float(self._reduce(self._loss_sum.clone(), reduce_op="mean"))

    def state_dict(self):
        return {
            "curve": self.curve,
            "seconds": self.seconds + time.perf_counter() - self._mark,
            "pending": (self._mean_sum(), self._losses),
        }

    def load_state_dict(self, state):
        self.curve, self.seconds, self._pending = state["curve"], state["seconds"], state["pending"]

    def summary(self) -> dict[str, float]:
        """tokens trained on, seconds, the median training speed (tokens/s), last losses (nats), peak memory (bytes)."""
        speeds = sorted(p["tokens_per_second"] for p in self.curve if "tokens_per_second" in p)
        validations = [p["val_loss"] for p in self.curve if "val_loss" in p]
        losses = [p["loss"] for p in self.curve if "loss" in p]
        return {
            "tokens": self.steps * self.tokens_a_step,
            "steps": self.steps,
            "seconds": self.seconds,
            "tokens_per_second": speeds[len(speeds) // 2] if speeds else float("nan"),
            "loss": losses[-1] if losses else float("nan"),
            "val_loss": validations[-1] if validations else float("nan"),
            "peak_memory": peak_memory(),
        }
