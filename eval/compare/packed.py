"""What the pages hold in small: deflated, in base64. assets/unpack.js is its counterpart in the browser."""

from __future__ import annotations

import base64
import functools
import zlib
from pathlib import Path

from plotly.offline import get_plotlyjs

ASSETS = Path(__file__).with_name("assets")


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


@functools.cache
def plotly() -> str:
    """plotly.js, packed: the whole of it, for its Python package has no smaller one (4.8 MB; packed, 2.0)."""
    return packed(get_plotlyjs().encode())


def asset(name: str) -> str:
    """The text of a file of assets/."""
    return (ASSETS / name).read_text(encoding="utf-8")
