"""Reading arrays and data frames into one neutral form."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from numbers import Integral
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from narwhals.exceptions import DuplicateError
from sklearn.utils.validation import check_array

from skvae.data.source import opened
from skvae.data.storage import PLURAL, TEXT, role_of, to_numbers
from skvae.exceptions import ColumnError, ColumnTypeError

_UNDERSTOOD = "each argument must be a string, a number, a truth value or a date: convert or drop the column"


@dataclass
class Table:
    """The raw content of a table, whatever library it came from.

    Attributes
    ----------
    container : {"numpy", "pandas", "polars", "pyarrow"}
    labels : list
        The columns' names as they came; x0, x1, … for arrays.
    dtypes : list of str
        In the words of the container's library.
    types : list of Arrow types
    numbers : ndarray [n, C], float64
        Numbers, truth values (0, 1) and dates (microseconds since 1970); NaN where missing or text.
    arrays : dict of int to Arrow array [n]
        The columns as they came, dictionaries written out and text as `large_string`; none of the columns
        of an array of numbers.
    categories : dict of int to tuple
        Levels declared by the dtype.
    ordered : set of int
        Columns whose dtype orders its levels.
    index : object
        The row index of a pandas frame.
    names : list of str
        The labels as text.
    roles : list of str
        What each column physically holds.
    """

    container: str
    labels: list[Any]
    dtypes: list[str]
    types: list[Any]
    numbers: np.ndarray
    arrays: dict[int, Any] = field(default_factory=dict)
    categories: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    ordered: set[int] = field(default_factory=set)
    index: Any = None
    names: list[str] = field(init=False)
    roles: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [str(label) for label in self.labels]
        self.roles = [role_of(kind) or "" for kind in self.types]

    @property
    def n_rows(self) -> int:
        return self.numbers.shape[0]

    def array(self, column: int) -> Any:
        """The entries of a column as an Arrow array [n]."""
        if column in self.arrays:
            return self.arrays[column]
        return pa.array(self.numbers[:, column], from_pandas=True)

    def missing(self, column: int) -> np.ndarray:
        """Which rows lack an entry in this column, bool [n]."""
        if self.roles[column] == TEXT:
            return self.arrays[column].is_null().to_numpy(zero_copy_only=False)
        return np.isnan(self.numbers[:, column])

    def codes(self, column: int, levels: tuple[Any, ...]) -> np.ndarray:
        """Positions in `levels` of a column's entries, float64 [n]; NaN where missing or not among them."""
        is_text = self.roles[column] == TEXT
        if is_text != isinstance(levels[0], str):
            return np.full(self.n_rows, np.nan)  # of another kind, which only an all-missing column may be
        if is_text:
            found = pc.index_in(self.arrays[column], value_set=pa.array(levels, pa.large_string()))
            return found.to_numpy(zero_copy_only=False).astype(np.float64)
        values = np.array(levels, dtype=np.float64)
        numbers = np.ascontiguousarray(self.numbers[:, column])
        if len(values) == 2:  # the commonest case of wide tables, and twice as fast
            second = numbers == values[1]
            return np.where(second | (numbers == values[0]), second, np.nan)
        order = np.argsort(values)
        nearest = order[np.searchsorted(values, numbers, sorter=order).clip(max=len(values) - 1)]
        return np.where(values[nearest] == numbers, nearest, np.nan)

    def entry(self, column: int, row: int) -> str:
        """One entry as a message shows it."""
        return show(self.array(column)[row].as_py())


def read_table(X: Any, *, min_rows: int = 1, estimator: Any = None) -> Table:
    """Read a 2-D array, a list of rows, a data frame or a file.

    Parameters
    ----------
    X : array-like [n, C], pandas or polars DataFrame, pyarrow Table, or path of a csv or parquet file
    min_rows : int
        Fewer rows are refused.
    estimator : object, optional
        Named in messages about arrays.

    Raises
    ------
    ColumnError
        Repeated column names, infinite values, mixed or unreadable entries.
    ValueError, TypeError
        A table without rows or columns, and anything else that scikit-learn's `check_array` refuses (sparse,
        not 2-D, complex); a lazy frame.
    """
    X = opened(X)
    try:
        frame = nw.from_native(X, pass_through=True)
    except DuplicateError:
        raise _repeated_error(_labels(X)) from None
    if isinstance(frame, nw.LazyFrame):
        raise TypeError("X is a lazy frame; pass X.collect()")
    table = _read_frame(X, frame) if isinstance(frame, nw.DataFrame) else _read_array(X, min_rows, estimator)
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


def _labels(X: Any) -> list[Any]:
    return list(X.column_names if isinstance(X, pa.Table) else X.columns)


def _repeated_error(labels: list[Any]) -> ColumnError:
    names = [str(label) for label in labels]
    twice = next(name for name in names if names.count(name) > 1)
    return ColumnError(f"column '{twice}' occurs {names.count(twice)} times; give every column its own name")


def _read_frame(X: Any, frame: nw.DataFrame[Any]) -> Table:
    container = str(frame.implementation.value)
    if container not in ("pandas", "polars", "pyarrow"):
        raise TypeError(f"X is a {container} frame; pass a pandas or polars frame, a pyarrow table or an array")
    labels = _labels(X)
    if len({str(label) for label in labels}) < len(labels):
        raise _repeated_error(labels)
    columns = list(frame.iter_columns())
    natives = [column.to_native() for column in columns]
    arrays = [
        _to_arrow(str(label), column.to_arrow, native)
        for label, column, native in zip(labels, columns, natives, strict=True)
    ]
    dtypes = [str(native.type if container == "pyarrow" else native.dtype) for native in natives]
    table = _table_of(container, labels, dtypes, arrays, frame.shape[0])
    for position, column in enumerate(columns):
        if isinstance(column.dtype, nw.Enum):
            table.ordered.add(position)
        elif container == "polars":
            # What a polars `Categorical` lists is what its cache happens to hold.
            table.categories.pop(position, None)
    if container == "pandas":
        table.index = X.index
    return table


