"""Tables in files: csv and parquet, in and out."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import os
import secrets
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from skvae.data.columns import Kind
from skvae.data.storage import TEXT, parse_type, role_of
from skvae.exceptions import ColumnError, SourceError, SourceWarning

CSV, PARQUET = "csv", "parquet"
FORMATS = (CSV, PARQUET)

_SUFFIXES = {".csv": CSV, ".csv.gz": CSV, ".parquet": PARQUET, ".pq": PARQUET}
_EXPECTED = "expected .csv, .csv.gz or .parquet"
_GZIP = b"\x1f\x8b"

# What stands for a missing entry in a csv file, of any column and with or without quotes.
MISSING = [
    *("", "NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "NaN", "nan", "-NaN", "-nan", "NaT"),
    *("NULL", "null", "None", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
]

_BLOCK = 1 << 20

_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format that a file's name tells; None if it has no suffix.

    Raises
    ------
    SourceError
        For the suffix of something else.
    """
    name = Path(path).name.lower()
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    if Path(name).suffix:
        raise SourceError(f"{path}: {_EXPECTED}")
    return None


def read(
    source: str | os.PathLike[str] | BinaryIO, text: Iterable[str] = (), identifiers: Iterable[str] = ()
) -> pa.Table:
    """Read a table from a csv or parquet file.

    The types of csv columns are inferred from all of their entries: numbers, truth values, ISO dates and times,
    else text. `MISSING` lists what is read as a missing entry. A first column without a name (row names, as
    pandas and R write them) is passed over, and so is the index that pandas stores in parquet files.

    Parameters
    ----------
    source : str, Path or binary stream
        A stream, and a file without a suffix, may hold csv, gzipped csv or parquet: the content tells.
    text : iterable of str
        Columns of a csv file to be read as text whatever they look like (the postcode "01234").
    identifiers : iterable of str
        Columns of a csv file to be read as numbers only if these are written out as they stand there.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
    SourceError
        A file that is not what its name says, is damaged, or has no rows; a csv row with too few or too many
        entries (with its line).
    """
    if isinstance(source, str | os.PathLike):
        name, expected, content = str(source), format_of(source), _content(Path(source))
    else:
        name, expected, content = "standard input", None, pa.py_buffer(source.read())
    if content.size == 0:
        raise SourceError(f"{name} is empty; expected a header and rows")
    head = content[:8].to_pybytes()
    found = PARQUET if head.startswith(b"PAR1") else CSV
    if expected == PARQUET and found != PARQUET:
        raise SourceError(f"{name} is no parquet file, whatever its name says: it begins with {head!r}")
    if expected == CSV and found == PARQUET:
        raise SourceError(f"{name} is a parquet file, whatever its name says; rename it")
    if found == PARQUET:
        table = _read_parquet(content, name)
    else:
        named = None if expected is None else name.lower().endswith(".gz")
        exact = frozenset(identifiers)
        table = _read_csv(_unzipped(content, head, named, name), name, frozenset(text) | exact)
        for k, column in enumerate(table.column_names):
            if column in exact and _writes_out(table.column(k)):
                table = table.set_column(k, column, table.column(k).cast(pa.int64()))
    if table.num_rows == 0:
        raise SourceError(f"{name} has columns, but no rows")
    return table


def opened(X: Any, schema: Any = None, text: Iterable[str] = (), identifiers: Iterable[str] = ()) -> Any:
    """X itself, or, where X is a path, the table in that file.

    Parameters
    ----------
    schema : Schema, optional
        Whose columns are to be picked, by name; text of a csv file is read as text where it was text at fit.
    text, identifiers : iterable of str
        See `read`.
    """
    if not isinstance(X, str | os.PathLike):
        return X
    if schema is None:
        return read(X, text, identifiers)
    return matched(read(X, text_columns(schema)), schema)


def reading(column_kinds: Mapping[Any, str] | None) -> dict[str, list[str]]:
    """How columns of these kinds are to be read from a csv file: `text` and `identifiers` of `read`."""
    kinds = {str(name): kind for name, kind in (column_kinds or {}).items()}
    return {
        "text": [name for name, kind in kinds.items() if kind == Kind.CATEGORICAL],
        "identifiers": [name for name, kind in kinds.items() if kind == Kind.IDENTIFIER],
    }


def text_columns(schema: Any) -> list[str]:
    """The columns that were text at fit."""
    return [column.name for column in schema.columns if role_of(parse_type(column.storage)) == TEXT]


def matched(table: pa.Table, schema: Any) -> pa.Table:
    """The columns of a schema, in its order; other columns of the table are passed over.

    Raises
    ------
    ColumnError
        If one is missing.
    """
    if schema.container == "numpy":  # its columns have no names
        return table
    names = [column.name for column in schema.columns]
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ColumnError(f"column '{missing[0]}' is missing; the file has {_listed(table.column_names)}")
    return table.select(names)


