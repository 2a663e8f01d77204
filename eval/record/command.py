"""A command, from its first line to its last: what it prints, how it answers a mistake, what it has settled of Hydra.
Light to import."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from conf.mistakes import naming_settings
from conf.own import check_name
from conf.schema import CONF
from eval.record.jobs import ANSWERING, FULL_ERROR, MISTAKES, give_up, traceback_asked

# Minus, dash, space, dot, times; at most, at least.
ALIKE = {"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u00b7": "*", "\u00d7": "x", "\u2264": "<=", "\u2265": ">="}
# Control characters (C0, DEL, C1), by which a terminal's title is set, its screen cleared, a line overwritten.
CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
# Settings of Hydra's that a command's own yaml file has settled: why, and what to do instead.
RUNS = "runs lie where runs, sweep and run_id say: set those instead"
SETTLED = {
    "run.dir": RUNS,
    "sweep.dir": RUNS,
    "sweep.subdir": RUNS,
    "job.chdir": "paths are read from the folder in which the command is given: leave it out",
}


class Shown:
    """A stream that shows control characters, other than those in `kept`, instead of sending them: names, messages and
    texts that are printed may come from anywhere."""

    def __init__(self, stream: TextIO, kept: str = "\n\t"):
        self.stream = stream
        self.shown = {code: text for code, text in CONTROL.items() if chr(code) not in kept}

    def write(self, text: str) -> int:
        return self.stream.write(text.translate(self.shown))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Lasting(io.FileIO):
    """A file that can be written to the end of the process, though its reader or its terminal is gone or its disk is
    full: what is written then is lost."""

    def write(self, content):
        try:
            return super().write(content)
        except OSError:
            return len(content)


def print_what_can_be() -> None:
    """From here on no print ends the process: what the terminal's encoding lacks is printed as a like character of
    ASCII, or as "?", control characters are `Shown`, and what can't be written at all is left out."""

    def alike(error: UnicodeEncodeError) -> tuple[str, int]:
        return "".join(ALIKE.get(letter, "?") for letter in error.object[error.start : error.end]), error.end

    codecs.register_error("alike", alike)
    if isinstance(sys.stdout, Shown):
        return
    for handle in range(3):  # one that is closed would become that of a file which is opened later, and be printed into
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = Shown(_lasting(1, sys.stdout))
    sys.stderr = Shown(_lasting(2, sys.stderr), kept="\n\t\r")  # progress bars go back to a line's begin


def _lasting(handle: int, stream: io.TextIOWrapper | None) -> io.TextIOWrapper:
    """What writes to a handle as the stream does; None stands for one that was closed."""
    if stream is not None:
        stream.flush()
    file = io.BufferedWriter(Lasting(handle, "w", closefd=False))
    encoding = stream.encoding if stream else "utf-8"
    by_line = stream is not None and (stream.line_buffering or stream.write_through)
    return io.TextIOWrapper(file, encoding, errors="alike", line_buffering=by_line)


@contextmanager
def answering() -> Iterator[None]:
    """Around a command: a user's mistake ends the process with one sentence and exit code 1."""
    print_what_can_be()
    if traceback_asked():
        yield
        return
    os.environ |= {FULL_ERROR: "1", ANSWERING: "1"}
    try:
        with naming_settings():
            yield
    except MISTAKES as error:
        give_up(error)
    finally:
        for name in (FULL_ERROR, ANSWERING):
            os.environ.pop(name, None)


class Command(Callback):
    """Called by Hydra before a command's first job, and for each job in its own process: refuses SETTLED where they are
    not as conf/`file` has them, and choices that come to nothing."""

    def __init__(self, file: str):
        self.file = file

    def on_run_start(self, config, **kwargs: Any) -> None:
        given, own = (
            OmegaConf.to_container(each.hydra, resolve=False) for each in (config, OmegaConf.load(CONF / self.file))
        )
        for key, advice in SETTLED.items():
            group, name = key.split(".")
            if given[group][name] != own[group][name]:
                give_up(ValueError(f"hydra.{key}={given[group][name]}: {advice}"))
        _check_choices(config)

    on_multirun_start = on_run_start

    def on_job_start(self, config, **kwargs: Any) -> None:
        print_what_can_be()
        _check_choices(config)


def _check_choices(config) -> None:
    """Ends the command where it chooses an encoding or an extension whose file has another's name, or an option of a
    group, all of whose settings its experiment has settled."""
    for group, option in config.hydra.runtime.choices.items():
        path = CONF / group.partition("@")[0] / f"{option}.yaml"
        if path.parent.name in ("encoding", "extension") and path.exists():  # those of one's own have been checked
            try:
                check_name(path)
            except ValueError as error:
                give_up(error)
    experiment = config.hydra.runtime.choices.get("experiment")
    settled = _file("experiment", experiment)
    for override in config.hydra.overrides.task:
        group, _, option = override.partition("=")
        if not (values := _file(group, option)):
            continue
        own = settled.get(group, {})
        if values.keys() <= own.keys() and any(own[key] != value for key, value in values.items()):
            said = f"{override}: experiment={experiment} settles all of {group} itself: leave one of them out"
            give_up(ValueError(said))


def _file(group: str, option: str | None) -> dict[str, Any]:
    """The settings of an option's own file; none where conf has no such file."""
    path = CONF / group / f"{option}.yaml"
    if not (group.isidentifier() and option and option.isidentifier() and path.exists()):
        return {}
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
    return {key: value for key, value in values.items() if key != "defaults"}
