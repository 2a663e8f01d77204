"""Writes a sweep's report again from its runs' files: comparison.csv, summary.csv, report.md and report.html.

    python -m scripts.report DIR [reference=ENCODING] [level=0.95]

DIR is the folder of a sweep or of a single run. Exit codes are those of a sweep: 3 where a run failed or is missing.
"""

import sys

from eval.record.jobs import FAILED, MISTAKES, SWEEP_FAILED, one_sentence

USAGE = "usage: python -m scripts.report DIR [reference=ENCODING] [level=0.95]"


def main(arguments: list[str]) -> int:
    from eval.compare.report import write_report

    folders = [argument for argument in arguments if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    reference, level = options.pop("reference", None), options.pop("level", None)
    if len(folders) != 1 or options:
        raise ValueError(USAGE)
    failed = write_report(folders[0], reference=reference, level=None if level is None else float(level))
    return SWEEP_FAILED if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MISTAKES as error:
        print(f"error: {one_sentence(error)}", file=sys.stderr)
        sys.exit(FAILED)
