"""The meter of a training run: its speed, its curve, its peak memory, and what the terminal shows of it meanwhile."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch.distributed.tensor import DTensor

from conf.progress import written_over
from conf.schema import Settings
from model.devices import BUSY, Load, available_cores, waits_asleep

LONG = 5.0  # seconds between two points of the curve, from which on it is worth while to say what takes so long


def forget_peak_memory() -> None:
    """Lets `peak_memory` begin anew: jobs of one process don't inherit one another's."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # proc(5): resets VmHWM to what is held now


def peak_memory() -> int:
    """Most bytes held since `forget_peak_memory`: on the GPU where there is one in use, else by this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


class Meter(L.Callback):
    """Measures a training run, shows its progress, and reports points of its curve.

    report: called with each point, a dict of step, tokens (with those before a second stage), seconds, loss, lr,
    grad_norm (before clipping), tokens_per_second, of a context that grows also context (the last step's, in tokens),
    or val_loss; those of a checkpoint are reported again.
    A terminal gets a progress bar, anything else, and jobs side by side, a line now and then. The curve is part of the
    checkpoint.
    """

    def __init__(self, settings: Settings, report=lambda point: None):
        self.context, self.schedule = settings.context, settings.training.context_schedule
        self.tokens_a_step = settings.training.batch_size * settings.context
        self.tokens_before = settings.stage.tokens if settings.stage else 0
        self.steps, self.every, self.report = settings.steps, settings.training.log_every, report
        self.prefix = f"{settings.run_id}: " if settings.sweep else ""  # a sweep's jobs may run side by side
        self.curve: list[dict[str, float]] = []
        self.seconds = 0.0
        self._pending = 0.0, 0  # sum and number of the losses since the last point, as a checkpoint holds them
        self.bar = None
        self._said = False

    def on_train_start(self, trainer, module):
        forget_peak_memory()
        self._reduce = trainer.strategy.reduce
        self._mark = time.perf_counter()
        self._marked_step = trainer.global_step
        self._load = Load()
        loss_sum, self._losses = self._pending
        self._loss_sum = torch.tensor(loss_sum, device=module.device)
        if trainer.is_global_zero and written_over():
            columns = ("{task.percentage:>3.0f} %", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            plain = Console(file=getattr(sys.stdout, "stream", sys.stdout))  # a command's stdout lets no cursor move
            self.bar = Progress(
                *columns, "{task.description}", console=plain, auto_refresh=False, speed_estimate_period=600
            )
            self.bar.add_task("", total=self.steps, completed=trainer.global_step)
            self.bar.start()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self._loss_sum += outputs["loss"].detach().float() * trainer.accumulate_grad_batches
        self._losses += 1
        step = trainer.global_step
        if trainer.fit_loop._should_accumulate() or (step % self.every and step != self.steps):
            return
        module.check_finite()
        loss = self._mean_sum() / self._losses
        norm = module.grad_norm
        seconds = time.perf_counter() - self._mark
        self.seconds += seconds
        point = {
            "step": step,
            "tokens": self.tokens_before + step * self.tokens_a_step,
            "seconds": self.seconds,
            "loss": loss,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "grad_norm": float(norm.full_tensor() if isinstance(norm, DTensor) else norm),  # FSDP's is in parts
            "tokens_per_second": (step - self._marked_step) * self.tokens_a_step / seconds,
        }
        if self.schedule.kind is not None:
            point["context"] = self.schedule.width(step - 1, self.steps, self.context)
        self._add(trainer, point)
        self._loss_sum.zero_()
        self._losses, self._marked_step = 0, step
        if self.bar is not None:
            shown = f"loss {loss:.3f}, {point['tokens_per_second']:,.0f} tokens/s"
            self.bar.update(self.bar.task_ids[0], completed=step, description=shown, refresh=True)
        elif trainer.is_global_zero and (len(self.curve) == 1 or step % (5 * self.every) == 0 or step == self.steps):
            rate = f"{point['tokens_per_second']:,.0f} tokens/s"
            whole = self.seconds + (self.steps - step) * self.tokens_a_step / point["tokens_per_second"]
            known = step < self.steps and step > self.every  # the first steps include what is done once: compilation
            spent = f"{self.seconds:.0f} s" + (f" of about {whole:.0f} s" if known else "")
            print(f"{self.prefix}step {step}/{self.steps}  loss {loss:.3f}  {rate}  {spent}", flush=True)
        self._look_around(trainer, module, seconds)
        self._mark = time.perf_counter()

    def _look_around(self, trainer, module, seconds: float) -> None:
        """Says once where others have come to keep cores busy that this training's threads wait for, spinning."""
        others = self._load.others()
        spinning = module.device.type == "cpu" and torch.get_num_threads() > 1 and not waits_asleep()
        if trainer.is_global_zero and spinning and others >= BUSY and seconds >= LONG and not self._said:
            self._said = True
            print(
                f"{self.prefix}others keep {others:.1f} of {available_cores()} cores busy, and threads that wait for "
                "one another lose much by it: stop (Ctrl-C) and give the same command again, which then goes on with "
                "threads that wait asleep",
                flush=True,
            )

    def on_validation_end(self, trainer, module):
        """Validation's time is not training's."""
        step = trainer.global_step
        loss = float(trainer.callback_metrics["val/loss"])
        self._add(trainer, {"step": step, "tokens": self.tokens_before + step * self.tokens_a_step, "val_loss": loss})
        self._mark += time.perf_counter() - self._validation_start

    def on_validation_start(self, trainer, module):
        self._validation_start = time.perf_counter()

    def on_train_end(self, trainer, module):
        if self.bar is not None:
            self.bar.stop()

    def on_exception(self, trainer, module, exception):
        self.on_train_end(trainer, module)

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
        for point in self.curve:
            self.report(point)

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
