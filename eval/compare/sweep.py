"""The end of a sweep: its report, and a run of W&B that sums it up. Light to import."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from conf.schema import LoggerSettings
from eval.record.jobs import SWEEP_FAILED, give_up
from eval.record.sweep import SweepCallback, started

if TYPE_CHECKING:
    from eval.compare.comparison import Comparison


class SweepReport(SweepCallback):
    """Also gathers the runs of a multirun into a report; ends it with exit code 3 where a job failed."""

    def on_multirun_end(self, config, **kwargs: Any) -> None:
        from omegaconf import OmegaConf

        from eval.compare.comparison import read_comparison
        from eval.compare.report import print_comparison, write_files

        jobs = started(self.job_list)
        print(f"--- comparing the runs in {self.job_list.parent}", flush=True)
        try:
            comparison = read_comparison(self.job_list.parent, jobs=jobs, compare=OmegaConf.to_object(config.compare))
            write_files(comparison)
            print_comparison(comparison)
        except Exception as error:
            give_up(error)
        try:
            track_sweep(OmegaConf.to_object(config.logger), comparison, config.runs)
        finally:
            if any(run.name in jobs for run in comparison.left_out):
                sys.exit(SWEEP_FAILED)
            self.job_list.unlink()  # nothing is missing


def track_sweep(logger: LoggerSettings, comparison: Comparison, runs: str) -> None:
    """A run of W&B that sums up a sweep: the curves with their intervals and, of each protocol's longest context, the
    comparison with its verdicts as tables, and report.html as an artifact. runs: the folder that sweeps lie in."""
    from eval.compare.comparison import summary_table
    from eval.record.tracking import SWEEP, track

    folder, table = comparison.path, summary_table(comparison)
    sweep = os.path.relpath(folder, runs)
    plain = table[table["extension"] == "none"]
    last = plain[plain["context_length"] == plain.groupby("protocol")["context_length"].transform("max")]
    with track(logger, "summary", folder, runs, sweep, job_type=SWEEP) as tracker:
        tracker.log_table("sweep/curves", table)
        tracker.log_table("sweep/comparison", last)
        tracker.keep_file(folder / "report.html", "report")
