"""What a long piece of work says meanwhile: what it is at, how far it is, and how long it still takes.

A terminal gets one line that is written over, and is gone at the end. Anything else gets plain lines, the first after
FIRST seconds, then ever less often; so do jobs that run side by side and share a terminal, each line with the job's
name (`speak_as`). Light.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence

FIRST, SELDOM = 5.0, 60.0  # seconds before the first plain line; between two of them at most
SHOWN, AGAIN = 0.5, 0.1  # seconds before a terminal's line is shown; between two changes of it
SIDE_BY_SIDE = "TRAINSHORT_SIDE_BY_SIDE"  # in the environment: other jobs write into this terminal, too
_name = ""  # of the job that this process carries out


def speak_as(name: str) -> None:
    """From here on plain lines of this process begin with the name of its job, unless it is empty."""
    global _name
    _name = f"{name}: " if name else ""


def speak(text: str) -> None:
    """A plain line."""
    print(_name + text, flush=True)


def side_by_side() -> bool:
    """Whether other jobs write into the same terminal."""
    return SIDE_BY_SIDE in os.environ


def written_over() -> bool:
    """Whether there is a terminal, and for this process alone: a line in it can be written over."""
    return sys.stdout.isatty() and not side_by_side()


def duration(seconds: float) -> str:
    """ "45 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Of a piece of work in steps; a context, which takes the terminal's line away at its end.

    what: it is; costs: of its steps, in any unit, where they are known beforehand.
    """

    def __init__(self, what: str, costs: Sequence[float] = (), clock: Callable[[], float] = time.monotonic):
        self.what, self.costs, self.clock = what, list(costs), clock
        self.at, self.label, self.note, self.part = -1, "", "", 0.0
        self._begin = clock()
        self._next = self._begin + (SHOWN if written_over() else FIRST)
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        if self._width:
            self._write("")

    def step(self, label: str) -> None:
        """The next step begins."""
        self.at, self.label, self.note, self.part = self.at + 1, label, "", 0.0
        self._say()

    def share(self, part: float, note: str = "") -> None:
        """So much of the step, of 1, is done. note: what is to be said beside."""
        self.part, self.note = part, note
        self._say()

    def text(self) -> str:
        """ "scoring yarn at 1024 (7 of 24): 34 %, about 25 s left"."""
        steps = len(self.costs)
        said = f"{self.what} {self.label}" + f" ({self.at + 1} of {steps})" * (steps > 1)
        said += f", {self.note}" * bool(self.note)
        spent, whole = self.clock() - self._begin, sum(self.costs)
        done = sum(self.costs[: self.at]) + self.part * sum(self.costs[self.at : self.at + 1])
        if not (whole and done and spent):
            return f"{said}: {duration(spent)}"
        return f"{said}: {100 * done / whole:.0f} %, about {duration(spent * (whole - done) / done)} left"

    def _say(self) -> None:
        now = self.clock()
        if now < self._next:
            return
        if written_over():
            self._next = now + AGAIN
            self._write(self.text())
        else:
            self._next = now + min(SELDOM, now - self._begin)
            speak(self.text())

    def _write(self, text: str) -> None:
        """The terminal's line, and back to its begin, so that whatever is printed next takes its place."""
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        text = text[: shutil.get_terminal_size().columns - 1]
        plain = getattr(sys.stdout, "stream", sys.stdout)  # a command's stdout lets no cursor move
        plain.write(text.ljust(self._width) + "\r")
        plain.flush()
        self._width = len(text)
