"""Reading arrays and data frames into one neutral form, and building them again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
from sklearn.utils.validation import check_array

from skvae.data.columns import Column
from skvae.exceptions import ColumnError, ColumnTypeError

NUMBER, TRUTH, DATE, TEXT, EMPTY = "number", "truth value", "date", "text", "nothing"


@dataclass
class Table:
    """The raw content of a table, whatever library it came from.

    Attributes
    ----------
    container : {"numpy", "pandas", "polars", "pyarrow"}
    names, dtypes : list of str
    roles : list of str
        What each column physically holds.
    numbers : ndarray [n, C], float64
        Numbers, truth values (0, 1) and dates (microseconds since 1970); NaN where missing or text.
    texts : dict of int to Arrow array
        Columns whose entries are named levels.
    categories, ordered : dict of int
        Levels declared by the dtype, and whether it orders them.
    index : object
        The row index of a pandas frame.
    """

    container: str
    names: list[str]
    dtypes: list[str]
    roles: list[str]
    numbers: np.ndarray
    texts: dict[int, Any] = field(default_factory=dict)
    categories: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    ordered: set[int] = field(default_factory=set)
    index: Any = None

    @property
    def n_rows(self) -> int:
        return self.numbers.shape[0]

    def missing(self, column: int) -> np.ndarray:
        """Which rows lack an entry in this column, [n]."""
        if column in self.texts:
            return self.texts[column].is_null().to_numpy(zero_copy_only=False)
        return np.isnan(self.numbers[:, column])


def is_frame(X: Any) -> bool:
    """Whether X is a data frame that narwhals knows (pandas, polars, pyarrow, …)."""
    return isinstance(nw.from_native(X, pass_through=True), nw.DataFrame | nw.LazyFrame)


def read_table(X: Any, *, min_rows: int = 1, estimator: Any = None) -> Table:
    """Read a 2-D array or a data frame.

    Raises
    ------
    ColumnError
        Repeated column names, infinite values, or entries of a type that is not understood.
    ValueError, TypeError
        Anything that scikit-learn's `check_array` refuses (sparse, not 2-D, empty, complex).
    """
    table = _read_frame(X) if is_frame(X) else _read_array(X, min_rows, estimator)
    n_rows, n_columns = table.numbers.shape
    if n_columns == 0:
        raise ValueError(f"Found array with 0 feature(s) (shape=({n_rows}, 0)) while a minimum of 1 is required.")
    if n_rows < min_rows:
        raise ValueError(
            f"Found array with {n_rows} sample(s) (shape=({n_rows}, {n_columns})) while a minimum of "
            f"{min_rows} is required."
        )
    infinite = np.isinf(table.numbers)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise ColumnError(
            f"column '{table.names[column]}' holds {table.numbers[row, column]} (row {row}), an infinity; "
            "mark it missing (NaN) or replace it by a finite value"
        )
    return table


def _read_frame(X: Any) -> Table:
    names = list(getattr(X, "column_names", None) or X.columns)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ColumnError(f"column '{twice}' occurs {names.count(twice)} times; give every column its own name")
    frame = nw.from_native(X)
    if isinstance(frame, nw.LazyFrame):
        raise TypeError("X is a lazy frame; pass X.collect()")
    container = str(frame.implementation.value)
    if container not in ("pandas", "polars", "pyarrow"):
        raise TypeError(f"X is a {container} frame; pass a pandas or polars frame, a pyarrow table or an array")
    table = Table(
        container=container,
        names=[str(name) for name in names],
        dtypes=[],
        roles=[],
        numbers=np.full(frame.shape, np.nan),
        index=X.index if container == "pandas" else None,
    )
    for position, series in enumerate(frame.iter_columns()):
        native = series.to_native()
        table.dtypes.append(str(native.dtype) if container == "pandas" else str(series.dtype))
        try:
            arrow = series.to_arrow()
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise _mixed_error(names[position], list(native)) from None
        _read_column(table, position, arrow)
        if isinstance(series.dtype, nw.Enum):
            table.ordered.add(position)
            table.categories[position] = tuple(series.dtype.categories)
    return table


def _read_array(X: Any, min_rows: int, estimator: Any) -> Table:
    array = check_array(
        X,
        dtype=None,
        ensure_all_finite=False,
        ensure_min_samples=min_rows,
        estimator=estimator,
        input_name="X",
    )
    n_columns = array.shape[1]
    table = Table(
        container="numpy",
        names=[f"x{position}" for position in range(n_columns)],
        dtypes=[str(array.dtype)] * n_columns,
        roles=[],
        numbers=np.empty(0),
    )
    if array.dtype.kind in "iufb":
        table.numbers = array.astype(np.float64, copy=False)
        table.roles = [TRUTH if array.dtype.kind == "b" else NUMBER] * n_columns
        return table
    table.numbers = np.full(array.shape, np.nan)
    for position in range(n_columns):
        entries = array[:, position]
        try:
            arrow = pa.array(entries, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            raise _mixed_error(table.names[position], entries.tolist()) from None
        _read_column(table, position, arrow)
    return table


def _read_column(table: Table, position: int, arrow: Any) -> None:
    """Add one Arrow column to the table."""
    if isinstance(arrow, pa.ChunkedArray):
        arrow = arrow.combine_chunks()
    kind = arrow.type
    if pa.types.is_dictionary(kind):
        table.categories[position] = tuple(arrow.dictionary.to_pylist())
        if kind.ordered:
            table.ordered.add(position)
        arrow = arrow.dictionary_decode()
        role = TEXT
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        role = NUMBER
    elif pa.types.is_boolean(kind):
        role = TRUTH
        arrow = arrow.cast(pa.uint8())
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        role = DATE
        arrow = arrow.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        role = TEXT
        arrow = arrow.cast(pa.large_string())
    elif pa.types.is_null(kind):
        role = EMPTY
        arrow = arrow.cast(pa.float64())
    else:
        raise ColumnTypeError(
            f"column '{table.names[position]}' holds entries of type {kind}; each argument must be a string, "
            "a number, a truth value or a date: convert or drop the column"
        )
    table.roles.append(role)
    if role == TEXT:
        table.texts[position] = arrow
    else:
        table.numbers[:, position] = arrow.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _mixed_error(name: str, entries: list[Any]) -> ColumnError:
    """Name what is odd in a column that Arrow cannot give one type."""
    texts = [(row, entry) for row, entry in enumerate(entries) if isinstance(entry, str)]
    others = [
        (row, entry)
        for row, entry in enumerate(entries)
        if not isinstance(entry, str) and entry is not None and entry == entry
    ]
    odd = [pair for pair in others if not isinstance(pair[1], (bool, int, float, np.number, np.bool_))]
    if odd:
        row, entry = odd[0]
        return ColumnTypeError(
            f"column '{name}' holds {entry!r} (row {row}); each argument must be a string, a number, a truth "
            "value or a date: convert or drop the column"
        )
    row, entry = min(texts, key=lambda pair: pair[0]) if len(texts) < len(others) else others[0]
    return ColumnError(
        f"column '{name}' mixes text and numbers ({entry!r}, row {row}); mark stray entries missing (NaN) and "
        "convert the rest to numbers, or convert the whole column to text"
    )


def build_table(container: str, columns: Sequence[Column], entries: Sequence[Any], index: Any = None) -> Any:
    """The inverse of reading: the kind of frame seen at fit from one array of entries per column.

    Parameters
    ----------
    entries : sequence of ndarray [n] or Arrow array [n]
        In the data's units: float64, named levels, or microseconds since 1970 for dates.
    """
    if container == "numpy":
        return _build_array(columns, entries)
    arrays = [_arrow_column(column, values) for column, values in zip(columns, entries, strict=True)]
    table = pa.Table.from_arrays(arrays, names=[column.name for column in columns])
    if container == "pandas":
        frame = table.to_pandas()
        frame = frame.astype({column.name: _pandas_dtype(column) for column in columns})
        return frame if index is None else frame.set_axis(index, axis=0)
    if container == "polars":
        import polars as pl

        frame = nw.from_native(pl.from_arrow(table))
    else:
        frame = nw.from_native(table)
    dtypes = [_narwhals_dtype(column) for column in columns]
    return frame.with_columns(
        nw.col(column.name).cast(dtype) for column, dtype in zip(columns, dtypes, strict=True)
    ).to_native()


def _build_array(columns: Sequence[Column], entries: Sequence[Any]) -> np.ndarray:
    dtype = np.dtype(columns[0].dtype)
    if dtype.kind in "iufb":
        return np.stack(entries, axis=1).astype(dtype)
    if dtype.kind == "M":
        return np.stack(entries, axis=1).astype(np.int64).astype("datetime64[us]").astype(dtype)
    array = np.empty((len(entries[0]), len(columns)), dtype=object)
    for position, (column, values) in enumerate(zip(columns, entries, strict=True)):
        if _holds_dates(column):
            values = np.asarray(values).astype(np.int64).astype("datetime64[us]")
        array[:, position] = values.tolist()
    return array if dtype.kind == "O" else array.astype(dtype)


def _holds_dates(column: Column) -> bool:
    return column.kind == "date" or re.match("date", column.dtype.lower()) is not None


def _arrow_column(column: Column, values: Any) -> Any:
    if _holds_dates(column):
        zone = "UTC" if re.search(r"time_zone='|datetime64\[\w+, |tz=", column.dtype) else None
        return pa.array(np.asarray(values).astype(np.int64)).cast(pa.timestamp("us", tz=zone))
    if isinstance(values, np.ndarray) and values.dtype == object:
        return pa.array(values.tolist())
    if isinstance(values, np.ndarray) and re.match(r"u?int\d", column.dtype.lower()):
        return pa.array(np.rint(values).astype(np.int64))
    return pa.array(values)


def _pandas_dtype(column: Column) -> Any:
    import pandas as pd

    if column.dtype == "category":
        return pd.CategoricalDtype(list(column.categories or ()), ordered=column.kind == "ordinal")
    return pd.api.types.pandas_dtype(column.dtype)


def _narwhals_dtype(column: Column) -> Any:
    if column.dtype.startswith("Enum"):
        return nw.Enum(list(column.categories or ()))
    if column.dtype.startswith("Datetime"):
        unit = re.search(r"time_unit='(\w+)'", column.dtype)
        zone = re.search(r"time_zone='([^']+)'", column.dtype)
        return nw.Datetime(unit.group(1) if unit else "us", zone.group(1) if zone else None)  # type: ignore[arg-type]
    return getattr(nw, column.dtype)()
