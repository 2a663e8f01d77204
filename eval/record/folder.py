"""What a run leaves on disk, and how it is read back.

A run's folder:
    config.json      the resolved configuration
    status.json      state (running, finished, failed, interrupted), stage, error
    results.json     schema version, provenance, training, rows (protocol, extension, context length)
    losses.npz       the scored tokens' losses of every row, float32, and the windows they stand in; of rows of
                     retrieval and of tasks what each window or example came to
    curve.csv        the training curve
    tokenizer.json   the tokenizer, where it was trained on text
    checkpoints/     the newest two, and those that are kept for second stages
    wandb-id         W&B's id of the run

All of them are checked when they are read: JSON files by a digest of their own, the rows' figures and losses.npz by
one another, the curve and the tokenizer by results.json, and by the hash of the run whether they belong together. What
is damaged, the run's own command sets aside as *.damaged and makes again; other commands say so. Every field and column
stands in docs/files.md.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import math
import os
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from conf.mistakes import one_sentence
from conf.schema import CONF, Settings
from conf.typed import digest, plain, typed
from eval.measure.rows import PART, PLACE, UNIT, Measured, Row, row_key
from eval.measure.units import columns_of, means_of
from eval.record.bounds import read_arrays
from eval.record.files import PARTIAL, DamagedError, as_csv, read_json, remove, set_aside, write_atomic, write_json
from eval.record.identity import identity, of_now, settings_hash
from eval.record.shape import SCHEMA, Results, Status, read_as
from model.devices import rank
from model.signals import last_words

if TYPE_CHECKING:
    from data.tokenizer import TextTokenizer

WINDOW = ["start", "stop", "tokens", "document", "block"]  # the columns of losses.npz's "/windows"
WORDS = {  # for what a run's identity differs in
    "settings": "other settings",
    "source": "another source of its encoding or task",
    "files": "other files of its data or tokenizer",
}
UNREADABLE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError, RuntimeError, MemoryError)
NOTHING = {"rows": [], "retrieval": [], "probes": {}, "probe_settings": {}, "tasks": []}  # found by an evaluation
OF_LOSSES = ("rows", "retrieval", "tasks")  # of these, the kinds whose figures follow from losses.npz
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
    def report(self) -> Path:
        """The page of a run that is no sweep's."""
        return self.path / "report.html"

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
        if not self.exists:
            raise ValueError(f"{self.path} is not a run's folder: it has no config.json")
        values = self.config
        try:
            return placed_here(typed(Settings, of_now(values)), self.path)
        except ValueError as error:
            raise DamagedError(path, f"can't be read: {one_sentence(error)}") from None

    @classmethod
    def all_in(cls, path: Path) -> list[RunFolder]:
        """The runs that a folder holds: itself, where it is one, and those in it, by name."""
        return [run for each in (path, *sorted(path.glob("*/"))) if (run := cls(each)).exists]

    @property
    def exists(self) -> bool:
        """Whether this is the folder of a run, whatever of it is missing."""
        return any((self.path / name).exists() for name in ("config.json", "status.json", "results.json"))

    @property
    def config(self) -> dict[str, Any]:
        """config.json as it stands there. Raises DamagedError where it is not whole, or gone."""
        path = self.path / "config.json"
        if not path.exists():
            raise DamagedError(path, "is gone")
        return read_json(path)

    @property
    def status(self) -> dict[str, Any]:
        """status.json; {"state": "missing"} where there is none, or none that can be read."""
        try:
            return self._read_status()
        except DamagedError as error:
            warnings.warn(str(error), stacklevel=2)
            return {"state": "missing"}

    def _read_status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return read_as(Status, path) if path.exists() else {"state": "missing"}

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

        Raises DamagedError where a row's losses are missing, or its figures don't follow from them.
        """
        losses = self.losses
        rows = [row for row in rows if row["status"] == "ok"]
        if not rows:
            return pd.DataFrame(columns=["key", *PLACE, *PART, *WINDOW, "nats"])
        tables, summed = zip(*(self._summed(losses, row) for row in rows), strict=True)
        windows = pd.DataFrame(np.concatenate(tables), columns=WINDOW).assign(nats=np.concatenate(summed))
        return pd.concat([_places(rows, [*PLACE, *PART], tables), windows], axis=1)

    def _summed(self, losses: Mapping[str, np.ndarray], row: Row) -> tuple[np.ndarray, np.ndarray]:
        """The windows of a row, (W, 5), and the sum of the losses of each, (W,), float64."""
        key = row_key(row)
        own, table = losses.get(key), losses.get(key + "/windows")
        if own is None or table is None:
            raise DamagedError(self.path / "losses.npz", f"lacks the losses of {key}")
        if own.ndim == 1 and table.ndim == 2 and table.shape[1] == len(WINDOW) and (table[:, 2] > 0).all():
            ends = np.cumsum(table[:, 2])
            if len(own) == row["tokens"] == ends[-1]:
                summed = np.add.reduceat(own.astype(np.float64), ends - table[:, 2])
                if np.isclose(summed.sum() / len(own), row["nats"], rtol=1e-6, atol=1e-6):  # they are kept as float32
                    return table, summed
        raise DamagedError(self.path / "losses.npz", f"is not what results.json goes by: the losses of {key} differ")

    def units_of(self, rows: Sequence[Row]) -> pd.DataFrame:
        """What is behind those rows of retrieval, or of a task, that have figures, in their order: the row's key and
        place, and of each window or example its number (unit) and the columns of `eval.measure.units`. Rows of an
        earlier version, which kept nothing, have nothing.

        Raises DamagedError where it is missing, or a row's figures don't follow from it.
        """
        rows = [row for row in rows if row["status"] == "ok" and "evaluation" in row]
        if not rows:
            return pd.DataFrame(columns=["key", *PLACE, *UNIT, "unit"])
        losses, tables = self.losses, []
        for row in rows:
            key, columns = row_key(row), columns_of(row)
            own = losses.get(key)
            if own is None:
                raise DamagedError(self.path / "losses.npz", f"lacks what is behind {key}")
            if own.ndim != 2 or own.shape[1] != len(columns) or not _follow(row, own.astype(np.float64)):
                reason = f"is not what results.json goes by: what is behind {key} differs"
                raise DamagedError(self.path / "losses.npz", reason)
            tables.append(own)
        kinds = itertools.groupby(zip(rows, tables, strict=True), key=lambda each: columns_of(each[0]))
        units = [pd.DataFrame(np.concatenate([own for _, own in of]), columns=columns) for columns, of in kinds]
        names = [name for name in (*PLACE, *UNIT) if any(name in row for row in rows)]
        places = _places(rows, names, tables).assign(unit=np.concatenate([np.arange(len(own)) for own in tables]))
        return pd.concat([places, pd.concat(units, ignore_index=True)], axis=1)

    @property
    def curve(self) -> pd.DataFrame:
        """curve.csv: step, tokens, seconds, loss (nats a token), lr, grad_norm (before it was clipped),
        tokens_per_second, of a context that grows also context (tokens), and, at validations, val_loss; empty where the
        run has not been trained.

        Raises DamagedError where it is not as it was written, or gone.
        """
        path, results = self.path / "curve.csv", self.results
        if not path.exists():
            if "training" in results:
                raise DamagedError(path, "is gone")
            return pd.DataFrame()
        try:
            content = path.read_bytes()
            if results.get("curve_hash") not in (None, hashlib.sha256(content).hexdigest()):
                raise ValueError("its digest is another than results.json has")
            return pd.read_csv(io.BytesIO(content), dtype=float, float_precision="round_trip")
        except (ValueError, IsADirectoryError) as error:
            raise DamagedError(path, f"is damaged ({one_sentence(error)})") from None

    @property
    def tokenizer(self) -> Path | None:
        """tokenizer.json; None of a task's run, and where it is not there, as in runs of an earlier version. Raises
        DamagedError where it is not as it was written."""
        path, own = self.path / "tokenizer.json", self.results.get("tokenizer_file")
        if own is None or not path.exists():
            return None
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != own:
            raise DamagedError(path, "is damaged (its digest is another than results.json has)")
        return path

    def faults(self) -> list[DamagedError]:
        """What is damaged, another run's, or gone although the run has come past it; a file once, results.json first.
        A finished run may have given up all of its checkpoints."""
        found: dict[Path, DamagedError] = {}
        checks = (self._check_results, self.check_owner, self._check_settings, self._check_losses)
        for check in (*checks, self._read_curve, self._read_tokenizer, self._check_last):
            try:
                check()
            except DamagedError as error:
                found.setdefault(error.path, error)
        return list(found.values())

    def check(self) -> None:
        """Raises the first of the `faults`."""
        for fault in self.faults():
            raise fault

    def _check_results(self) -> None:
        if "training" not in self.results and self.finished:
            path = self.path / "results.json"
            raise DamagedError(path, "says nothing of the training" if path.exists() else "is gone")

    def check_owner(self) -> None:
        """Raises DamagedError where status.json or config.json can't be read, or is not of the run that results.json
        is of."""
        results, status = self.results, self._read_status()
        own = results.get("identity", {}).get("settings")
        there = status["state"] == "finished" or (self.path / "config.json").exists()
        if there and own not in (None, settings_hash(self.config)):
            raise DamagedError(self.path / "config.json", "is another run's")
        if status.get("run", results.get("config_hash")) != results.get("config_hash"):
            raise DamagedError(self.path / "status.json", "is another run's")

    def _check_settings(self) -> None:
        if self.finished:
            self.settings  # noqa: B018

    def _check_losses(self) -> None:
        results = self.results
        for part in (results, *results.get("others", {}).values()):
            self.windows_of(part["rows"])
            self.units_of(part.get("retrieval", []))
            self.units_of(part.get("tasks", []))

    def _read_curve(self) -> None:
        self.curve  # noqa: B018

    def _read_tokenizer(self) -> None:
        self.tokenizer  # noqa: B018

    def _check_last(self) -> None:
        from model.training.checkpoint import checkpoint_path, checkpoint_step, newest

        results, last = self.results, newest(self.checkpoints)
        if not (self.finished and "training" in results and any(self.checkpoints.glob("*.ckpt"))):
            return
        steps = results["training"]["steps"]
        if last is None or checkpoint_step(last) != steps:
            path = checkpoint_path(self.checkpoints, steps)
            raise DamagedError(path, "is damaged" if path.exists() else "is gone")

    def begin(self, settings: Settings) -> str:
        """Makes sure that what the folder holds is of the run of these settings, whose hash it gives. With `force` that
        is thrown away; else what is damaged is set aside, so that it is made again. Raises ValueError where the folder
        holds another run, of a name that was given twice."""
        if settings.force:
            for name in ("checkpoints", "status.json", "results.json", "losses.npz", "curve.csv", "tokenizer.json"):
                remove(self.path / name)
        own = identity(plain(settings))
        if self.trained:
            self._refuse_another(own)
        self._mend()
        if not self.trained:
            for other, changed in self._others(own, settings):
                print(f"{other.name} has the same settings and {changed}: this is another run, {self.name}")
        self.update(identity=own, config_hash=digest(own))
        return digest(own)

    def _refuse_another(self, own: Mapping[str, str]) -> None:
        """Raises ValueError where the newest checkpoint is not of the run of this identity, or, where that doesn't say
        whose it is, results.json. Beside a checkpoint of the run the results of another are set aside."""
        from model.training.checkpoint import newest, run_of

        results = self.path / "results.json"
        remedy = "choose another run_id, or train it anew by force=true"
        changed = ""
        with suppress(DamagedError):
            changed = _differing(self.results.get("identity", {}), own)
        whose = run_of(last) if (last := newest(self.checkpoints)) else None
        if whose is None and changed:
            raise ValueError(f"{self.path} is a run with {changed}: {remedy}")
        if whose not in (None, digest(own)):
            raise ValueError(f"{self.path} is a run with {changed or 'checkpoints of another'}: {remedy}")
        if changed:
            self._set_aside([DamagedError(results, "is another run's")])

    def _mend(self) -> None:
        if faults := self.faults():
            self._set_aside(faults)

    def _set_aside(self, faults: Sequence[DamagedError]) -> None:
        """Renames what is damaged, and forgets what hangs on it: losses without their rows, rows without their losses,
        the training without its curve, that the run is finished."""
        if rank():
            return
        from model.training.checkpoint import digest_path

        finished, names = self.finished, {fault.path.name for fault in faults}
        for fault in faults:
            if fault.path.parent == self.checkpoints:
                remove(digest_path(fault.path))
            if there := fault.path.exists():
                set_aside(fault.path)
            aside = "; it stands aside as *.damaged, and" if there else ":"
            warnings.warn(f"{fault.path} {fault.reason}{aside} it is made anew", stacklevel=4)
        if "results.json" in names:
            if (self.path / "losses.npz").exists():
                set_aside(self.path / "losses.npz")
        elif "losses.npz" in names:
            results = self.results
            others = {key: _without_figures(part) for key, part in results.get("others", {}).items()}
            self.update(**{**_without_figures(results), "others": others})
        if "curve.csv" in names:
            results = self.results
            results.pop("training", None)
            write_json(self.path / "results.json", results)
        if finished:
            (self.path / "status.json").unlink(missing_ok=True)

    def _others(self, own: Mapping[str, str], settings: Settings) -> Iterator[tuple[RunFolder, str]]:
        """The runs beside this one that have its settings, and in what they differ all the same."""
        for path in sorted(self.path.parent.glob(f"{settings.encoding['name']}-s{settings.seed}-*/results.json")):
            found = {}
            with suppress(ValueError):  # a damaged one speaks for itself
                found = RunFolder(path.parent).results.get("identity", {})
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

    def keep_tokenizer(self, tokenizer: TextTokenizer | None) -> None:
        """Writes tokenizer.json where it is not there yet; a task has none."""
        if tokenizer is not None and self.tokenizer is None:
            content = tokenizer.to_json().encode()
            write_atomic(self.path / "tokenizer.json", content)
            self.update(tokenizer_file=hashlib.sha256(content).hexdigest())

    def turn_to(self, key: str) -> None:
        """Makes the rows and probes of one evaluation those that the run shows; the ones that it has shown are kept
        under `others` in results.json, by the key of theirs, until they are asked for again."""
        results = self.results
        shown = results.get("evaluation", "")  # rows of an earlier version don't say
        if shown == key:
            return
        others = dict(results.get("others", {}))
        if any(results.get(name) for name in NOTHING):
            others[shown] = {name: results[name] for name in NOTHING if name in results}
        part = NOTHING | others.pop(key, {})
        self.update(**part, others=others, evaluation=key)

    def set_status(self, state: str, **more: Any) -> None:
        assert state in STATES
        now = {"state": state, "time": datetime.now(UTC).isoformat()}
        with suppress(DamagedError):
            now |= {"run": whose} if (whose := self.results.get("config_hash")) else {}
        write_json(self.path / "status.json", {**now, **more})

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the folder for one process at a time (of a run on several devices, the first one); others wait."""
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
            yield
        finally:
            lock.release()

    def note_failure(self, config: Mapping[str, Any], error: str, trace: str) -> RunFolder:
        """Records that a run of this config failed before it could be `recording`, and where: here, unless another
        process is at work here or another run lies here, else in a folder beside this one."""
        own = settings_hash(config)
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                if not self.trained:
                    write_json(self.path / "config.json", config)
                if settings_hash(self.config) == own:
                    self.set_status("failed", error=error, traceback=trace)
                    return self
        except (Timeout, DamagedError):
            pass  # it is not known to be of this run
        beside = RunFolder(f"{self.path}-{own[:6]}")
        beside.path.mkdir(exist_ok=True)
        write_json(beside.path / "config.json", config)
        beside.set_status("failed", error=error, traceback=trace)
        return beside

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
            from model.training.language_model import DivergedError

            diverged = {"diverged": True} if isinstance(error, DivergedError) else {}
            self._end("failed", error=one_sentence(error), traceback=traceback.format_exc(), **diverged)
            raise

    def _set_interrupted(self, stop: SystemExit) -> None:
        self._end("interrupted", error=str(stop))

    def _end(self, state: str, **more: Any) -> None:
        """`set_status` while an error is under way, which is what is said even where it can't be recorded."""
        try:
            self.set_status(state, **more)
        except OSError as error:
            warnings.warn(f"{error}; so the state {state} is not recorded", stacklevel=3)

    @property
    def results(self) -> dict[str, Any]:
        """results.json, or a fresh one with no rows. Raises DamagedError where it is not whole, or not as this program
        writes it."""
        path = self.path / "results.json"
        return read_as(Results, path) if path.exists() else {"schema": SCHEMA, "rows": []}

    def shown_as(self, key: str | None) -> dict[str, Any]:
        """results.json as it is where the run shows the evaluation of this key; as it is where it has none such."""
        results = self.results
        part = results.get("others", {}).get(key)
        return {**results, **part, "evaluation": key} if part else results

    def update(self, **fields: Any) -> None:
        """Sets fields of results.json beside its rows."""
        write_json(self.path / "results.json", {**self.results, **fields})

    def describe(self, facts: Mapping[str, Any], curve: list[dict[str, float]]) -> None:
        """Keeps what is known of a run once it is trained: fields of results.json, and the training curve. What was
        measured of other weights, before they were lost and the run was trained again, is dropped."""
        content, old = as_csv(curve), self.results
        write_atomic(self.path / "curve.csv", content)
        if old.get("weights_hash") not in (None, facts["weights_hash"]):
            facts = {**facts, **NOTHING, "others": {}}
        self.update(**{**facts, "curve_hash": hashlib.sha256(content).hexdigest()})

    def add(self, found: Measured) -> None:
        """Adds what was measured, in the place of what was measured there before. The losses are written first, and
        those that no row has any more are dropped."""
        results = self.results
        rows = {row_key(row): row for row in [*results["rows"], *found.rows]}
        changed: dict[str, Any] = {"rows": list(rows.values())}
        for name in ("probes", "probe_settings"):
            if new := getattr(found, name):
                changed[name] = {**results.get(name, {}), **new}
        if found.tasks:
            tasks = {(row["extension"], row["length"]): row for row in [*results.get("tasks", []), *found.tasks]}
            changed["tasks"] = [tasks[key] for key in sorted(tasks)]
        if found.retrieval:
            ids = {row["needle"]: row["targets_id"] for row in found.retrieval}
            old = [
                row
                for row in results.get("retrieval", [])
                if row["targets_id"] == ids.get(row["needle"], row["targets_id"])
            ]
            changed["retrieval"] = [*{row_key(row): row for row in [*old, *found.retrieval]}.values()]
        if found.losses:
            parts = [{**results, **changed}, *results.get("others", {}).values()]
            keys = {row_key(row) for part in parts for kind in OF_LOSSES for row in part.get(kind, [])}
            kept = {key: own for key, own in self.losses.items() if key.removesuffix("/windows") in keys}
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **{**kept, **found.losses})
            write_atomic(self.path / "losses.npz", buffer.getvalue())
        self.update(**changed)

    @property
    def losses(self) -> dict[str, np.ndarray]:
        """Arrays by `row_key` (float32, nats) and by `row_key` + "/windows" (W, 5): start, stop, targets scored,
        document and block of the statistics. Nothing is unpickled. Raises DamagedError for a damaged file."""
        path = self.path / "losses.npz"
        if not path.exists():
            return {}
        try:
            return read_arrays(path)
        except UNREADABLE as error:
            raise DamagedError(path, f"is damaged ({one_sentence(error)})") from None


