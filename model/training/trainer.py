"""The Lightning trainer of a run: device, precision, callbacks."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from conf.schema import Settings, TrainerSettings
from model.build import build_transformer
from model.devices import available_cores, bf16_kernels, bf16_unit, rank, uses_gpu, within_memory
from model.kernels import widen_products
from model.signals import deferred
from model.training.checkpoint import AtomicCheckpointIO, Checkpoint, load_weights, newest
from model.training.meter import Meter

SHORT = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}  # what Lightning takes them for


def fit(
    settings: Settings, module: L.LightningModule, data: L.LightningDataModule, folder: Path, meter: Meter, run: str
) -> None:
    """Trains the module, from the newest checkpoint of folder/checkpoints where there is one; leaves it on its device.
    run: the hash of the run, which its checkpoints carry.

    Raises MemoryError, with the remedy, where memory runs out.
    """
    trainer, training = build_trainer(settings, folder, meter, run), settings.training
    remedy = (
        f"with training.batch_size={training.batch_size} (training.accumulate={training.accumulate}) and context="
        f"{settings.context}: raise training.accumulate, which keeps the batch, or shorten the context, or choose a "
        "smaller model"
    )
    with within_memory(remedy), deferred():
        trainer.fit(module, datamodule=data, ckpt_path=newest(folder / "checkpoints"), weights_only=True)
    restore(settings, module, data, folder)


def restore(settings: Settings, module: L.LightningModule, data: L.LightningDataModule, folder: Path) -> None:
    """Gives a module the weights of its last checkpoint, whole and in float32 whatever they were trained in, on the
    device of the run: what is scored now is what is scored when the run is loaded again."""
    module.transformer = build_transformer(settings, data.vocab_size, data.separators)
    module.transformer.load_state_dict(load_weights(newest(folder / "checkpoints")))
    module.to("cuda" if uses_gpu(settings.trainer.accelerator) else "cpu", torch.float32)


def build_trainer(settings: Settings, folder: Path, meter: Meter, run: str = "") -> L.Trainer:
    """The trainer of a run; checkpoints, which say its hash, go to folder/checkpoints."""
    training, machine = settings.training, settings.trainer
    strategy = machine.strategy
    if strategy == "fsdp":
        strategy = FullyShardedStrategy(machine.devices * machine.num_nodes)
    return L.Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.num_nodes,
        strategy=strategy,
        precision=choose_precision(machine).name,
        max_steps=settings.steps,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate,
        val_check_interval=_steps_of(training.validate_every, settings.steps) * training.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[
            RandomNumbers(settings.seed, settings.stage.steps if settings.stage else 0),
            LastValidation(),
            meter,
            Checkpoint(
                folder / "checkpoints",
                every=_steps_of(training.checkpoint_every, settings.steps),
                kept={_steps_of(share, settings.steps) for share in training.keep},
                run=run,
            ),
        ],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=training.log_every,
        default_root_dir=folder,
    )


def _steps_of(share: float, steps: int) -> int:
    """The steps of a share of the run, at least one."""
    return max(1, round(share * steps))


class FullyShardedStrategy(ModelParallelStrategy):
    """Parameters, gradients and optimizer state in shards over the devices (FSDP), GPUs or CPUs; checkpoints are single
    files, as without it."""

    def __init__(self, devices: int):
        super().__init__(data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False)


class LastValidation(L.Callback):
    """The last step is validated, too, whatever the steps between validations: what a run is chosen by is its end."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        trainer.should_stop = trainer.global_step == trainer.max_steps  # Lightning validates before it stops


class RandomNumbers(L.Callback):
    """The random numbers of a step (dropout's) are a function of the seed, the step and the device: a run that goes on
    draws what one that was never stopped does, and no job of a sweep depends on those before it. before: the steps of
    the runs before a second stage, whose numbers it doesn't draw again."""

    def __init__(self, seed: int, before: int = 0):
        self.seed, self.before = seed, before
        self.step = -1

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            entropy = np.random.SeedSequence([self.seed, self.before + self.step, trainer.global_rank])
            drawn = int(entropy.generate_state(1, np.uint64)[0])
            torch.default_generator.manual_seed(drawn)  # torch.manual_seed asks every kind of device there is: 2 ms
            if module.device.type == "cuda":
                torch.cuda.manual_seed(drawn)


class Precision(NamedTuple):
    """name: Lightning's full one. reason: why it was chosen."""

    name: str
    reason: str


def choose_precision(trainer: TrainerSettings) -> Precision:
    """The precision of a training; "auto" is bf16-mixed where the device has a unit for it, else 32-true."""
    gpu = uses_gpu(trainer.accelerator)
    if trainer.precision != "auto":
        name = SHORT.get(trainer.precision, trainer.precision)
        widened = name.startswith("bf16") and not gpu and not bf16_kernels()
        return Precision(name, f"as set{'; products go through float32, and are rounded' * widened}")
    unit = bf16_unit(gpu)
    return Precision("bf16-mixed", f"by {unit}") if unit else Precision("32-true", "nothing here computes in bf16")


def prepare_process(threads: int | None) -> None:
    """Settings of the whole process: CPU threads, nothing compiled for another job, quick products in bf16, and no page
    faults.

    torch.compile keeps what it compiled, and gives up compiling after a few models: a sweep's jobs share a process.
    glibc hands large blocks back to the system at every free and faults them in again at every allocation; keeping
    them made training on CPU 1.2 to 1.3 times faster.
    """
    if rank():
        silence = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process
        sys.stdout = silence  # the first one speaks for all
    if threads is not None or torch.get_num_threads() > available_cores():
        torch.set_num_threads(threads or available_cores())
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if not bf16_kernels():
        widen_products()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")  # its advice on workers, loggers and pytrees
    if sys.platform == "linux" and not os.environ.get("LD_PRELOAD"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
