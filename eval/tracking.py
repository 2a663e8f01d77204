"""W&B as a mirror of the files: never a prompt, never a hang, never a lost run.

Offline runs of all sweeps lie in one folder, runs/wandb, so that the terminal dashboard can overlay them.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from model.devices import rank

REACH_SECONDS = 3
INIT_SECONDS = 30
FIGURES = ("perplexity", "nats", "bits_per_byte", "exact_match", "token_accuracy")  # of a row, where it has them


class Tracker:
    """Sends points and rows to a W&B run, or nowhere. A failing W&B is reported once and then left alone."""

    def __init__(self, run=None):
        self.run = run

    def log_point(self, point: Mapping[str, float]) -> None:
        """A point of the training curve, against tokens."""
        names = {"loss": "train/loss", "lr": "train/lr", "tokens_per_second": "train/tokens_per_second"}
        names |= {"val_loss": "val/loss"}
        self._log({"tokens": point["tokens"], **{names[k]: v for k, v in point.items() if k in names}})

    def log_rows(self, rows: list[Mapping[str, Any]]) -> None:
        """Points of the extrapolation curves, against the context length: under the protocol's name, and after it the
        extension's or the control's."""
        for row in rows:
            if row["status"] != "ok":
                continue
            what = row.get("control", row["extension"])
            name = f"eval/{row['protocol']}" + ("" if what == "none" else f"/{what}")
            axis = row.get("position", row["context_length"])
            point = {"eval/context_length": axis} if "position" not in row else {"eval/position": axis}
            figures = {k: row[k] for k in FIGURES if row.get(k) is not None}
            self._log({**point, **{f"{name}/{key}": value for key, value in figures.items()}})

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
    config: Mapping[str, Any], name: str, folder: Path | str, group: str | None = None, *, job_type: str = "train"
) -> Iterator[Tracker]:
    """A tracker for one run; says in one line which mode was chosen, and why."""
    settings = config["logger"]
    if settings["name"] == "none" or rank():
        yield Tracker()
        return
    try:
        run = _start(config, settings, name, Path(folder), job_type, group)
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
            run.finish(exit_code=code, quiet=True)
        except Exception as error:
            warnings.warn(f"W&B could not finish ({error}); the files are complete", stacklevel=3)


def _start(config, settings, name: str, folder: Path, job_type: str, group: str | None):
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")
    import wandb

    mode, reason = choose_mode()
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=settings["project"],
        group=group,
        job_type=job_type,
        name=name,
        id=f"{group}-{name}" if group else name,
        resume="allow" if mode == "online" else None,
        tags=[*settings["tags"], config["encoding"]["name"]] if "encoding" in config else list(settings["tags"]),
        config=dict(config),
        dir=folder,
        mode=mode,
        settings=wandb.Settings(init_timeout=INIT_SECONDS, console="off", silent=True),
    )
    run.define_metric("tokens", hidden=True)
    for pattern in ("train/*", "val/*"):
        run.define_metric(pattern, step_metric="tokens")
    run.define_metric("eval/context_length", hidden=True)
    run.define_metric("eval/position", hidden=True)
    run.define_metric("eval/positions/*", step_metric="eval/position")
    run.define_metric("eval/*", step_metric="eval/context_length")
    where = run.url if mode == "online" else f"wandb sync {run.dir.removesuffix('/files')}; wandb leet {folder}/wandb"
    print(f"W&B: {mode} ({reason}): {where}")
    return run


def choose_mode() -> tuple[str, str]:
    """W&B's mode, and why: what WANDB_MODE says, else online when logged in and reachable, else offline."""
    import wandb

    if mode := os.environ.get("WANDB_MODE"):
        return mode, "WANDB_MODE"
    if not wandb.login(prompt=False, verify=False):
        return "offline", "not logged in"
    host = urlparse(wandb.setup().settings.base_url)
    if not any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")):
        try:
            socket.create_connection((host.hostname, host.port or 443), timeout=REACH_SECONDS).close()
        except OSError:
            return "offline", f"{host.hostname} does not answer"
    return "online", "logged in"
