"""The text column of a file of rows: .jsonl, .csv and .parquet, each by its own reader and of no other column.

.jsonl and .csv may be compressed (.gz). Columns that are not asked for may hold anything. Heavy readers are imported
where they are used.
"""

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from conf.mistakes import one_sentence
from data.reading import decoded, normalised, opened

JSON = json.JSONDecoder(parse_int=float)  # an int of another column may have more digits than Python reads as one

KINDS = {type(None): "null", bool: "true or false", float: "a number", list: "a list", dict: "an object"}


def rows(file: Path, column: str) -> Iterator[str]:
    """Each row's text in `column`, `normalised`; none of a file without rows.

    Raises ValueError naming the file and the row or line for what is no row, and for a row without text.
    """
    for place, value in reader(file.name)(file, column):
        if not isinstance(value, str):
            kind = KINDS.get(type(value), type(value).__name__)
            raise ValueError(
                f"{file}, {place}: column {column!r} holds {kind} instead of text: mend the row or leave it out, or "
                "set data.column to the column of the text"
            )
        yield normalised(value, f"{file}, {place}")


def reader(name: str):
    """What reads the rows of a file of this name: a function of the file and the column, which yields the place and the
    value of each; None where it is no file of rows."""
    return READERS.get(Path(name.lower().removesuffix(".gz")).suffix)


def _json(file: Path, column: str) -> Iterator[tuple[str, object]]:
    """A JSON object a line, or a single array of objects. Empty lines are left out."""
    with opened(file) as stream:
        start = stream.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        stream.seek(0)
        if start.startswith(b"["):
            array = _parsed(decoded(stream.read().removeprefix(codecs.BOM_UTF8), str(file)), str(file))
            objects = ((f"row {number}", row) for number, row in enumerate(array, 1))
        else:
            objects = _json_lines(file, stream)
        for place, row in objects:
            if not isinstance(row, dict):
                raise ValueError(f'{file}, {place}: is no object such as {{{json.dumps(column)}: "..."}}')
            yield place, _of_column(row, column, f"{file}, {place}")


def _json_lines(file: Path, stream: io.BufferedIOBase) -> Iterator[tuple[str, object]]:
    read = 0
    for number, line in enumerate(stream, 1):
        text = decoded(line, f"{file}, line {number},", read)
        read += len(line)
        if text := text.removeprefix("\ufeff").strip():
            yield f"line {number}", _parsed(text, f"{file}, line {number}")


def _parsed(text: str, place: str) -> object:
    try:
        return JSON.decode(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{place}: is no JSON ({one_sentence(error)}): mend it; a last line may have been cut off"
        ) from error


def _csv(file: Path, column: str) -> Iterator[tuple[str, object]]:
    """Comma-separated values below a line of column names."""
    csv.field_size_limit(sys.maxsize)
    with opened(file) as stream:
        try:
            table = csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), strict=True)
            for row in table:
                place = f"the row that ends in line {table.line_num}"
                if None in row:
                    raise ValueError(f"{file}, {place}: has more values than there are columns: quote its commas")
                yield place, _of_column(row, column, f"{file}, {place}")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 after line {table.line_num}: convert it first") from error
        except csv.Error as error:
            raise ValueError(f"{file}, line {table.line_num}: is no CSV ({one_sentence(error)}): mend it") from error


def _parquet(file: Path, column: str) -> Iterator[tuple[str, object]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    with opened(file) as stream:
        try:
            table = ParquetFile(stream)
            if table.metadata.num_rows:
                _of_column(dict.fromkeys(table.schema_arrow.names), column, str(file))
                number = 0
                for batch in table.iter_batches(batch_size=1000, columns=[column]):
                    for value in batch.column(column):
                        yield f"row {number}", value.as_py()
                        number += 1
        except (ArrowException, OSError) as error:
            raise ValueError(f"{file} cannot be read as parquet: {one_sentence(error)}") from error


def _of_column(row: Mapping[str, object], column: str, place: str) -> object:
    if column not in row:
        names = ", ".join(map(repr, list(row)[:20]))
        raise ValueError(
            f"{place}: has no column {column!r} but {names or 'none'}: set data.column to that of the text"
        )
    return row[column]


READERS = {".jsonl": _json, ".csv": _csv, ".parquet": _parquet}
