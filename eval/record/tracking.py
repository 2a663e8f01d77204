"""W&B as a mirror of the files: never a prompt, never a hang, never a lost run.

Offline runs of all sweeps lie in one folder, runs/wandb, so that the terminal dashboard can overlay them.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd

from conf.schema import LoggerSettings, Settings
from conf.typed import plain
from model.devices import rank

REACH_SECONDS = 3
INIT_SECONDS = 30
FIGURES = ("perplexity", "nats", "bits_per_byte", "exact_match", "token_accuracy")  # of a row, where it has them
# What W&B calls a field of the training curve's points; the axes, each a metric itself; the job type of a sweep's run.
CURVE = {"loss": "train/loss", "lr": "train/lr", "tokens_per_second": "train/tokens_per_second", "val_loss": "val/loss"}
TOKENS, CONTEXT_LENGTH, POSITION = "tokens", "eval/context_length", "eval/position"
TRAIN, SWEEP = "train", "sweep"


def metric(protocol: str, figure: str, what: str = "none") -> str:
    """W&B's name of a row's figure: of the protocol, and after it the extension or the control.

    >>> metric("fixed_targets", "perplexity"), metric("sliding", "nats", "yarn")
    ('eval/fixed_targets/perplexity', 'eval/sliding/yarn/nats')
    """
    return "/".join(["eval", protocol, *([] if what == "none" else [what]), figure])


class Tracker:
    """Sends points and rows to a W&B run, or nowhere. A failing W&B is reported once and then left alone."""

    def __init__(self, run=None):
        self.run = run

    def log_point(self, point: Mapping[str, float]) -> None:
        """A point of the training curve, against tokens."""
        self._log({TOKENS: point["tokens"], **{CURVE[k]: v for k, v in point.items() if k in CURVE}})

    def log_rows(self, rows: list[Mapping[str, Any]]) -> None:
        """Points of the extrapolation curves, against the context length (or the position), by `metric`."""
        for row in rows:
            if row["status"] != "ok":
                continue
            what = row.get("control", row["extension"])
            point = {POSITION: row["position"]} if "position" in row else {CONTEXT_LENGTH: row["context_length"]}
            figures = {k: row[k] for k in FIGURES if row.get(k) is not None}
            self._log({**point, **{metric(row["protocol"], key, what): value for key, value in figures.items()}})

    def log_table(self, name: str, frame: pd.DataFrame) -> None:
        """A frame as a table, None where a value is missing."""
        import wandb

        self._log({name: wandb.Table(dataframe=frame.astype(object).where(frame.notna(), None))})

    def keep_file(self, path: Path, kind: str) -> None:
        """A file as an artifact of this kind, named after the run."""
        import wandb

        def send():
            artifact = wandb.Artifact(f"{kind}-{self.run.id}", type=kind)
            artifact.add_file(str(path))
            self.run.log_artifact(artifact)

        self._try(send)

    def summarise(self, fields: Mapping[str, Any]) -> None:
        """Single values of the run: cost, parameters, last losses."""
        self._try(lambda: self.run.summary.update(dict(fields)))

    def _log(self, values: Mapping[str, Any]) -> None:
        self._try(lambda: self.run.log(dict(values)))

    def _try(self, action) -> None:
        if self.run is None:
            return
        try:
            action()
        except Exception as error:
            warnings.warn(f"W&B failed ({error}); the run goes on, its files are complete", stacklevel=3)
            self.run = None


@contextmanager
def track(
    logger: LoggerSettings,
    name: str,
    folder: Path | str,
    group: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    job_type: str = TRAIN,
) -> Iterator[Tracker]:
    """A tracker for one run; says in one line which mode was chosen, and why. config: what W&B shows as the run's."""
    if logger.name == "none" or rank():
        yield Tracker()
        return
    try:
        run = _start(logger, config or {}, name, Path(folder), job_type, group)
    except Exception as error:
        warnings.warn(f"W&B could not start ({error}); the run goes on, its files are complete", stacklevel=3)
        yield Tracker()
        return
    tracker, code = Tracker(run), 1
    try:
        yield tracker
        code = 0
    finally:
        try:
            run.finish(exit_code=code)
        except Exception as error:
            warnings.warn(f"W&B could not finish ({error}); the files are complete", stacklevel=3)
            _let_go()


def track_run(settings: Settings) -> AbstractContextManager[Tracker]:
    """`track` for the run of these settings, in the folder of all runs."""
    return track(settings.logger, settings.run_id, settings.runs, settings.sweep, config=plain(settings))


def _let_go() -> None:
    """Forgets W&B's own process, which has died: the next run in this process starts another."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def _start(logger: LoggerSettings, config: Mapping, name: str, folder: Path, job_type: str, group: str | None):
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.resolve() / "wandb"))  # what `wandb sync` uploads of artifacts
    import wandb

    mode, reason = choose_mode()
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=logger.project,
        group=group,
        job_type=job_type,
        name=name,
        id=f"{name}-{group}" if group else name,  # the terminal shows how the id begins
        resume="allow" if mode == "online" else None,
        tags=[*logger.tags, config["encoding"]["name"]] if "encoding" in config else logger.tags,
        config=dict(config),
        dir=folder,
        mode=mode,
        settings=wandb.Settings(init_timeout=INIT_SECONDS, console="off", silent=True),
    )
    for axis in (TOKENS, CONTEXT_LENGTH, POSITION):
        run.define_metric(axis, hidden=True)
    for pattern in ("train/*", "val/*"):
        run.define_metric(pattern, step_metric=TOKENS)
    run.define_metric("eval/positions/*", step_metric=POSITION)  # the first pattern that matches counts
    run.define_metric("eval/*", step_metric=CONTEXT_LENGTH)
    where = {
        "online": f": {run.url}",
        "offline": f": wandb sync {run.dir.removesuffix('/files')}; wandb leet {folder}/wandb",
    }
    print(f"W&B: {mode} ({reason}){where.get(mode, '')}")
    return run


def choose_mode() -> tuple[str, str]:
    """W&B's mode, and why: what WANDB_MODE says, else online when logged in and reachable, else offline; never online
    without a login, which W&B would ask for."""
    import wandb

    mode = os.environ.get("WANDB_MODE")
    if mode and mode != "online":
        return mode, "WANDB_MODE"
    if not wandb.login(prompt=False, verify=False):
        return "offline", "not logged in"
    if mode:
        return mode, "WANDB_MODE"
    host = urlparse(wandb.setup().settings.base_url)
    if not any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")):
        try:
            socket.create_connection((host.hostname, host.port or 443), timeout=REACH_SECONDS).close()
        except OSError:
            return "offline", f"{host.hostname} does not answer"
    return "online", "logged in"
