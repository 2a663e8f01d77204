"""The bank's file, results/standard-v1.parquet: a row for each scored window of each run, and the runs' records.

Columns: what names a run (encoding, the digest of its settings, the hash of its source, seed), the place (protocol,
extension, its settings, control, length in tokens), the window and its block, how many of its tokens were scored, and
nats, the sum of their losses. A floor is no run's: its rows have no encoding, and `control` says which it is.

The file's metadata hold, under `trainshort`, what stands once a run: JSON, packed by zlib, in base64. It has the
version and the values of the standard setting, and of each run the encoding's settings and its results.json, of which
the rows are those of the bank.

It is read without trust. A SHA-256 of all the rest, before the footer, is checked first, for pyarrow ends the process
at some damaged footers; columns and types are those below or it is refused; nothing is unpickled; pages are not
compressed, so that no more is unpacked than the file is long, and the records to a bound; windows are held against the
rows whose figures they give. It is an ordinary parquet file all the same, which pandas.read_parquet reads.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from conf.typed import digest
from eval.measure.rows import Row
from eval.record.bounds import check_depth
from eval.record.files import write_atomic
from eval.record.shape import EXACT, Figures, NoFigures, Trained

FORMAT, METADATA = 1, b"trainshort"
LARGE, MANY_ROWS, LONG = 2**27, 5_000_000, 2**26  # bytes of the file; its rows; bytes of its records, unpacked
RUN = ["encoding", "settings", "source", "seed"]
PLACE = ["protocol", "extension", "extension_settings", "control", "length"]
WORDS = ["encoding", "settings", "source", "protocol", "extension", "extension_settings", "control"]
TYPES = {name: pa.string() for name in WORDS} | {"seed": pa.int64(), "nats": pa.float64()}
COLUMNS = [*RUN, *PLACE, "window", "block", "tokens", "nats"]
SCHEMA = pa.schema([pa.field(name, TYPES.get(name, pa.int32()), nullable=False) for name in COLUMNS])
HOW = {
    "compression": "none",
    "use_dictionary": [*WORDS, "seed", "length", "tokens"],
    "column_encoding": {"window": "DELTA_BINARY_PACKED", "block": "DELTA_BINARY_PACKED", "nats": "BYTE_STREAM_SPLIT"},
    "write_statistics": False,
    "write_page_checksum": True,
    "store_schema": False,  # pyarrow's own, which it would go by
}
WINDOW = ["protocol", "extension", "control", "context_length", "window", "block", "tokens", "nats"]


class BankError(ValueError):
    """A bank can't be read, or is another's."""

    def __init__(self, path: Path, reason: str):
        super().__init__(
            f"{path} {reason}: take it from the repository again (git checkout), or gather runs into another file "
            "(bank=FILE)"
        )


@dataclass(frozen=True, eq=False)
class Entry:
    """One run. encoding: its settings; time: when it was finished; results: those of results.json that the bank keeps;
    windows: WINDOW, in the order of the rows."""

    encoding: Mapping[str, Any]
    seed: int
    time: str
    results: Mapping[str, Any]
    windows: pd.DataFrame = field(repr=False)

    @property
    def name(self) -> str:
        return self.encoding["name"]

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names a run in the table: RUN."""
        return self.name, digest(self.encoding), self.results["identity"]["source"], self.seed


@dataclass(frozen=True, eq=False)
class Contents:
    """version, settings: of the standard setting, flat; entries: in order of encoding and seed; floors: their rows, and
    windows as an entry has them."""

    version: int
    settings: Mapping[str, Any]
    entries: Sequence[Entry] = ()
    floors: Sequence[Row] = ()
    floor_windows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=WINDOW), repr=False)


@EXACT
class RunRecord(TypedDict):
    encoding: dict[str, Any]
    seed: int
    time: str
    results: Trained


@EXACT
class Records(TypedDict):
    format: Literal[1]
    version: int
    settings: dict[str, Any]
    runs: list[RunRecord]
    floors: list[Figures | NoFigures]


SHAPE = TypeAdapter(Records)


