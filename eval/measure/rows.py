"""What measuring finds, and what identifies a row of it within a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from eval.measure.statistics import Interval

Row = Mapping[str, Any]
HEADLINE = "fixed_targets"  # the protocol that the verdict goes by
PLACE = ("protocol", "extension", "context_length")
PART = ("control", "position")  # of some rows alone: a floor in the model's place, a stretch of positions
UNIT = ("needle", "depth", "length")  # of rows that are no perplexity: of a needle, or of a task's examples


@dataclass(frozen=True)
class Measured:
    """What one step of measuring has found, to be recorded: rows of perplexity, of retrieval or of a task, with what is
    behind them by `row_key` (see Targets.stored, and eval/measure/units.py), or a probe's rows and the settings it ran
    with by its name."""

    rows: Sequence[Row] = ()
    losses: Mapping[str, np.ndarray] = field(default_factory=dict)
    probes: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    probe_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tasks: Sequence[Row] = ()
    retrieval: Sequence[Row] = ()


def row_key(row: Row) -> str:
    """The evaluation, protocol/extension/context length, and where it has them PART and UNIT.

    >>> place = {"protocol": "positions", "extension": "none", "context_length": 64, "position": 8}
    >>> row_key({"evaluation": "1f2e3d4c", **place})
    '1f2e3d4c/positions/none/64/8'
    """
    return "/".join(str(row[name]) for name in ("evaluation", *PLACE, *PART, *UNIT) if name in row)


def place_of(extension: str, length: int) -> str:
    """What is at work there, in words: "yarn at 1024", and "at 1024" without an extension."""
    return f"{extension} at {length}" if extension != "none" else f"at {length}"


def identity(row: Row, names: Iterable[str]) -> tuple:
    """What must be the same for a row to answer the same question: its fields of these names."""
    return tuple(row.get(name) for name in names)


def answered(known: Iterable[Row], stored: Collection[str], names: Iterable[str]) -> set[tuple]:
    """The identities of the known rows that stand: those without figures, and those of which what is behind them is
    stored, by `row_key`."""
    return {identity(row, names) for row in known if row["status"] != "ok" or row_key(row) in stored}


def interval_fields(interval: Interval) -> dict[str, Any]:
    """How an interval stands in a row: its bounds and what it covers, or the reason why there is none."""
    fields = {
        "perplexity_low": interval.perplexity_low,
        "perplexity_high": interval.perplexity_high,
        "interval_level": interval.level,
        "interval_covers": interval.covers,
    }
    return fields if interval.reason is None else fields | {"interval_reason": interval.reason}
