"""Signals that ask a process to stop: Ctrl-C, SIGTERM, and SIGHUP, by which a terminal says that it is gone.

A command listens from its first line on. A signal ends it at once, whatever it is at, after its `last_words`: nothing
is raised, which other code could catch or print. While it trains, the signal is only noted: it stops at the end of the
step, after its checkpoint. Light: what a command imports first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # prctl(2)
PATIENCE = 3.0  # seconds in which further signals are taken for the same one: a terminal and a launcher both send it


class Interrupted(SystemExit):
    """A signal asked the process to stop. Its exit code is 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self):
        return f"stopped by {signal.Signals(self.signum).name}"


class _State:
    """Of this process."""

    asked = 0  # the signal that asked it to stop
    since = 0.0  # when, by time.monotonic
    deferred = False  # it stops by itself, where it has put away what it is at
    last_words: list[Callable[[Interrupted], None]] = []  # noqa: RUF012


def listen() -> None:
    """From here on a signal ends the process as this module says. What nohup wants ignored stays so."""
    for signum in SIGNALS:
        if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _stop)


def end_with_parent(parent: int) -> None:
    """In a process that another has started: listens, and takes the end of that one for SIGTERM."""
    listen()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended before
        os.kill(os.getpid(), signal.SIGTERM)


def asked() -> int:
    """The signal that has asked the process to stop, 0 where none has."""
    return _State.asked


@contextmanager
def last_words(say: Callable[[Interrupted], None]) -> Iterator[None]:
    """What is to be done before a signal ends the process in here."""
    _State.last_words.append(say)
    try:
        yield
    finally:
        _State.last_words.remove(say)


@contextmanager
def deferred() -> Iterator[None]:
    """A signal in here is noted, for who asks; it ends the process where this comes to its end. One that comes seconds
    after it ends it at once."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    listen()
    _State.asked, _State.deferred = 0, True
    try:
        yield
        if _State.asked:
            raise Interrupted(_State.asked)
    finally:
        _State.deferred = False
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _stop(signum, frame) -> None:
    if first := not _State.asked:
        _State.asked, _State.since = signum, time.monotonic()
        with suppress(OSError):  # past the streams, in which the signal may have found the process
            os.write(2, f"{Interrupted(signum)}: run the same command again to go on\n".encode())
    if (first and not _State.deferred) or time.monotonic() - _State.since > PATIENCE:
        _end(Interrupted(_State.asked))


def _end(stop: Interrupted) -> None:
    while _State.last_words:
        with suppress(OSError):
            _State.last_words.pop()(stop)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # gone, closed, or in the midst of writing
            stream.flush()
    os._exit(stop.code)


def _leave_to_the_parent() -> None:
    """In a forked process, such as one that loads data: who started it ends it."""
    if any(signal.getsignal(signum) is _stop for signum in SIGNALS):
        _State.last_words, _State.deferred, _State.asked = [], False, 0
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for signum in SIGNALS[1:]:
            signal.signal(signum, signal.SIG_DFL)


os.register_at_fork(after_in_child=_leave_to_the_parent)
