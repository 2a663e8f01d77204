"""A sweep's folder: its runs gathered into comparison.csv, report.html, report.md and a table, best first.

`SweepCallback` does so when a multirun ends, and exits with 3 where a job failed. Everything is read from the runs'
files, so `python -m scripts.report DIR` does the same at any later time. Light to import.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

SWEEP_FAILED = 3


class SweepCallback(Callback):
    """Called by Hydra when a multirun starts, for each of its jobs, and when it ends."""

    def on_multirun_start(self, config, **kwargs: Any) -> None:
        from eval.identity import register_resolvers

        register_resolvers()

    def on_multirun_end(self, config, **kwargs: Any) -> None:
        from eval.report import write_report

        failed = write_report(Path(config.runs) / config.sweep)
        if failed:
            sys.exit(SWEEP_FAILED)
