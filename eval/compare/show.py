"""How a report shows values, and tables of them: once for the page, for report.md and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

USELESS = math.log(2)  # nats: who can't see a perplexity double has too few seeds or windows to compare anything
NAMED = 8  # of a set of encodings; beyond, the others are counted
WIDE = 4  # times its lower bound; an interval's upper bound beyond: it bounds nothing, and is said to be too wide
MINUS, SPACE = "\u2212", "\u00a0"  # a minus as wide as a plus, and a space that doesn't break


def show_perplexity(value: float) -> str:
    """Two decimals, none from 1000 on, powers of ten from a million on."""
    if not math.isfinite(value):
        return "overflow"
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def show_percent(value: float) -> str:
    """Signed, one decimal, none from 100 % on; from 1000 % on by how many times, which "+13,973 %" hides. Nothing in it
    breaks over lines.

    >>> show_percent(6.25), show_percent(250), show_percent(13_973), show_percent(math.inf)
    ('+6.2\xa0%', '+250\xa0%', '141\xa0times', 'overflow')
    """
    if not math.isfinite(value):
        return "overflow"
    if value >= 1000:
        times = 1 + value / 100
        return f"{times:,.0f}{SPACE}times" if times < 1e6 else f"{times:.1e}{SPACE}times"
    digits = f"{round(value, 1) + 0.0:+.1f}" if abs(value) < 100 else f"{value:+.0f}"  # no minus before a zero
    return f"{digits.replace('-', MINUS)}{SPACE}%"


def show_share(value: float) -> str:
    """One decimal; none at 0 and 1.

    >>> show_share(0.125), show_share(1)
    ('12.5\xa0%', '100\xa0%')
    """
    return f"{100 * value:.{0 if value in (0, 1) else 1}f}{SPACE}%"


def show_gain(nats: float) -> str:
    """Nats a token, two decimals; three below a tenth, where two would hide what there is.

    >>> show_gain(1.234), show_gain(0.0234), show_gain(-0.0004)
    ('1.23', '0.023', '0.000')
    """
    digits = 2 if abs(nats) >= 0.1 else 3
    return f"{round(nats, digits) + 0.0:.{digits}f}".replace("-", MINUS)  # no minus before a zero


def show_visible(nats: float) -> str:
    """The change of perplexity that a difference of so many nats is; one beyond USELESS is no finding."""
    return f">{SPACE}100{SPACE}%" if nats > USELESS else show_percent(100 * math.expm1(nats)).lstrip("+")


def show_level(level: float) -> str:
    """ "95 %"."""
    return f"{100 * level:g}{SPACE}%"


def show_nats(value: float) -> str:
    """ "+0.0123": a difference in nats a token."""
    return f"{round(value, 4) + 0.0:+.4f}".replace("-", MINUS)  # no minus before a zero


def show_count(value: float) -> str:
    return f"{value:,.0f}"


def show_p(value: float) -> str:
    return f"<{SPACE}0.001" if value < 0.001 else f"{value:.3f}"


def show_bytes(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def show_length(length: int, context: float) -> str:
    """ "256 (8x)": tokens, and in training contexts."""
    return f"{length:,} ({length / context:g}x)"


def show_interval(low: float, high: float, show: Callable[[float], str]) -> str:
    """ "4.1 to 4.3", or nothing where there is no interval."""
    return "" if pd.isna(low) else f"{show(low)} to {show(high)}"


def intervals(frame: pd.DataFrame, name: str, show: Callable[[float], str]) -> list[str]:
    """Those of the columns `name`_low and `name`_high."""
    return [show_interval(*ends, show) for ends in zip(frame[f"{name}_low"], frame[f"{name}_high"], strict=True)]


def listed(names: Iterable[str]) -> str:
    """ "rope, alibi and t5"."""
    *first, last = (names := [*names])[:NAMED]
    more = len(names) - NAMED
    if more > 0:
        return f"{', '.join([*first, last])} and {more} more"
    return f"{', '.join(first)} and {last}" if first else last


def show_sure(row: Any, level: float) -> str:
    """How sure a perplexity is: "95 % interval 4.1 to 4.3"."""
    if pd.isna(row.perplexity_low):
        return row.interval_reason
    if row.perplexity_high > WIDE * row.perplexity_low:
        return f"{show_level(level)} interval too wide to say more: add seeds"
    return f"{show_level(level)} interval {show_interval(row.perplexity_low, row.perplexity_high, show_perplexity)}"


def show_change(row: Any, level: float) -> str:
    """ "+3.1 % (95 % interval +2.1 % to +4.0 %; p < 0.001, corrected for all comparisons)", or without p."""
    if pd.isna(row.difference_percent):
        return "and no seed in common"
    change = show_percent(row.difference_percent)
    if pd.isna(row.difference_low):
        return f"{change} ({row.verdict_reason})"
    if 100 + row.difference_high > WIDE * (100 + row.difference_low):
        interval = "too wide to say more"
    else:
        interval = show_interval(row.difference_low, row.difference_high, show_percent)
    if pd.isna(row.p_holm):
        return f"{change} ({show_level(level)} interval {interval})"
    p = show_p(row.p_holm)
    p = f"p{SPACE}{p}" if p.startswith("<") else f"p{SPACE}={SPACE}{p}"
    return f"{change} ({show_level(level)} interval {interval}; {p}, corrected for all comparisons)"


# The title of a column of numbers, and how one is shown.
NUMBERS = {
    "seeds": ("seeds", show_count),
    "context_length": ("context length", show_count),
    "perplexity": ("perplexity", show_perplexity),
    "nats": ("nats/token", "{:.4f}".format),
    "bits_per_byte": ("bits/byte", "{:.3f}".format),
    "difference_percent": ("difference", show_percent),
    "p_holm": ("p (Holm)", show_p),
    "smallest_detectable": ("visible", show_visible),
    "tokens": ("tokens", show_count),
    "total": ("parameters", show_count),
    "own": ("encoding's own", show_count),
    "tokens_per_second": ("tokens/s", show_count),
    "peak_memory": ("peak memory", show_bytes),
    "seconds": ("training s", "{:.1f}".format),
    "evaluation": ("evaluation s", "{:.1f}".format),
    "published_percent": ("difference there", show_percent),
    "percent": ("difference here", show_percent),
    "published_points": ("difference there", "{:+.1f}".format),
    "difference": ("difference", "{:+.3g}".format),
}


@dataclass(frozen=True)
class Column:
    """texts stand in the cells, details beside them in small print; values are the numbers behind them, at full
    precision and None where there is none, for columns of numbers."""

    title: str
    texts: Sequence[str]
    values: Sequence[float | None] | None = None
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """title: what it shows; note: what one must know to read it; when: the selections under which the page shows it;
    labels: whom each row is about, where it is about an encoding or a control."""

    title: str
    columns: Sequence[Column]
    note: str = ""
    when: Mapping[str, str] = field(default_factory=dict)
    labels: Iterable[str] = ()

    def __len__(self) -> int:
        return len(self.columns[0].texts) if self.columns else 0

    def texts(self) -> list[list[str]]:
        """The cells as words, row by row, details in brackets."""
        columns = [
            [text + f" ({detail})" * bool(detail) for text, detail in zip(each.texts, each.details, strict=True)]
            if each.details
            else each.texts
            for each in self.columns
        ]
        return [list(cells) for cells in zip(*columns, strict=True)]


def column(
    title: str, values: pd.Series | pd.Index, show: Callable[[float], str] | None = None, details: Sequence[str] = ()
) -> Column:
    """Numbers by `show`, a dash where one is missing; without it words, nothing where one is missing."""
    values = [None if gap else value for value, gap in zip(values.tolist(), values.isna(), strict=True)]
    if show is None:
        return Column(title, ["" if value is None else str(value) for value in values], None, details)
    return Column(title, ["–" if value is None else show(value) for value in values], values, details)


def columns(frame: pd.DataFrame, *names: str, **titles: str) -> list[Column]:
    """Columns of a frame by NUMBERS, with their intervals where the frame has them, and others as words. titles: by the
    columns' names, instead of those of NUMBERS or the names themselves."""
    found = []
    for name in names:
        title, show = NUMBERS.get(name, (name.replace("_", " "), None))
        stem = name if f"{name}_low" in frame else name.removesuffix("_percent")
        details = intervals(frame, stem, show) if f"{stem}_low" in frame else ()
        found.append(column(titles.get(name, title), frame[name], show, details))
    return found


def columns_by_length(
    frame: pd.DataFrame, rows: pd.Index, value: str, show: Callable[[float], str], titles: Mapping[int, str]
) -> list[Column]:
    """A column a length, with these titles and in the order of `rows`: frame's `value`, and beside it its `detail`.

    rows: their names are frame's columns that tell the table's rows apart; frame has the lengths in `at`.
    """
    if frame.empty:
        return []
    wide = frame.set_index([*rows.names, "at"])[[value, "detail"]].unstack("at")
    values, details = (wide[name].reindex(index=rows, columns=list(titles)) for name in (value, "detail"))
    return [column(title, values[at], show, details[at].fillna("").tolist()) for at, title in titles.items()]
