"""What identifies a row of results within a run."""

from collections.abc import Mapping
from typing import Any

PLACE = ("protocol", "extension", "context_length")
PART = ("control", "position")  # of some rows alone: a floor in the model's place, a stretch of positions


def row_key(row: Mapping[str, Any]) -> str:
    """protocol/extension/context length, and where it has them the control and the position.

    >>> row_key({"protocol": "positions", "extension": "none", "context_length": 64, "position": 8})
    'positions/none/64/8'
    """
    return "/".join(str(row[name]) for name in (*PLACE, *(name for name in PART if name in row)))