def write_bank(path: Path, contents: Contents) -> None:
    """The whole file, or what stood there before. Raises OSError, naming it, where it can't be written."""
    entries = sorted(contents.entries, key=lambda entry: (entry.name, entry.seed))
    tables = [_columns(entry.windows, entry.results["rows"], entry.key) for entry in entries]
    tables += [_columns(contents.floor_windows, contents.floors, ("", "", "", 0))]
    frame = pd.concat(tables, ignore_index=True)[COLUMNS]
    runs = [
        {"encoding": entry.encoding, "seed": entry.seed, "time": entry.time, "results": entry.results}
        for entry in entries
    ]
    records = {"format": FORMAT, "version": contents.version, "settings": contents.settings, "runs": runs}
    packed = zlib.compress(json.dumps({**records, "floors": contents.floors}, allow_nan=False).encode(), 9)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMA, **HOW) as writer:
        writer.write_table(pa.Table.from_pandas(frame, SCHEMA, preserve_index=False), row_group_size=MANY_ROWS)
        writer.add_key_value_metadata({METADATA.decode(): base64.b64encode(packed).decode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, signed(buffer.getvalue()))


def signed(content: bytes) -> bytes:
    """A parquet file with its SHA-256 between its pages and its footer, where nothing is looked for."""
    footer = _footer(content)
    return content[:footer] + hashlib.sha256(content).digest() + content[footer:]


def _checked(content: bytes) -> bytes:
    """A file that was `signed`. Raises ValueError for any other."""
    footer = _footer(content)
    digest = footer - hashlib.sha256().digest_size
    if digest < 0 or hashlib.sha256(content[:digest] + content[footer:]).digest() != content[digest:footer]:
        raise ValueError("it is no bank, or its digest is another")
    return content


def _footer(content: bytes) -> int:
    """Where it begins. Raises ValueError for what is no parquet file."""
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    if content[-4:] != b"PAR1" or begin < 4:
        raise ValueError("it is no parquet file")
    return begin


def _columns(windows: pd.DataFrame, rows: Iterable[Row], run: tuple) -> pd.DataFrame:
    """The table's rows of one run, or of the floors."""
    settings = {_place(row): row.get("extension_settings", "") for row in rows if row["status"] == "ok"}
    windows = windows.rename(columns={"context_length": "length"})
    places = windows[["protocol", "extension", "control", "length"]].itertuples(index=False, name=None)
    return windows.assign(extension_settings=[settings[place] for place in places], **dict(zip(RUN, run, strict=True)))


def _place(row: Row) -> tuple[str, str, str, int]:
    return row["protocol"], row["extension"], row.get("control", ""), row["context_length"]


def read_bank(path: Path) -> Contents:
    """Raises BankError, a ValueError, in one sentence for whatever is not as `write_bank` leaves it."""
    try:
        if (size := path.stat().st_size) > LARGE:
            raise ValueError(f"it has {size:,} bytes, more than {LARGE:,}")
        content = _checked(path.read_bytes())
        metadata = pq.read_metadata(io.BytesIO(content))
        records = _records(metadata)
        _check(metadata)
        return _contents(records, _table(content))
    except (ValueError, OSError, EOFError, RecursionError, MemoryError, KeyError, pa.ArrowException) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BankError(path, f"is damaged ({' '.join(str(error).split())})") from None


def _records(metadata: pq.FileMetaData) -> Records:
    """What stands in the metadata. Raises ValueError for anything else."""
    packed = (metadata.metadata or {}).get(METADATA)
    if packed is None:
        raise ValueError("it is no bank: its metadata lack the runs' records")
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(base64.b64decode(packed, validate=True), LONG)
    except zlib.error as error:
        raise ValueError(f"the runs' records: {error}") from None
    if not unpacker.eof:
        raise ValueError(f"the runs' records are cut, or would unpack to more than {LONG:,} bytes")
    records = json.loads(text)
    check_depth(records)
    if isinstance(records, dict) and records.get("format") not in (None, FORMAT):
        raise ValueError(f"its format is {records['format']}, this program's is {FORMAT}")
    try:
        SHAPE.validate_python(records)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'its records'}: {first['msg']}") from None
    return records


