"""Quicker imports, and reading of many runs: without what nothing here uses, and without a search for garbage where
hardly any is made. Light."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("scipy", "transformers", "matplotlib")  # what torchmetrics imports for metrics of sound and text, and plots


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's search for garbage in cycles, which goes through all that there is again and again, waits inside."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def quick_imports() -> Iterator[None]:
    """Importing Lightning takes half the time inside: torchmetrics, which comes with it, finds none of UNUSED, and
    nothing is collected, nor looked at by later searches what the first of these imports has made."""
    from lightning_utilities.core import imports

    first = "lightning" not in sys.modules  # later there may be models, which are garbage one day

    class Requirement(imports.RequirementCache):
        def __bool__(self) -> bool:
            return not (self.requirement or "").startswith(UNUSED) and super().__bool__()

    own = {"RequirementCache": imports.RequirementCache, "package_available": imports.package_available}
    imports.RequirementCache = Requirement
    imports.package_available = lambda name: name not in UNUSED and own["package_available"](name)
    try:
        with uncollected():
            yield
            if first:
                gc.freeze()
    finally:
        vars(imports).update(own)
