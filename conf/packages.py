"""A package that is not there, explained in a sentence: whoever gives a command in another environment than the
project's sees how to get there, and no traceback. Light: what a command imports first.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def explain_missing() -> None:
    """From here on a package that is missing ends the process with a sentence, and exit code 1."""

    def explain(kind, error, trace) -> None:
        if said := missing(error):
            print(f"error: {said}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = explain


def missing(error: BaseException) -> str | None:
    """What to do about an import that failed for want of a package; None for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    if (ROOT / package).exists() or (ROOT / f"{package}.py").exists():  # a fault of the program
        return None
    return (
        f"this Python ({sys.executable}) has no package {package}: use the environment that `make run` sets up "
        "(`source .venv/bin/activate`, or `make shell`), or install the project's packages into this one "
        "(`python -m pip install -e .`)"
    )
