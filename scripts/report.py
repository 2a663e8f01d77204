"""Writes a sweep's report again from its runs' files: comparison.csv, summary.csv, report.md and report.html.

    python -m scripts.report DIR [reference=ENCODING] [level=0.95]

DIR is the folder of a sweep or of a single run. Exit codes are those of a sweep: 3 where a run failed or is missing.
"""

from conf.schema import CompareSettings
from eval.record.jobs import SWEEP_FAILED
from scripts.command import end_with, folder_and_options, number

USAGE = "usage: python -m scripts.report DIR [reference=ENCODING] [level=0.95]"


def main(arguments: list[str]) -> int:
    from eval.compare.report import write_report

    folder, options = folder_and_options(arguments, USAGE, {"reference", "level"})
    level = number("level", options["level"], float) if "level" in options else None
    if level is not None:
        CompareSettings(None, level)  # refuses what can't be
    failed = write_report(folder, reference=options.get("reference"), level=level)
    return SWEEP_FAILED if failed else 0


if __name__ == "__main__":
    end_with(main)
