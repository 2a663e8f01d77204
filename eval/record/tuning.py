"""The learning rate of each encoding, chosen on validation at the training length alone: a fair start for all.

Trials are runs of their own, under `tuning` in the sweep's folder: every seed of an encoding shares them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval.record.folder import run_folder
from eval.record.identity import run_id
from model.training.language_model import LossNotFiniteError


def tuned(config: Mapping[str, Any], train: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The configuration with training.lr as the trials chose it, or as it is where `tuning` is null.

    Each rate of tuning.lr is trained with seed tuning.seed and scored on validation only; the lowest validation loss
    wins. Trials that are finished are not run again. Raises ValueError where no trial came to an end.
    """
    chosen = copy.deepcopy(dict(config))
    if not chosen["tuning"]:
        return chosen
    tuning = chosen["tuning"]
    if not isinstance(tuning, dict) or tuning.keys() != {"lr", "seed"}:
        raise ValueError(f"tuning={tuning}: must have lr, a list of learning rates, and seed: use experiment=fair")
    rates = tuning["lr"]
    if (
        not isinstance(rates, list)
        or not rates
        or not all(isinstance(rate, float | int) and rate > 0 for rate in rates)
    ):
        raise ValueError(f"tuning.lr={rates}: must be a list of learning rates, such as [1e-3, 3e-3]")
    losses = {rate: _trial(config, rate, train) for rate in rates}
    finite = {rate: loss for rate, loss in losses.items() if loss is not None}
    if not finite:
        raise ValueError(f"tuning.lr={list(losses)}: no rate gave a finite loss; try lower ones")
    chosen["training"]["lr"] = min(finite, key=finite.get)
    edge = " (at the edge of the grid)" if chosen["training"]["lr"] in (min(losses), max(losses)) else ""
    shown = ", ".join(f"{rate:g}: {'failed' if loss is None else f'{loss:.4f}'}" for rate, loss in losses.items())
    print(f"{config['run_id']}: training.lr={chosen['training']['lr']:g}{edge}; validation loss by rate: {shown}")
    return chosen


def _trial(config: Mapping[str, Any], rate: float, train: Callable[[dict[str, Any]], None]) -> float | None:
    """Validation loss (nats) of one rate, None where training failed."""
    trial = copy.deepcopy(dict(config))
    trial["seed"] = config["tuning"]["seed"]
    trial["training"]["lr"] = rate
    trial["eval"] |= {"protocols": [], "probes": [], "lengths": [1], "split": "validation"}
    trial["tuning"] = None
    trial["logger"] = {"name": "none"}
    trial["sweep"] = str(Path(config["sweep"] or "") / "tuning")
    trial["run_id"] = run_id(trial)
    try:
        train(trial)
    except LossNotFiniteError as error:
        print(f"{trial['run_id']}: {error}")
        return None
    return run_folder(trial).results["training"]["val_loss"]