def _check(metadata: pq.FileMetaData) -> None:
    """Raises ValueError for other columns, types or sizes than a bank's."""
    found, wanted = ({each.name: str(each.type) for each in of} for of in (metadata.schema.to_arrow_schema(), SCHEMA))
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise ValueError(f"column {name}: {found.get(name, 'missing')}, should be {wanted.get(name, 'missing')}")
    if metadata.num_rows > MANY_ROWS:
        raise ValueError(f"it has {metadata.num_rows:,} rows, more than {MANY_ROWS:,}")
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            if (how := metadata.row_group(group).column(column).compression) != "UNCOMPRESSED":
                raise ValueError(f"its pages are compressed ({how})")


def _table(content: bytes) -> pd.DataFrame:
    """The windows, words as categories. Raises ValueError where values are missing or can't be."""
    file = pq.ParquetFile(io.BytesIO(content), read_dictionary=WORDS, page_checksum_verification=True)
    table = file.read(columns=COLUMNS)
    table.validate(full=True)
    if any(column.null_count for column in table.columns):
        raise ValueError("values are missing")
    frame = table.to_pandas().rename(columns={"length": "context_length"})
    if not np.isfinite(frame["nats"]).all() or (frame["tokens"] < 1).any():
        raise ValueError("losses that are not finite, or windows without tokens")
    return frame


def _contents(records: Records, frame: pd.DataFrame) -> Contents:
    """Records and windows together. Raises ValueError where one lacks the other, or figures don't follow."""
    groups = dict(list(frame.groupby(RUN, observed=True, sort=False)))
    empty = frame.iloc[:0]
    entries, names = [], set()
    for record in records["runs"]:
        entry = Entry(**{**record, "windows": empty})
        name = f"{entry.encoding.get('name')}, seed {entry.seed}"
        if not isinstance(entry.encoding.get("name"), str) or "source" not in entry.results.get("identity", {}):
            raise ValueError(f"{name}: its record doesn't say which encoding it is of")
        if (entry.name, entry.seed) in names or (entry.results["encoding"], entry.results.get("seed")) != (
            *(entry.name, entry.seed),
        ):
            raise ValueError(f"{name}: its record is there twice, or another's")
        names.add((entry.name, entry.seed))
        windows = _windows(groups.pop(entry.key, empty), entry.results["rows"], name)
        entries.append(Entry(**{**record, "windows": windows}))
    floors = _windows(groups.pop(("", "", "", 0), empty), records["floors"], "the floors")
    if groups:
        raise ValueError(f"windows of a run without a record: {next(iter(groups))[0]}")
    return Contents(records["version"], records["settings"], entries, records["floors"], floors)


def _windows(frame: pd.DataFrame, rows: Sequence[Row], whose: str) -> pd.DataFrame:
    """The windows of one run in the order of its rows, words as words. Raises ValueError where they are not those that
    the rows' figures follow from."""
    keys = ["protocol", "extension", "control", "context_length"]
    found = dict(list(frame.groupby(keys, observed=True, sort=False)))
    parts = []
    for row in rows:
        if row["status"] != "ok":
            continue
        part = found.pop(_place(row), None)
        place = f"{whose}: {row['protocol']}, {row['extension']}, {row['context_length']} tokens"
        if part is None:
            raise ValueError(f"{place}: its windows are missing, or its row is there twice")
        follows = np.isclose(part["nats"].sum() / part["tokens"].sum(), row["nats"], rtol=1e-6, atol=1e-6)
        whole = part["tokens"].sum() == row["tokens"] and (part["window"] == np.arange(len(part))).all()
        if not (follows and whole and (part["extension_settings"] == row.get("extension_settings", "")).all()):
            raise ValueError(f"{place}: its figures are not those of its windows")
        parts.append(part)
    if found:
        raise ValueError(f"{whose}: windows without a row")
    windows = pd.concat(parts, ignore_index=True) if parts else frame
    return windows[WINDOW].astype(dict.fromkeys(("protocol", "extension", "control"), str))
