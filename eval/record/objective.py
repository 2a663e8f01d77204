"""What a sweeper that optimises, such as Optuna's, makes small: the figure of a run that a comparison goes by."""

from __future__ import annotations

import math

from eval.measure.rows import HEADLINE
from eval.record.folder import RunFolder


def objective(run: RunFolder) -> float | None:
    """The loss of the headline protocol, nats a token; of a task the share of answers that are wrong. At the longest
    context, without an extension.

    inf where the run failed, or has no number there; None where it was scored for neither.
    """
    if not run.finished:
        return math.inf
    headline = [row for row in run.results["rows"] if row["protocol"] == HEADLINE and "control" not in row]
    rows = [row for row in run.results.get("tasks") or headline if row["extension"] == "none"]
    if not rows:
        return None
    longest = max(rows, key=lambda row: row["length_ratio"])
    if longest["status"] != "ok":
        return math.inf
    return 1 - longest["exact_match"] if "exact_match" in longest else longest["nats"]
