"""Trains and scores a finished run again, in a temporary folder, and compares what came out.

    python -m scripts.reproduce RUN [cache_dir=DIR] [num_workers=N]

RUN is a run's folder. Compared are everything in results.json but times, speeds, memory and where it was made, and each
token's loss in losses.npz; what differs is printed, a line each. Exit code 0: all is the same; 1: something differs, or
the run can't be made again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conf.schema import LoggerSettings
from eval.measure.rows import row_key
from eval.record.folder import OF_LOSSES, RunFolder
from eval.record.jobs import FAILED
from eval.record.trained import check_files
from scripts.command import end_with, folder_and_options, number
from train import train

USAGE = "usage: python -m scripts.reproduce RUN [cache_dir=DIR] [num_workers=N]"
TIMINGS = {"seconds", "tokens_per_second", "peak_memory"}
KINDS = {"probe_settings": "probes"}  # whose keys others have too
MADE_IN = {"commit", "machine", "versions", "sweep", "others", "curve_hash", "tokenizer_file"}


def main(arguments: list[str]) -> int:
    folder, options = folder_and_options(arguments, USAGE, {"cache_dir", "num_workers"})
    old = RunFolder(folder)
    settings = old.settings
    if not old.finished:
        raise ValueError(
            f"{old.path} is not finished ({old.status['state']}), so there is nothing to compare with yet: give the "
            "run's own command again"
        )
    old.check()
    if settings.trainer.devices != 1 or settings.trainer.num_nodes != 1:
        raise ValueError(f"{old.path} was trained on several devices: give its own command again, with another runs=")
    check_files(old)
    elsewhere = {"cache_dir": options.get("cache_dir", settings.cache_dir)}
    elsewhere["num_workers"] = number("num_workers", options.get("num_workers", settings.num_workers), int)
    with tempfile.TemporaryDirectory() as runs:
        again = replace(settings, **elsewhere, runs=runs, sweep=None, logger=LoggerSettings("none"))
        train(again)
        new = RunFolder.of(again)
        later = scored_later(old, new)
        found = list(differences(compared(old, later), compared(new, later)))
        made_in = [name for name in ("commit", "machine", "versions") if old.results[name] != new.results[name]]
    print(*found, sep="\n", end="\n" if found else "")
    if count := sum(map(len, later.values())):
        print(f"not compared: {count} that `python -m eval` scored later, with settings of its own")
    if made_in:
        print(f"made with another {', '.join(made_in)} than now")
    print(f"{old.path}: {f'{len(found)} differences' if found else 'the same again'}")
    return FAILED if found else 0


def made(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """What scoring has made, by kind and key, and the settings that tell whether two of one key ask for the same."""
    results = as_configured(folder)
    return {
        "rows": {row_key(row): row["targets_id"] for row in results["rows"]},
        "probes": results.get("probe_settings", {}),
        "retrieval": {row_key(row): row["targets_id"] for row in results.get("retrieval", [])},
        "tasks": {row_key(row): row["split"] for row in results.get("tasks", [])},
    }


def as_configured(folder: RunFolder) -> dict[str, Any]:
    """A run's results with the rows of the evaluation that its own configuration asks for."""
    settings = folder.settings
    return folder.shown_as(settings.eval.targets_key(settings.first_context))


def scored_later(old: RunFolder, new: RunFolder) -> dict[str, set[str]]:
    """By kind, the keys of what the old run's own configuration doesn't ask for, or not with these settings: what
    `python -m eval` has scored since."""
    asked = made(new)
    return {
        kind: {key for key, settings in own.items() if asked[kind].get(key) != settings}
        for kind, own in made(old).items()
    }


def compared(folder: RunFolder, left_out: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """What must come out again: results.json, its lists by their keys, and the losses."""
    results = {key: value for key, value in as_configured(folder).items() if key not in MADE_IN}
    by_key = {
        "rows": {row_key(row): row for row in results["rows"]},
        "probes": results.get("probes", {}),
        "probe_settings": results.get("probe_settings", {}),
        "retrieval": {row_key(row): row for row in results.get("retrieval", [])},
        "tasks": {row_key(row): row for row in results.get("tasks", [])},
    }
    kept = {
        name: {key: own for key, own in values.items() if key not in left_out[KINDS.get(name, name)]}
        for name, values in by_key.items()
    }
    rows = {key for kind in OF_LOSSES for key in kept[kind]}
    losses = {key: own for key, own in folder.losses.items() if key.removesuffix("/windows") in rows}
    return results | kept | {"losses": losses}


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """A line for each value that differs, timings aside: where it stands, what it was, what it is."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in TIMINGS:
                yield from differences(old.get(key), new.get(key), f"{place}/{key}" if place else key)
    elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        if old.shape != new.shape:
            yield f"{place}: {old.shape} values, now {new.shape}"
        elif not np.array_equal(old, new, equal_nan=True):
            yield f"{place}: {(old != new).sum()} of {old.size} values differ, by up to {np.abs(old - new).max():.3g}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{place}/{number}")
    elif not (type(old) is type(new) and old == new):
        yield f"{place}: {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    """A value in a line; of a large one, that it is there."""
    return str(value) if isinstance(value, str | int | float | None) else type(value).__name__


if __name__ == "__main__":
    end_with(main)
