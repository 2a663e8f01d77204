"""W&B as a mirror of the files: never a prompt, never a hang, never a lost run.

A record of W&B is whole by itself: it begins with what was known when the run was begun or taken up again, and ends
with all of it, under an id that is kept in the run's folder. So the newest record of an id stands for those before it,
in the terminal and on W&B's page, where a run without `resume` and what `wandb sync` uploads overwrite the run of their
id. Offline records of all sweeps lie in one folder, runs/wandb, so that the terminal dashboard can overlay them.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import pandas as pd

from conf.mistakes import one_sentence
from conf.quick import quick_imports
from conf.schema import LoggerSettings, ModelSettings, Settings
from conf.typed import plain
from data.module import TextDataModule, WindowDataModule
from eval.measure.effective import SIGNS, of_one_run
from eval.measure.rows import HEADLINE
from eval.record.files import write_atomic
from eval.record.folder import RunFolder
from eval.record.objective import objective
from eval.record.sample import samples
from eval.record.sweep import AGENT
from model.devices import rank
from model.signals import last_words
from model.training.checkpoint import newest
from model.transformer import Transformer

REACH_SECONDS = 3
INIT_SECONDS = 30
FINISH_SECONDS = 5  # once a signal has asked to stop
MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
ID_FILE = "wandb-id"  # in the folder of a run or a sweep
FIGURES = ("perplexity", "nats", "bits_per_byte", "exact_match", "token_accuracy")  # of a row, where it has them
SORTED = ("perplexity", "bits_per_byte", "exact_match")  # those that runs are sorted by
# What W&B calls a field of the training curve's points; its axes, each a metric itself; the job type of a sweep's run.
CURVE = {
    "loss": "train/loss",
    "val_loss": "val/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "train/tokens_per_second",
    "context": "train/context",
}
# Last in the terminal, which hides no axis and sorts by name.
STEP, TOKENS, CONTEXT_LENGTH, POSITION = "x/step", "x/tokens", "x/context_length", "x/position"
# What charts are called: the curves to look at first, whose section comes first; sections and figures of the others.
HEADLINES = {(HEADLINE, "perplexity"): "eval/ppl", ("exact_match", "exact_match"): "eval/exact"}
SECTIONS = {HEADLINE: "fixed", "non_overlapping": "windows", "positions": "pos", "exact_match": "task"}
SHORT = {"perplexity": "ppl", "bits_per_byte": "bpb", "exact_match": "exact", "token_accuracy": "acc"}
LOSSES = ("loss", "val_loss")  # the last of which the summary has as the curve's
TRAIN, SWEEP = "train", "sweep"
OBJECTIVE = "objective"  # in the summary: what a sweep of W&B's makes small
ENCODING = "encoding_name"  # in the config, where a sweep of W&B's may have settled `encoding` as a word
PARENT_RUN = "parent_run"  # in the config of a second stage: W&B's id of the run that it starts from


def metric(protocol: str, figure: str, what: str = "none") -> str:
    """W&B's name of a row's figure, a chart's title: of the HEADLINES by themselves, else the protocol and the figure;
    after them the extension or the control. Short, since the terminal shows 22 characters of it where three charts
    stand side by side in 160 columns, and of a longer name 19 or fewer, cut at a slash beyond the 13th.

    >>> metric("fixed_targets", "perplexity"), metric("fixed_targets", "nats"), metric("sliding", "perplexity", "yarn")
    ('eval/ppl', 'fixed/nats', 'sliding/ppl/yarn')
    """
    name = HEADLINES.get((protocol, figure)) or f"{SECTIONS.get(protocol, protocol)}/{SHORT.get(figure, figure)}"
    return name if what == "none" else f"{name}/{what}"


def summary_name(protocol: str, figure: str, extension: str = "none") -> str:
    """W&B's name of a figure among a run's single values, in the words of its files.

    >>> summary_name("fixed_targets", "perplexity", "yarn")
    'fixed_targets/yarn/perplexity'
    """
    return "/".join([protocol, *([] if extension == "none" else [extension]), figure])


class Tracker:
    """Sends points and rows to a W&B run, or nowhere. A failing W&B is reported once and then left alone."""

    def __init__(self, run=None):
        self.run = run

    def log_point(self, point: Mapping[str, float]) -> None:
        """A point of the training curve, against tokens; W&B's own step is the optimizer's."""
        values = {STEP: point["step"], TOKENS: point["tokens"], **{CURVE[k]: v for k, v in point.items() if k in CURVE}}
        self._try(lambda: self.run.log(values, step=int(point["step"])))

    def log_curve(self, curve: pd.DataFrame) -> None:
        """A training curve as a run's folder has it."""
        for point in curve.to_dict("records"):
            self.log_point({field: value for field, value in point.items() if pd.notna(value)})

    def log_figures(self, rows: Iterable[Mapping[str, Any]], context: int) -> None:
        """Single values of the run to sort by: a figure at each multiple of the training context, as they are found."""
        self.summarise(figures(rows, context))

    def log_run(self, folder: RunFolder, model: Transformer, data: WindowDataModule) -> None:
        """All that is known of a run once it is trained and scored, beside its training curve: the extrapolation
        curves, the summary, text samples and, where there are such files, its report and checkpoint."""
        if self.run is None:
            return
        settings, results = folder.settings, folder.results
        rows = [*results["rows"], *results.get("tasks", [])]
        self.log_rows(rows)
        self.log_figures(rows, settings.first_context)
        self.log_retrieval(results.get("retrieval", []))
        effective = of_one_run(folder.windows, settings.compare.level)
        self.summarise(effective_fields(effective, settings.first_context))
        facts = {name: value for name, value in results["training"].items() if name not in LOSSES}
        self.summarise({**facts, **{f"parameters/{part}": count for part, count in results["parameters"].items()}})
        if (goal := objective(folder)) is not None and math.isfinite(goal):
            self.summarise({OBJECTIVE: goal})
        if isinstance(data, TextDataModule):
            self.log_table("samples", pd.DataFrame(samples(model, data, settings.context)))
        if (report := folder.report).exists():
            self.keep_file(report, "report")
        if settings.logger.checkpoint:
            self.keep_file(newest(folder.checkpoints), "model")

    def log_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The extrapolation curves, by `metric`: what was scored at one context length (or position) is one entry, and
        the entries ascend, since W&B joins points in the order in which they come. Of rows that share a place and a
        name the first is the run's own."""
        entries: dict[tuple[str, int], dict[str, float]] = {}
        for row in _scored(rows):
            axis, place = (POSITION, "position") if "position" in row else (CONTEXT_LENGTH, "context_length")
            entry = entries.setdefault((axis, row[place]), {})
            for figure in FIGURES:
                if row.get(figure) is not None:
                    name = metric(row["protocol"], figure, row.get("control", row["extension"]))
                    entry.setdefault(name, row[figure])
        for axis in (CONTEXT_LENGTH, POSITION):
            names = dict.fromkeys(name for (of, _), entry in entries.items() if of == axis for name in entry)
            self._try(lambda names=names, axis=axis: [self._define(name, axis) for name in names])
        for (axis, place), entry in sorted(entries.items()):
            self._log({axis: place, **entry})

    def log_retrieval(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Heat maps of the gain by depth and context length, one a needle and extension, beside their rows as a table;
        and to sort runs by, gain and exact match over all depths at each multiple of the training context."""
        found = pd.DataFrame([row for row in rows if row["status"] == "ok"])
        if found.empty or self.run is None:
            return
        import plotly.graph_objects as go
        import wandb

        self.log_table("retrieval", found)
        for (needle, extension), own in found.groupby(["needle", "extension"], sort=False):
            name = "/".join(["retrieval", needle, *([] if extension == "none" else [extension])])
            grid = own.pivot(index="depth", columns="length_ratio", values="gain")
            axes = {"x": [f"{ratio:g}x" for ratio in grid.columns], "y": [f"{depth:g}" for depth in grid.index]}
            chart = go.Figure(go.Heatmap(z=grid.to_numpy(), colorscale="Cividis", zmin=0, **axes))
            titles = {"xaxis_title": "context length", "yaxis_title": "depth", "title": f"{name}: gain, nats a token"}
            self._log({name: wandb.Plotly(chart.update_layout(**titles))})
            means = own.groupby("length_ratio")[["gain", "exact_match"]].mean().stack()
            self.summarise({f"{name}/{figure}/{ratio:g}x": value for (ratio, figure), value in means.items()})

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
        """Single values of the run: figures, cost, parameters."""
        self._try(lambda: self.run.summary.update(dict(fields)))

    def define(self) -> None:
        """Says which field is whose axis. No patterns: where two match, W&B takes either."""
        for axis in (STEP, TOKENS, CONTEXT_LENGTH, POSITION):
            self.run.define_metric(axis, hidden=True, summary="none")
        for field, name in CURVE.items():
            self._define(name, TOKENS, None if field in LOSSES else "none")

    def _define(self, name: str, axis: str, summary: str | None = "none") -> None:
        self.run.define_metric(name, step_metric=axis, summary=summary)

    def _log(self, values: Mapping[str, Any]) -> None:
        """An entry of its own, after those before."""
        self._try(lambda: self.run.log(dict(values), step=self.run.step + 1))

    def _try(self, action) -> None:
        if self.run is None:
            return
        try:
            action()
        except Exception as error:
            warnings.warn(f"W&B failed ({one_sentence(error)}); the run goes on, its files are complete", stacklevel=3)
            self.run = None


def figures(rows: Iterable[Mapping[str, Any]], context: int) -> dict[str, float]:
    """What runs are sorted by, named by protocol, figure and multiple of the training context; floors are the corpus',
    and no run's.

    >>> figures([{"status": "ok", "protocol": "sliding", "extension": "pi", "context_length": 48, "nats": 3.0,
    ...           "perplexity": 20.1}], context=32)
    {'sliding/pi/perplexity/1.5x': 20.1}
    """
    named: dict[str, float] = {}
    for row in _scored(rows):
        if "position" in row or "control" in row:
            continue
        multiple = row.get("length_ratio", row["context_length"] / context)
        for figure in SORTED:
            if row.get(figure) is not None:
                name = summary_name(row["protocol"], figure, row["extension"])
                named.setdefault(f"{name}/{multiple:g}x", row[figure])
    return named


def effective_fields(effective: pd.DataFrame, context: int) -> dict[str, Any]:
    """Effective contexts by W&B's names: in tokens and multiples of the training context, and of what they are a bound;
    over the windows of this run alone. effective: of eval.measure.effective."""
    named: dict[str, Any] = {}
    for row in effective.dropna(subset="effective_context").itertuples():
        name = summary_name(HEADLINE, "effective_context", row.extension)
        named |= {name: int(row.effective_context), f"{name}_ratio": float(row.effective_context / context)}
        if row.effective_bound in SIGNS:
            named[f"{name}_bound"] = row.effective_bound
    return named


def _scored(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["status"] == "ok")


@contextmanager
def track(
    logger: LoggerSettings,
    name: str,
    folder: Path | str,
    runs: Path | str,
    group: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    job_type: str = TRAIN,
    given_id: str | None = None,
) -> Iterator[Tracker]:
    """A tracker for one run of W&B; says in one line which mode was chosen, and why.

    folder: what the run is a record of; its id is kept there. runs: where W&B's own files lie, unless logger.dir is
    given. config: what W&B shows as the run's. given_id: an id in the place of the folder's.
    """
    if logger.name == "none" or rank():
        yield Tracker()
        return
    try:
        identifier = record_id(Path(folder), f"{name}-{group}" if group else name, given_id)
        place = Path(logger.dir or runs)
        run = _start(logger, config or {}, identifier, name, place, job_type, logger.run_group or group)
    except Exception as error:
        warnings.warn(
            f"W&B could not start ({one_sentence(error)}); the run goes on, its files are complete", stacklevel=3
        )
        yield Tracker()
        return
    tracker, code = Tracker(run), 1
    try:
        with last_words(lambda stop: _finish_in_time(run, stop.code)):
            yield tracker
        code = 0
    finally:
        try:
            run.finish(exit_code=code)
            if code == 0 and tracker.run is not None:
                _remove_replaced(run)
        except Exception as error:
            warnings.warn(f"W&B could not finish ({one_sentence(error)}); the files are complete", stacklevel=3)
            _let_go()


def _finish_in_time(run, code: int) -> None:
    """Finishes in a thread of its own: a signal may have found this one in the midst of W&B."""

    def finish():
        with suppress(Exception):
            run.finish(exit_code=code)

    thread = Thread(target=finish, daemon=True)
    thread.start()
    thread.join(FINISH_SECONDS)


def track_run(settings: Settings) -> AbstractContextManager[Tracker]:
    """`track` for the run of these settings. Its id may be given by WANDB_RUN_ID, as an agent of W&B's sweeps does,
    where it is no job of a multirun, whose jobs would share it."""
    given_id = os.environ.get("WANDB_RUN_ID") if settings.sweep is None or AGENT in os.environ else None
    return _track_settings(settings, RunFolder.of(settings).path, given_id)


def track_scored(folder: RunFolder, model: Transformer, data: WindowDataModule) -> None:
    """The record of a finished run that was scored again, whole, under the run's own id."""
    with _track_settings(folder.settings, folder.path) as tracker:
        tracker.log_curve(folder.curve)
        tracker.log_run(folder, model, data)


def _track_settings(settings: Settings, folder: Path, given_id: str | None = None) -> AbstractContextManager[Tracker]:
    logger, runs, group = settings.logger, settings.runs, settings.sweep
    name = logger.display_name or settings.run_id
    config = {**plain(settings), ENCODING: settings.encoding["name"]}
    if settings.stage and (parent := Path(settings.init, ID_FILE)).exists():
        config[PARENT_RUN] = parent.read_text(encoding="utf-8").strip()
    return track(logger, name, folder, runs, group, config=config, given_id=given_id)


def record_id(folder: Path, name: str, given: str | None = None) -> str:
    """W&B's id of what lies in a folder, kept there in a file: the name, as far as an id can hold it (the terminal
    shows how the id begins), and eight random characters, so that no two users, names or folders share one."""
    path = folder / ID_FILE
    if given is None and path.exists():
        return path.read_text().strip()
    folder.mkdir(parents=True, exist_ok=True)
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", name)[:80].strip("-")
    identifier = given or f"{readable}-{secrets.token_hex(4)}"
    write_atomic(path, identifier.encode())
    return identifier


def _remove_replaced(run) -> None:
    """Removes the offline records of a run that the one just finished stands for."""
    own = Path(run.settings.sync_dir)
    for record in own.parent.glob(f"offline-run-????????_??????-{run.id}"):
        if record != own:
            shutil.rmtree(record)


def _let_go() -> None:
    """Ends W&B's own process, or forgets it where it has died: the next run in this process starts another."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def _start(
    logger: LoggerSettings, config: Mapping, identifier: str, name: str, place: Path, job_type: str, group: str | None
):
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")
    os.environ.setdefault("WANDB_DATA_DIR", str(place.resolve() / "wandb"))  # what `wandb sync` uploads of artifacts
    with quick_imports():
        import wandb

    tags = logger.tags or [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    if "encoding" in config:
        tags = [*tags, config["encoding"]["name"], *ModelSettings(**config["model"]).options.values()]
    (place / "wandb").mkdir(parents=True, exist_ok=True)

    def init(mode: str):
        with _without_launch():
            return wandb.init(
                project=logger.project,
                entity=logger.entity,
                group=group,
                job_type=job_type,
                name=name,
                notes=logger.notes,
                id=identifier,
                tags=tags,
                config=dict(config),
                dir=place,
                mode=mode,
                settings=wandb.Settings(init_timeout=INIT_SECONDS, console="off", silent=True),
            )

    mode, reason = choose_mode()
    try:
        run = init(mode)
    except Exception as error:
        if mode != "online":
            raise
        mode, reason = "offline", f"online W&B says: {one_sentence(error)}"
        _let_go()  # of the id, which the first attempt holds
        run = init(mode)
    _keep_settled(run, config)
    Tracker(run).define()
    if mode == "offline":
        where = f": wandb sync {run.dir.removesuffix('/files')}; wandb leet {place}/wandb"
    else:
        where = f": {run.url}" if run.url else ""
    print(f"W&B: {mode} ({reason}){where}")
    return run


@contextmanager
def _without_launch() -> Iterator[None]:
    """Spares W&B's start the import of its Launch, a second, which it makes to ask for inputs that were staged by calls
    of Launch in this process: there are none."""
    name = "wandb.sdk.launch.inputs.internal"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = SimpleNamespace(StagedLaunchInputs=lambda: SimpleNamespace(apply=lambda run: None))
    try:
        yield
    finally:
        del sys.modules[name]


def _keep_settled(run, config: Mapping[str, Any]) -> None:
    """Gives a run the settings of a group whose choice a sweep of W&B's has settled, one by one, as "encoding.base":
    the group's name is the sweep's then."""
    groups = [name for name, value in config.items() if isinstance(value, Mapping)]
    settled = [group for group in groups if not isinstance(run.config.get(group), Mapping)]
    run.config.update({f"{group}.{key}": value for group in settled for key, value in config[group].items()})


def choose_mode() -> tuple[str, str]:
    """W&B's mode, and why: what WANDB_MODE says, else online when logged in and reachable, else offline; never online
    without a login, which W&B would ask for, nor with one that can't be right."""
    import wandb

    asked = os.environ.get("WANDB_MODE") or None
    if asked is not None and asked not in MODES:
        os.environ["WANDB_MODE"] = "offline"  # W&B reads it too, and stops
        return "offline", f"WANDB_MODE={asked!r} is none of W&B's modes: online, offline, disabled"
    if asked is not None and MODES[asked] != "online":
        return MODES[asked], "WANDB_MODE"
    try:
        if not wandb.login(prompt=False, verify=False):
            return "offline", "not logged in"
        host = urlparse(wandb.setup().settings.base_url)
    except Exception as error:
        return "offline", f"no login: {one_sentence(error)}"
    if asked:
        return "online", "WANDB_MODE"
    if not any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")):
        try:
            socket.create_connection((host.hostname, host.port or 443), timeout=REACH_SECONDS).close()
        except OSError:
            return "offline", f"{host.hostname} does not answer"
    return "online", "logged in"
