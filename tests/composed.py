"""The settings that `python train.py` with some arguments has, as the plain dicts that a run's config.json holds."""

from __future__ import annotations

from typing import Any

from conf.typed import plain
from eval.record.identity import settings_of


def composed(*overrides: str) -> dict[str, Any]:
    return plain(settings_of(*overrides))
