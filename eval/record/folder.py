"""What a run leaves on disk, and how it is read back.

A run's folder:
    config.json      the resolved configuration
    status.json      state (running, finished, failed, interrupted), stage, error
    results.json     schema version, provenance, training, rows (protocol, extension, context length)
    losses.npz       the scored tokens' losses of every row, float32, and the windows they stand in
    curve.csv        the training curve
    checkpoints/     the newest two
    wandb-id         W&B's id of the run
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from conf.schema import CONF, Settings
from conf.typed import plain, typed
from eval.measure.rows import PART, PLACE, Measured, Row, row_key
from eval.record.bounds import read_arrays
from eval.record.files import PARTIAL, read_json, write_atomic, write_json, write_table
from eval.record.identity import digest, identity
from model.devices import rank
from model.signals import last_words

SCHEMA = 1
WINDOW = ["start", "stop", "tokens", "document", "block"]  # the columns of losses.npz's "/windows"
WORDS = {  # for what a run's identity differs in
    "settings": "other settings",
    "source": "another source of its encoding or task",
    "files": "other files of its data or tokenizer",
}
PER_EVALUATION = ("rows", "probes", "probe_settings")  # of results.json
STATES = ("running", "finished", "failed", "interrupted")


class RunFolder:
    """One run on disk. To carry one out, `hold` the folder, and inside be `recording`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def of(cls, settings: Settings | DictConfig) -> RunFolder:
        """The folder of a run by its settings, or by the config that they could not be made of."""
        return cls(Path(settings.runs, settings.sweep or "", settings.run_id))

    @property
    def settings(self) -> Settings:
        """The run's settings, `placed_here`. Raises ValueError where the folder is no run, or its settings can't be
        read."""
        path = self.path / "config.json"
        if not path.exists():
            raise ValueError(f"{self.path} is not a run's folder: it has no config.json")
        values = read_json(path)
        try:
            return placed_here(typed(Settings, values), self.path)
        except ValueError as error:
            raise ValueError(f"{path} can't be read: {error}") from None

    @property
    def status(self) -> dict[str, Any]:
        """status.json; {"state": "missing"} where there is none, or none that can be read."""
        path = self.path / "status.json"
        if path.exists():
            try:
                return read_json(path)
            except ValueError as error:
                warnings.warn(str(error), stacklevel=2)
        return {"state": "missing"}

    @property
    def finished(self) -> bool:
        return self.status["state"] == "finished"

    def scored(self, asked: str) -> bool:
        """Whether the run has come to its end, and what it was scored by last is what is asked for."""
        status = self.status
        return status["state"] == "finished" and status.get("scored") == asked

    @property
    def trained(self) -> bool:
        """Whether it holds what training has made, to its end or in part."""
        return self.finished or any(self.checkpoints.glob("*.ckpt"))

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of results.json: a column a field, NaN where a row doesn't have it."""
        return pd.DataFrame(self.results["rows"], columns=None if self.results["rows"] else [*PLACE, "status"])

    @property
    def windows(self) -> pd.DataFrame:
        """`windows_of` the rows that the run shows."""
        return self.windows_of(self.results["rows"])

    def windows_of(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Every scored window of those of the rows that have figures, in their order: the row's key and place, where
        the window starts and stops in the stream, its document, block and scored tokens, and nats, the sum of their
        losses.

        Raises ValueError where a row's losses are missing.
        """
        losses = self.losses
        rows = [row for row in rows if row["status"] == "ok"]
        keys = [row_key(row) for row in rows]
        if lacking := [key for key in keys if key not in losses]:
            raise ValueError(f"{self.path / 'losses.npz'} lacks the losses of {lacking[0]}: score the run again")
        if not rows:
            return pd.DataFrame(columns=["key", *PLACE, *PART, *WINDOW, "nats"])
        tables = [losses[key + "/windows"] for key in keys]
        firsts = [np.cumsum(table[:, 2]) - table[:, 2] for table in tables]
        summed = [
            np.add.reduceat(losses[key].astype(np.float64), first) for key, first in zip(keys, firsts, strict=True)
        ]
        windows = pd.DataFrame(np.concatenate(tables), columns=WINDOW).assign(nats=np.concatenate(summed))
        places = pd.DataFrame(rows).reindex(columns=[*PLACE, *PART]).assign(key=keys)[["key", *PLACE, *PART]]
        places = places.loc[places.index.repeat([len(table) for table in tables])]
        return pd.concat([places.reset_index(drop=True), windows], axis=1)

    @property
    def curve(self) -> pd.DataFrame:
        """curve.csv: step, tokens, seconds, loss (nats a token), lr, grad_norm (before it was clipped),
        tokens_per_second and, at validations, val_loss;
        empty where there is none that can be read."""
        path = self.path / "curve.csv"
        try:
            return pd.read_csv(path, dtype=float, float_precision="round_trip") if path.exists() else pd.DataFrame()
        except ValueError:
            return pd.DataFrame()

    def begin(self, settings: Settings) -> None:
        """Makes sure that what the folder holds is of the run of these settings. With `force` that is thrown away; else
        raises ValueError where it is another run, of a name that was given twice."""
        if settings.force:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            for name in ("status.json", "results.json", "losses.npz", "curve.csv"):
                (self.path / name).unlink(missing_ok=True)
        own = identity(plain(settings))
        if not self.trained:
            for other, changed in self._others(own, settings):
                print(f"{other.name} has the same settings and {changed}: this is another run, {self.name}")
        elif changed := _differing(self.results.get("identity", {}), own):
            raise ValueError(
                f"{self.path} is a run with {changed}: choose another run_id, or train it anew by force=true"
            )
        self.update(identity=own, config_hash=digest(own))

    def _others(self, own: Mapping[str, str], settings: Settings) -> Iterator[tuple[RunFolder, str]]:
        """The runs beside this one that have its settings, and in what they differ all the same."""
        for path in sorted(self.path.parent.glob(f"{settings.encoding['name']}-s{settings.seed}-*/results.json")):
            found = {}
            with suppress(ValueError):  # a damaged one speaks for itself
                found = read_json(path).get("identity", {})
            if path.parent != self.path and found.get("settings") == own["settings"]:
                yield RunFolder(path.parent), _differing(found, own)

    def require(self, **facts: Any) -> None:
        """Keeps facts of the run's data in results.json. Raises ValueError where it was begun with others."""
        results = self.results
        changed = [name for name, value in facts.items() if results.get(name, value) != value]
        if changed and self.trained:
            raise ValueError(
                f"{self.path} was begun on other data ({', '.join(changed)} differ): choose another run_id, or train "
                "it anew by force=true"
            )
        self.update(**facts)

    def turn_to(self, key: str) -> None:
        """Makes the rows and probes of one evaluation those that the run shows; the ones that it has shown are kept
        under `others` in results.json, by the key of theirs, until they are asked for again."""
        results = self.results
        shown = results.get("evaluation", "")  # rows of an earlier version don't say
        if shown == key:
            return
        others = dict(results.get("others", {}))
        if results["rows"] or results.get("probes"):
            others[shown] = {name: results[name] for name in PER_EVALUATION if name in results}
        part = {"rows": [], "probes": {}, "probe_settings": {}} | others.pop(key, {})
        self.update(**part, others=others, evaluation=key)

    def set_status(self, state: str, **more: Any) -> None:
        assert state in STATES
        write_json(self.path / "status.json", {"state": state, "time": datetime.now(UTC).isoformat(), **more})

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the folder for one process at a time (of a run on several devices, the first one); others wait. Damaged
        results are set aside, so that they are made again."""
        if rank():
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for path in (self.path / ".lock", self.checkpoints):
                if path.is_symlink():
                    raise ValueError(f"{path} is a link; nothing in a run's folder is written through one: remove it")
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"{self.path}: another process is at work there; waiting for it", flush=True)
                lock.acquire()
        except OSError as error:
            raise OSError(
                f"{self.path} can't be written ({error.strerror}): give rights there, or set runs to another folder"
            ) from error
        try:
            for partial in self.path.glob(f".*{PARTIAL}"):  # of a process that was killed while it wrote
                partial.unlink(missing_ok=True)
            self._set_damaged_aside()
            yield
        finally:
            lock.release()

    def _set_damaged_aside(self) -> None:
        """Renames results.json and losses.npz, which belong together, where one of them can't be read."""
        pair = [self.path / "results.json", self.path / "losses.npz"]
        try:
            if pair[0].exists():
                read_json(pair[0])
            self.losses  # noqa: B018
        except ValueError as error:
            for path in pair:
                if path.exists():
                    os.replace(path, path.with_name(path.name + ".damaged"))
            (self.path / "status.json").unlink(missing_ok=True)
            warnings.warn(f"{error}; it stands aside as *.damaged, and the run is scored again", stacklevel=3)

    @contextmanager
    def recording(self, settings: Settings, scored: str) -> Iterator[None]:
        """Records the settings, that the run goes on, and how it ends. scored: what the run is then scored by, as
        `eval.measure.measurement.fingerprint` has it."""
        try:
            write_json(self.path / "config.json", plain(settings))
            with last_words(self._set_interrupted):
                self.set_status("running")
                yield
                self.set_status("finished", scored=scored)
        except SystemExit as stop:  # of a signal, or of a cluster's launcher, which queues the job again
            self._set_interrupted(stop)
            raise
        except BaseException as error:
            self.set_status("failed", error=f"{error}" or type(error).__name__, traceback=traceback.format_exc())
            raise

    def _set_interrupted(self, stop: SystemExit) -> None:
        self.set_status("interrupted", error=str(stop))

    @property
    def results(self) -> dict[str, Any]:
        """results.json, or a fresh one with no rows. Raises ValueError for a damaged file or another schema."""
        path = self.path / "results.json"
        if not path.exists():
            return {"schema": SCHEMA, "rows": []}
        results = read_json(path)
        if results.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {results.get('schema')}, this program reads {SCHEMA}: score it again")
        return results

    def shown_as(self, key: str | None) -> dict[str, Any]:
        """results.json as it is where the run shows the evaluation of this key; as it is where it has none such."""
        results = self.results
        part = results.get("others", {}).get(key)
        return {**results, **part, "evaluation": key} if part else results

    def update(self, **fields: Any) -> None:
        """Sets fields of results.json beside its rows."""
        write_json(self.path / "results.json", {**self.results, **fields})

    def describe(self, facts: Mapping[str, Any], curve: list[dict[str, float]]) -> None:
        """Keeps what is known of a run once it is trained: fields of results.json, and the training curve."""
        write_table(self.path / "curve.csv", curve)
        self.update(**facts)

    def add(self, found: Measured) -> None:
        """Adds what was measured, in the place of what was measured there before. The losses are written first."""
        if found.losses:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **{**self.losses, **found.losses})
            write_atomic(self.path / "losses.npz", buffer.getvalue())
        results = self.results
        rows = {row_key(row): row for row in [*results["rows"], *found.rows]}
        changed: dict[str, Any] = {"rows": list(rows.values())}
        for name in ("probes", "probe_settings"):
            if new := getattr(found, name):
                changed[name] = {**results.get(name, {}), **new}
        if found.tasks:
            tasks = {(row["extension"], row["length"]): row for row in [*results.get("tasks", []), *found.tasks]}
            changed["tasks"] = [tasks[key] for key in sorted(tasks)]
        self.update(**changed)

    @property
    def losses(self) -> dict[str, np.ndarray]:
        """Arrays by `row_key` (float32, nats) and by `row_key` + "/windows" (W, 5): start, stop, targets scored,
        document and block of the statistics. Nothing is unpickled. Raises ValueError for a damaged file."""
        path = self.path / "losses.npz"
        if not path.exists():
            return {}
        try:
            return read_arrays(path)
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError, NotImplementedError) as error:
            raise ValueError(f"{path} is damaged ({error}): run the command again that wrote it") from None


def placed_here(settings: Settings, path: Path) -> Settings:
    """Settings that are read back from a run's folder: where its machine kept its cache and W&B's files says nothing of
    this one. The cache is that of a command that is given none; W&B's files lie as if the run had been made here."""
    runs = path.parent
    for part in reversed(PurePath(settings.sweep or "").parts):
        runs = runs.parent if runs.name == part else runs
    logger = replace(settings.logger, dir=_default("logger/auto.yaml").dir)
    return replace(settings, runs=str(runs), cache_dir=_default("train.yaml").cache_dir, logger=logger)


@functools.cache
def _default(file: str) -> DictConfig:
    """A file of conf; what it has from the environment is looked up when it is read."""
    return OmegaConf.load(CONF / file)


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What two identities differ in, in words; "" where in nothing that both of them have."""
    return " and ".join(WORDS[name] for name, value in new.items() if old.get(name, value) != value)