def _content(path: Path) -> pa.Buffer:
    """The bytes of a file, mapped into memory where that is possible."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file")
    if not path.is_file() or path.stat().st_size == 0:  # a pipe, or nothing that could be mapped
        return pa.py_buffer(path.read_bytes())
    with path.open("rb"):  # for the error of a file that may not be read
        return pa.memory_map(str(path)).read_buffer()


def _unzipped(content: pa.Buffer, head: bytes, named: bool | None, name: str) -> pa.Buffer:
    is_gzip = head.startswith(_GZIP)
    if named is not None and named != is_gzip:
        what, suffix = ("compressed", ".csv.gz") if is_gzip else ("not compressed", ".csv")
        raise SourceError(f"{name} is {what}, whatever its name says; rename it to {suffix}")
    if not is_gzip:
        return content
    try:
        return pa.py_buffer(pa.input_stream(pa.BufferReader(content), compression="gzip").read())
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{name} is damaged: it cannot be unpacked ({_first_line(error)})") from None


def _read_parquet(content: pa.Buffer, name: str) -> pa.Table:
    try:
        table = pyarrow.parquet.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{name} is damaged: {_first_line(error)}") from None
    index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    return table.drop_columns(
        [column for column in index if isinstance(column, str) and column in table.column_names]
    )


def _read_csv(content: pa.Buffer, name: str, text: frozenset[str]) -> pa.Table:
    names = _header(content, name)
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=MISSING, strings_can_be_null=True, column_types=dict.fromkeys(text, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        raise _malformed(content, name) or SourceError(f"{name}: {_first_line(error)}") from None
    if _n_quotes(content) % 2 and (malformed := _malformed(content, name)):
        raise malformed  # the rest of the file would be one entry
    for column, field in zip(table.columns, table.schema, strict=True):
        if pa.types.is_binary(field.type):
            raise SourceError(f"{name}: column '{field.name}' is not UTF-8; save the file in that encoding")
        if pa.types.is_string(field.type) and field.name not in text:
            _warn_of_numbers(field.name, column, name)
    if names[0] == "" and len(names) > 1:
        warnings.warn(f"{name}: the first column has no name and is passed over as row names", SourceWarning, 3)
        table = table.remove_column(0)
    return table


def _header(content: pa.Buffer, name: str) -> list[str]:
    """The names of the columns, checked for what pyarrow would make something strange of."""
    start = content[: 1 << 16].to_pybytes()
    if b"\0" in start:
        raise SourceError(f"{name} is no UTF-8 text: it begins with {start[:8]!r}; {_EXPECTED}")
    try:
        line = start[: start.find(b"\n") + 1 or len(start)].decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{name}: the names of its columns are not UTF-8; save the file in that encoding") from None
    names = next(csv.reader([line]), [""]) or [""]
    separator = next((c for c in ";\t|" if c in line), None)
    if len(names) == 1 and separator:
        raise SourceError(f"{name}: the columns seem separated by {separator!r}; expected commas")
    return names


def _n_quotes(content: pa.Buffer) -> int:
    bytes_ = np.frombuffer(content, np.uint8)
    return sum(int(np.count_nonzero(bytes_[i : i + _BLOCK] == ord('"'))) for i in range(0, len(bytes_), _BLOCK))


def _malformed(content: pa.Buffer, name: str) -> SourceError | None:
    """On which line a csv file goes wrong, which pyarrow, reading in parallel, does not say."""
    lines = io.TextIOWrapper(pa.BufferReader(content), encoding="utf-8-sig", errors="replace", newline="")
    rows = csv.reader(lines, strict=True)
    line = 1
    try:
        header = next(filter(None, rows), [])
        line = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(header):
                return SourceError(
                    f"{name}, line {line}: expected {len(header)} entries as in the header, found {len(row)}: "
                    f"{_shown(','.join(row))}"
                )
            line = rows.line_num + 1
    except csv.Error:
        return SourceError(
            f"{name}, line {line}: a quotation mark is opened and not closed, or not where it should be"
        )
    return None


def _writes_out(entries: Any) -> bool:
    """Whether text is whole numbers, of at most 18 digits, that come out the same when they are written again."""
    return pc.all(pc.match_substring_regex(entries.drop_null(), _WHOLE)).as_py() is not False


def _warn_of_numbers(column: str, entries: Any, name: str) -> None:
    """Warn of a column that is text only because of some of its entries."""
    present = entries.drop_null()
    is_number = pc.match_substring_regex(present, _NUMBER)
    n_numbers = pc.sum(is_number).as_py() or 0
    if 2 * n_numbers > len(present):
        odd = present.filter(pc.invert(is_number))[0].as_py()
        warnings.warn(
            f"{name}: column '{column}' is read as text, for it holds {_shown(odd)} besides {n_numbers} numbers; if "
            "that is a missing entry, leave it empty",
            SourceWarning,
            stacklevel=4,
        )


def as_arrow(rows: Any, names: Sequence[str]) -> pa.Table:
    """Whatever an estimator answers (an array [n] or [n, C], or a data frame) as an Arrow table.

    Parameters
    ----------
    names : sequence of str
        Of the columns of an array, which has none of its own.
    """
    if isinstance(rows, np.ndarray):
        columns = rows.reshape(len(rows), -1).T
        return pa.table([pa.array(column, from_pandas=True) for column in columns], names=list(names))
    frame = nw.from_native(rows, eager_only=True)
    return nw.maybe_reset_index(frame).to_arrow()


def check_target(target: str | os.PathLike[str] | BinaryIO, format: str | None = None) -> str:
    """The format in which a table will be written to `target`.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If the folder to write to does not exist, or `target` is one.
    SourceError
        If neither the name nor `format` tells, or they contradict each other.
    """
    if format is not None and format not in FORMATS:
        raise SourceError(f"format={format!r}: expected one of {FORMATS}")
    if not isinstance(target, str | os.PathLike):
        return format or CSV
    path = Path(target)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file to write")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {path.absolute().parent} does not exist; create it first")
    named = None if format and not _suffix(path) else format_of(path)
    if format and named and format != named:
        raise SourceError(f"{path} is named as {named}, but format={format!r} was asked for; change one")
    return named or format or CSV


def _suffix(path: Path) -> str:
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), "")


def write(pieces: Iterable[pa.Table], target: str | os.PathLike[str] | BinaryIO, format: str | None = None) -> None:
    """Write a table, piece by piece, to a csv or parquet file.

    A file appears complete or not at all, in the place of one that was there. A stream gets csv as it comes.

    Parameters
    ----------
    pieces : iterable of pyarrow Table
        With the same columns; at least one.
    target : str, Path or binary stream
    format : {"csv", "parquet"}, optional
        Needed only where the name does not tell; csv for a stream.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, SourceError
        As `check_target`.
    """
    kind = check_target(target, format)
    pieces = iter(pieces)
    first = next(pieces)
    pieces = itertools.chain([first], (piece.cast(first.schema) for piece in pieces))
    if isinstance(target, str | os.PathLike):
        with replacing(Path(target)) as file, _zipped(file, Path(target)) as out:
            _WRITERS[kind](pieces, first.schema, out)
    elif kind == CSV:
        _write_csv(pieces, first.schema, target)
    else:  # parquet is made by going back and forth
        with tempfile.TemporaryFile() as file:
            _write_parquet(pieces, first.schema, file)
            file.seek(0)
            shutil.copyfileobj(file, target)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` once it is complete."""
    path = path.resolve()
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe
        with path.open("wb") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _zipped(file: BinaryIO, path: Path) -> Any:
    """The file, or one that compresses into it, if its name says so."""
    if path.suffix.lower() != ".gz":
        return contextlib.nullcontext(file)
    return gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0)


