"""Packages: one that is not there, explained in a sentence, so that whoever gives a command in another environment than
the project's sees how to get there, and no traceback; and the heavy ones, imported without what nothing here uses.
Light: what a command imports first.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNUSED = ("scipy", "transformers", "matplotlib")  # what torchmetrics imports for metrics of sound and text, and plots
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


@contextmanager
def quick_imports() -> Iterator[None]:
    """Importing Lightning takes half the time inside: torchmetrics, which comes with it, finds none of UNUSED, and the
    garbage of imports, which is next to none, isn't looked for, nor ever after in what they have made."""
    from lightning_utilities.core import imports

    class Requirement(imports.RequirementCache):
        def __bool__(self) -> bool:
            return not (self.requirement or "").startswith(UNUSED) and super().__bool__()

    own = {"RequirementCache": imports.RequirementCache, "package_available": imports.package_available}
    collects = gc.isenabled()
    gc.disable()
    imports.RequirementCache = Requirement
    imports.package_available = lambda name: name not in UNUSED and own["package_available"](name)
    try:
        yield
    finally:
        vars(imports).update(own)
        gc.freeze()
        if collects:
            gc.enable()
