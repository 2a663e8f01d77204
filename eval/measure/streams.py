"""Which text serves which purpose in measuring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from data.stream import TokenStream

CALIBRATION = {"test": "validation", "validation": "train"}  # the split that extensions are tuned on, by that scored


class Streams(NamedTuple):
    """The stream that is scored, the one that extensions are tuned on, and the one that floors are fitted on."""

    scored: TokenStream
    calibration: TokenStream
    training: TokenStream

    @classmethod
    def of(cls, streams: Mapping[str, TokenStream], split: str) -> Streams:
        """By the split that is scored."""
        return cls(streams[split], streams[CALIBRATION[split]], streams["train"])