def _read_array(X: Any, min_rows: int, estimator: Any) -> Table:
    if isinstance(X, list | tuple) and np.asarray(X).dtype.kind in "US":
        X = np.array(X, dtype=object)  # rows of text and numbers: NumPy would make all of it text
    if isinstance(X, np.ma.MaskedArray):
        X = np.where(np.ma.getmaskarray(X), np.nan, X.data)
    if getattr(X, "ndim", 2) in (3, 4):
        raise ValueError(
            f"Found array with dim {X.ndim} (shape={tuple(X.shape)}), while dim <= 2 is required of a table; for "
            f"images set image_shape={tuple(X.shape[1:])}"
        )
    array = check_array(
        X,
        dtype=None,
        ensure_all_finite=False,
        ensure_min_samples=min_rows,
        estimator=estimator,
        input_name="X",
    )
    if array.dtype.kind == "T":
        array = array.astype(object)  # NumPy's variable-width text
    n_rows, n_columns = array.shape
    labels = [f"x{position}" for position in range(n_columns)]
    dtypes = [str(array.dtype)] * n_columns
    if array.dtype.kind in "iufb":
        kind = pa.from_numpy_dtype(array.dtype) if array.dtype.itemsize <= 8 else pa.float64()
        return Table("numpy", labels, dtypes, [kind] * n_columns, array.astype(np.float64, copy=False))
    if array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] not in ("D", "s", "ms", "us", "ns"):
        array = array.astype("datetime64[s]")  # hours, months …, which Arrow lacks
    arrays = [
        _to_arrow(label, partial(pa.array, column, from_pandas=True), column)
        for label, column in zip(labels, array.T, strict=True)
    ]
    return _table_of("numpy", labels, dtypes, arrays, n_rows)


def _table_of(container: str, labels: list[Any], dtypes: list[str], arrays: list[Any], n_rows: int) -> Table:
    """A table from one Arrow array [n] per column."""
    numbers = np.full((n_rows, len(arrays)), np.nan)
    table = Table(container, labels, dtypes, [array.type for array in arrays], numbers)
    for position, array in enumerate(arrays):
        if pa.types.is_dictionary(array.type):
            table.categories[position] = tuple(array.dictionary.drop_null().to_pylist())
            if array.type.ordered:
                table.ordered.add(position)
            array = array.dictionary_decode()
        if table.roles[position] == TEXT:
            array = array.cast(pa.large_string())
        else:
            numbers[:, position] = to_numbers(array)
        table.arrays[position] = array
    return table


def _to_arrow(name: str, convert: Callable[[], Any], entries: Iterable[Any]) -> Any:
    """A column's entries as one Arrow array of a type that is understood."""
    try:
        array = convert()
    except (pa.ArrowException, OverflowError):
        raise _mixed_error(name, entries) from None
    are_objects = str(getattr(entries, "dtype", None)) == "object"
    if are_objects and pa.types.is_date32(array.type) and any(isinstance(entry, Integral) for entry in entries):
        raise _mixed_error(name, entries)  # Arrow takes a whole number among date objects for a day since 1970
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if role_of(array.type) is None:
        row = int(np.argmax(array.is_valid()))
        raise ColumnTypeError(
            f"column '{name}' holds {show(array[row].as_py())} ({array.type}, row {row}); {_UNDERSTOOD}"
        )
    return array


def _mixed_error(name: str, entries: Iterable[Any]) -> ColumnError:
    """Name what is odd in a column that Arrow cannot give one type."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for row, entry in enumerate(entries):
        try:
            scalar = pa.scalar(entry, from_pandas=True)
        except (pa.ArrowException, OverflowError):
            scalar = None
        role = None if scalar is None else role_of(scalar.type)
        if role is None:
            return ColumnTypeError(f"column '{name}' holds {show(entry)} (row {row}); {_UNDERSTOOD}")
        if scalar.is_valid:
            found.setdefault(PLURAL[role], []).append((row, entry))
    if len(found) < 2:
        return ColumnTypeError(f"column '{name}' holds entries that have no common type; {_UNDERSTOOD}")
    row, entry = min(found.values(), key=len)[0]
    return ColumnError(
        f"column '{name}' mixes {' and '.join(sorted(found, reverse=True))} ({show(entry)}, row {row}); mark stray "
        "entries missing (NaN) and convert the rest to one type, or convert the whole column to text"
    )


def show(value: Any) -> str:
    """A value as a message shows it: text in double quotes and cut, dates in ISO form."""
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 40 else f'"{value[:37]}…"'
    return str(value) if isinstance(value, date) else reprlib.repr(value)


def missing_entries(y: np.ndarray) -> np.ndarray:
    """Which entries of an array [n] of any type are missing: NaN, NaT, None, pandas.NA; [n]."""
    if y.dtype.kind in "fM":
        return y != y
    if y.dtype.kind == "O":
        return np.array([_is_missing(value) for value in y], dtype=bool)
    return np.zeros(len(y), dtype=bool)


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA, of which nothing is true or false
        return True
