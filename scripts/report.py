"""Writes a sweep's report again from its runs' files: comparison.csv, summary.csv, report.md and report.html.

    python -m scripts.report DIR [reference=ENCODING] [level=0.95] [evaluator=RUN] [key_gain=0.5] [key_loss=2]

DIR is the folder of a sweep or of a single run; RUN that of a run which chooses the key tokens of LongPPL.
Exit codes are those of a sweep: 3 where a run failed or is missing.
"""

from conf.schema import CompareSettings
from eval.record.jobs import SWEEP_FAILED
from scripts.command import end_with, folder_and_options, number

USAGE = (
    "usage: python -m scripts.report DIR [reference=ENCODING] [level=0.95] [evaluator=RUN] [key_gain=0.5] [key_loss=2]"
)
NUMBERS = ("level", "key_gain", "key_loss")


def main(arguments: list[str]) -> int:
    from eval.compare.report import write_report

    folder, options = folder_and_options(arguments, USAGE, {"reference", "evaluator", *NUMBERS})
    options |= {name: number(name, options[name], float) for name in NUMBERS if name in options}
    CompareSettings(**{"reference": None, "level": 0.95, **options})  # refuses what can't be
    failed = write_report(folder, **options)
    return SWEEP_FAILED if failed else 0


if __name__ == "__main__":
    end_with(main)