class ReadOnce(RunFolder):
    """A run's folder as it is when first asked for each of its files, and from then on: for whoever asks for much of a
    run that nobody changes meanwhile."""

    config = functools.cached_property(lambda self: RunFolder.config.fget(self))
    status = functools.cached_property(lambda self: RunFolder.status.fget(self))
    results = functools.cached_property(lambda self: RunFolder.results.fget(self))
    losses = functools.cached_property(lambda self: RunFolder.losses.fget(self))


def runs_of(path: Path) -> list[RunFolder]:
    """The run of a folder, or the finished ones of a sweep's. Raises ValueError where it is neither."""
    runs = RunFolder.all_in(path)
    if runs and runs[0].path == path:
        return runs[:1]
    if not (finished := [run for run in runs if run.finished]):
        found = "a sweep of which no run is finished" if runs else "not the folder of a run or a sweep"
        raise ValueError(f"{path} is {found}")
    return finished


def _places(rows: Sequence[Row], names: Sequence[str], tables: Sequence[np.ndarray | pd.DataFrame]) -> pd.DataFrame:
    """The key of each row and what it has by these names, as often as its table has rows."""
    columns = {"key": [row_key(row) for row in rows]} | {name: [row.get(name) for row in rows] for name in names}
    return pd.DataFrame(columns).take(np.repeat(np.arange(len(rows)), [*map(len, tables)])).reset_index(drop=True)