def _write_parquet(pieces: Iterable[pa.Table], schema: pa.Schema, file: BinaryIO) -> None:
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for piece in pieces:
            writer.write_table(piece)


def _write_csv(pieces: Iterable[pa.Table], schema: pa.Schema, file: BinaryIO) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(schema.names)
    header = text.getvalue().encode()
    for piece in pieces:
        file.write(header + _csv_rows(piece))  # at once, so that `head` gets a short table whole
        file.flush()
        header = b""


_WRITERS = {CSV: _write_csv, PARQUET: _write_parquet}


def _csv_rows(table: pa.Table) -> bytes:
    columns = []
    for column, field in zip(table.columns, table.schema, strict=True):
        plain = column.cast(field.type.value_type) if pa.types.is_dictionary(field.type) else column
        if role_of(plain.type) == TEXT:
            _warn_of_missing(field.name, plain)
        elif pa.types.is_timestamp(plain.type):
            plain = _short(plain)
        columns.append(plain)
    plain_table = pa.table(columns, names=table.column_names)
    for style in ("none", "needed"):  # quotation marks only if there is something to be quoted
        rows = pa.BufferOutputStream()
        with contextlib.suppress(pa.ArrowInvalid):
            options = pyarrow.csv.WriteOptions(include_header=False, quoting_style=style)
            pyarrow.csv.write_csv(plain_table, rows, options)
            return rows.getvalue().to_pybytes()
    raise SourceError("the table has entries that csv cannot hold; write parquet")


def _short(times: Any) -> Any:
    """Times without the zeros at their end: dates, if all are midnights."""
    zone = times.type.tz
    for kind in [pa.timestamp("s", zone)] if zone else [pa.date32(), pa.timestamp("s")]:
        short = times.cast(kind, safe=False)
        if short.cast(times.type).equals(times):
            return short
    return times


def _warn_of_missing(name: str, entries: Any) -> None:
    same = pc.is_in(entries, value_set=pa.array(MISSING, entries.type))
    if pc.any(same).as_py():
        warnings.warn(
            f"column '{name}' holds {_shown(entries.filter(same)[0].as_py())}, which reads as a missing entry in a "
            "csv file; parquet keeps it apart",
            SourceWarning,
            stacklevel=4,
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _shown(text: str) -> str:
    return f'"{text}"' if len(text) <= 40 else f'"{text[:37]}…"'


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
