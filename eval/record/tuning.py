"""The learning rate of each encoding, chosen on validation at the training length alone: a fair start for all.

Trials are runs of their own, under `tuning` in the sweep's folder: every seed of an encoding shares them. What they
came to stands in the results of the runs that it was chosen for, by rate, null where a trial failed:
{"tuning": {"seed": 1000, "val_loss": {"0.001": 1.5, "0.003": 1.4, "0.006": null}}}
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from conf.schema import LoggerSettings, Settings
from conf.typed import plain
from eval.record.folder import RunFolder
from eval.record.identity import run_id


def tuned(settings: Settings, train: Callable[[Settings], None]) -> Settings:
    """The settings with training.lr as the trials chose it, or as it is where `tuning` is null.

    Each rate of tuning.lr is trained with seed tuning.seed and scored on validation only; the lowest validation loss
    wins. Trials that are finished are not run again. Raises ValueError where no trial came to an end.
    """
    if settings.tuning is None:
        return settings
    losses = {rate: _trial(settings, rate, train) for rate in settings.tuning.lr}
    finite = {rate: loss for rate, loss in losses.items() if loss is not None}
    if not finite:
        raise ValueError(f"tuning.lr={list(losses)}: no rate gave a finite loss; try lower ones")
    best = min(finite, key=finite.get)
    tuning = {"seed": settings.tuning.seed, "val_loss": {str(rate): loss for rate, loss in losses.items()}}
    RunFolder.of(settings).update(tuning=tuning)
    edge = f" ({advice})" if (advice := widen(losses, best)) else ""
    shown = ", ".join(f"{rate:g}: {'failed' if loss is None else f'{loss:.4f}'}" for rate, loss in losses.items())
    print(f"{settings.run_id}: training.lr={best:g}{edge}; validation loss by rate: {shown}")
    return replace(settings, training=replace(settings.training, lr=best))


def widen(rates: Collection[float], chosen: float) -> str:
    """What to do where the chosen rate is the lowest or highest of its grid, so that a better one may lie beyond."""
    sides = ["lower"] * (chosen == min(rates)) + ["higher"] * (chosen == max(rates))
    return f"at the edge of the grid: add {' and '.join(sides)} rates to tuning.lr" if sides else ""


def _trial(settings: Settings, rate: float, train: Callable[[Settings], None]) -> float | None:
    """Validation loss (nats) of one rate, None where training failed."""
    from model.training.language_model import DivergedError  # seconds, and a report reads what trials came to

    trial = replace(
        settings,
        seed=settings.tuning.seed,
        training=replace(settings.training, lr=rate),
        eval=replace(settings.eval, protocols=[], probes=[], lengths=[1], split="validation"),
        tuning=None,
        logger=LoggerSettings("none"),
        sweep=str(Path(settings.sweep or "") / "tuning"),
    )
    trial = replace(trial, run_id=run_id(plain(trial)))
    try:
        train(trial)
    except DivergedError as error:
        print(f"{trial.run_id}: {error}")
        return None
    return RunFolder.of(trial).results["training"]["val_loss"]