def _without_figures(part: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation holds beside the rows whose figures follow from losses.npz."""
    kinds = {name: part[name] for name in OF_LOSSES if name in part}
    return {**part, **{name: [row for row in rows if row["status"] != "ok"] for name, rows in kinds.items()}}


def _follow(row: Row, units: np.ndarray) -> bool:
    """Whether a row's means and counts are those of its windows or examples, but for rounding."""
    tokens = units[:, columns_of(row).index("tokens")]
    if not (len(units) and np.isfinite(units).all() and (tokens > 0).all()):
        return False
    means = means_of(row, units)
    return all(math.isclose(row[name], mean, rel_tol=1e-6, abs_tol=1e-6) for name, mean in means.items())


def placed_here(settings: Settings, path: Path) -> Settings:
    """Settings that are read back from a run's folder: where its machine kept its cache and W&B's files says nothing of
    this one. The cache is that of a command that is given none; W&B's files lie as if the run had been made here."""
    runs = path.parent
    for part in reversed(PurePath(settings.sweep or "").parts):
        runs = runs.parent if runs.name == part else runs
    environment = frozenset(os.environ.items())
    logger = replace(settings.logger, dir=_default("logger/auto.yaml", "dir", environment))
    return replace(settings, runs=str(runs), cache_dir=_default("train.yaml", "cache_dir", environment), logger=logger)


@functools.lru_cache(maxsize=16)
def _default(file: str, name: str, environment: frozenset[tuple[str, str]]) -> Any:
    """A setting of a file of conf, with what it has from this environment."""
    return OmegaConf.load(CONF / file)[name]


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What two identities differ in, in words; "" where in nothing that both of them have."""
    return " and ".join(WORDS[name] for name, value in new.items() if old.get(name, value) != value)
