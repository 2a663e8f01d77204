"""Checkpoints: written atomically and of finite numbers alone, checked when read, the two newest kept and those asked
for, plain tensors only (weights_only). Beside each stands its digest, and the hash of the run that it is of."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.signals import Interrupted, asked, listen
from model.training.language_model import DivergedError

SCHEMA = 1
RUN = "trainshort_run"  # in a checkpoint: the hash of the run that it is of
KEEP = 2
SIGNAL_STEPS = 10  # several processes ask one another for signals every so many steps: asking makes them wait


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames: a reader sees a whole file or none.

    Raises OSError, with the remedy, where it can't.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        path = Path(path)
        partial = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _opened_anew(partial) as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            run = checkpoint.get(RUN, "")
            _write_flushed(digest_path(path), f"{digest(partial, run)} {run}")
            os.replace(partial, path)
            _flush_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            with suppress(OSError):  # on a disk that takes no change, this one neither
                partial.unlink(missing_ok=True)
            raise OSError(
                f"{path} could not be written ({error}): make room or give rights there; the checkpoint before it is "
                "whole, and the same command goes on from it"
            ) from error

    def load_checkpoint(self, path, map_location=None, weights_only=True):
        return read(path)


def _opened_anew(path: Path) -> BinaryIO:
    """A new file in the place of what stands there, never what a link there leads to."""
    path.unlink(missing_ok=True)
    return open(path, "xb")


def _write_flushed(path: Path, text: str) -> None:
    with _opened_anew(path) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Makes the names in a folder last, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> dict:
    """What a checkpoint holds, on the CPU: tensors and plain values. Raises ValueError for anything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is no checkpoint of this program, or damaged ({reason}): train the run anew by force=true"
        ) from None


def digest(path: Path, run: str = "") -> str:
    """SHA-256 of a file's bytes, followed by the hash of a run; hexadecimal."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256")
    found.update(run.encode())
    return found.hexdigest()


def digest_path(path: Path) -> Path:
    """Where a checkpoint's digest stands, and after it the run's hash."""
    return path.with_suffix(".sha256")


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.ckpt"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None. A damaged one is passed over with a warning, for the one before it."""
    for path in checkpoints(folder):
        if is_whole(path):
            return path
        warnings.warn(f"checkpoint {path} is damaged: it is passed over for the one before", stacklevel=2)
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint, and what stands beside it, are as they were written."""
    sidecar = digest_path(path)
    if not (path.is_file() and sidecar.is_file()):
        return False
    written, *run = sidecar.read_text(encoding="utf-8", errors="replace").split() or [""]
    return written == digest(path, *run[:1])


def run_of(path: Path) -> str | None:
    """The hash of the run that a whole checkpoint is of; None where it doesn't say."""
    return next(iter(digest_path(path).read_text(encoding="utf-8").split()[1:]), None)


def checkpoint_step(path: Path) -> int:
    """The optimizer steps after which a checkpoint was written."""
    return int(path.stem.removeprefix("step-"))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The transformer's weights in a checkpoint. Raises ValueError for another version's."""
    content = read(path)
    check_schema(content, path)
    prefix = "transformer."
    return {key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)}


def check_schema(content: dict, path: Path | str = "the checkpoint") -> None:
    """Raises ValueError where a checkpoint was not written by this version of the format."""
    if (found := content.get("trainshort_schema")) != SCHEMA:
        raise ValueError(
            f"{path} is a checkpoint of version {found}, this program reads version {SCHEMA}: "
            "train the run anew, by its own command with force=true, or use the program that wrote it"
        )


class Checkpoint(L.Callback):
    """Saves every `every` steps, at the end, and when a signal asks to stop, and keeps the newest two; also after the
    steps `kept`, which stay. A step that is validated is saved after its validation, so that a run that goes on has its
    figures too. run: the hash of the run."""

    def __init__(self, folder: Path, every: int, run: str, kept: Collection[int] = ()):
        self.folder, self.every, self.run, self.kept = folder, every, run, kept
        self.saved_step = -1

    def on_train_start(self, trainer, module):
        listen()  # Lightning has taken SIGTERM
        if trainer.world_size == 1 and asked():
            raise Interrupted(asked())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        validated = trainer.fit_loop.epoch_loop.batch_progress.total.ready % trainer.val_check_batch == 0
        validated |= trainer.should_stop  # the last step
        if not (trainer.fit_loop._should_accumulate() or validated):
            self._save_where_due(trainer, module)

    def on_validation_end(self, trainer, module):
        self._save_where_due(trainer, module)

    def on_train_end(self, trainer, module):
        if trainer.global_step != self.saved_step:
            self._save(trainer, module)

    def _save_where_due(self, trainer, module):
        signum = asked()
        if trainer.world_size > 1 and trainer.global_step % SIGNAL_STEPS:
            signum = 0
        elif trainer.world_size > 1:  # a signal may have reached one process alone
            signum = int(trainer.strategy.reduce(torch.tensor(signum, device=module.device), reduce_op="max"))
        if trainer.global_step % self.every == 0 or trainer.global_step in self.kept or signum:
            self._save(trainer, module)
        if signum:
            raise Interrupted(signum)

    def _save(self, trainer, module):
        module.check_finite()
        self._check_state(trainer, module)
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(checkpoint_path(self.folder, trainer.global_step))
        if trainer.is_global_zero:
            for path in checkpoints(self.folder)[KEEP:]:
                if checkpoint_step(path) not in self.kept:
                    path.unlink(missing_ok=True)
            whole = {digest_path(path) for path in checkpoints(self.folder)}
            for path in {*self.folder.glob("*.sha256"), *self.folder.glob("*.partial")} - whole:
                path.unlink(missing_ok=True)  # of checkpoints that are gone, and of a process killed while it wrote

    def _check_state(self, trainer, module):
        """Raises DivergedError where the weights or the optimizer's state are not finite, on all devices or none."""
        held = [*module.parameters(), *(value for each in trainer.optimizers for value in _state(each))]
        local = [value.to_local() if isinstance(value, DTensor) else value for value in held]
        finite = torch.stack([value.detach().isfinite().all().to(module.device) for value in local]).all()
        if not module.all_gather(finite).all():
            before = next(map(checkpoint_step, checkpoints(self.folder)), None)
            raise DivergedError(
                f"the weights or the optimizer's state are not finite after step {trainer.global_step}, so they are "
                f"not saved ({f'the checkpoint of step {before}' if before else 'no checkpoint'} stands before them): "
                f"{module.advice}"
            )

    def on_save_checkpoint(self, trainer, module, checkpoint):
        checkpoint["trainshort_schema"] = SCHEMA
        checkpoint[RUN] = self.run

    def on_load_checkpoint(self, trainer, module, checkpoint):
        check_schema(checkpoint)


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What an optimizer keeps of each parameter."""
    return [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)]
