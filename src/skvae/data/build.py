"""Building arrays and data frames: the inverse of reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skvae.data.columns import Column, Kind
from skvae.data.identifiers import new_identifiers
from skvae.data.storage import TEXT, from_numbers, parse_type, role_of, to_numbers, value_type
from skvae.data.table import Table
from skvae.exceptions import ColumnError

# Types of NumPy that cannot mark an entry missing.
_WITHOUT_HOLES = ("int", "uint", "<U")


def build_table(
    container: str,
    columns: Sequence[Column],
    entries: Sequence[np.ndarray],
    keep: Table | None = None,
    index: Any = None,
    holes: Mapping[int, np.ndarray] | None = None,
) -> Any:
    """The kind of frame seen at fit, from one array of entries per column.

    Parameters
    ----------
    entries : sequence of ndarray [n]
        Positions in the column's levels, int64, where it has levels; else numbers in the data's units
        (microseconds since 1970 for dates), float64; of identifiers, what `identifier_entries` gives.
    keep : Table, optional
        With n rows, whose entries in columns that are not discrete take precedence; those of discrete ones
        are expected in `entries`.
    index : optional
        Row index for a pandas frame; that of `keep` by default.
    holes : mapping of int to ndarray [n], optional
        Of columns by position, where an entry is to be missing.

    Raises
    ------
    ColumnError
        An entry of `keep` that the column's type cannot hold.
    """
    holes = holes or {}
    arrays = [
        _column(column, values, keep, i, holes.get(i))
        for i, (column, values) in enumerate(zip(columns, entries, strict=True))
    ]
    if container == "numpy":
        return _build_array(columns[0].dtype, arrays)
    if container == "pandas":
        return _build_pandas(columns, arrays, keep.index if index is None and keep is not None else index)
    table = pa.Table.from_arrays(arrays, names=[column.name for column in columns])
    return _build_polars(columns, table) if container == "polars" else table


def _column(column: Column, values: Any, keep: Table | None, position: int, hole: np.ndarray | None) -> Any:
    """One Arrow array [n] of the column's own type."""
    whole = parse_type(column.storage)
    kind = value_type(whole)
    if column.kind == Kind.IDENTIFIER:
        array, keep = values, None
    elif column.levels is None:
        array = from_numbers(values, kind)
    elif role_of(kind) == TEXT:
        array = pa.array(column.levels, pa.large_string()).take(pa.array(values)).cast(kind)
    else:
        array = from_numbers(np.array(column.levels, dtype=np.float64), kind).take(pa.array(values))
    if hole is not None:
        array = pc.if_else(pa.array(hole), pa.scalar(None, array.type), array)
    if keep is not None and not column.is_discrete:
        array = _keep_present(column, array, keep, position)
    if kind == whole:
        return array
    if column.categories is None:
        encoded = array.dictionary_encode()
        fits = len(encoded.dictionary) <= np.iinfo(whole.index_type.to_pandas_dtype()).max
        return encoded.cast(whole) if fits else encoded
    categories = pa.array(column.categories, kind)
    indices = pc.index_in(array, value_set=categories).cast(whole.index_type)
    if keep is not None and indices.null_count:
        raise _cannot_hold(column, keep, position, indices.is_null().to_numpy(zero_copy_only=False))
    return pa.DictionaryArray.from_arrays(indices, categories, ordered=whole.ordered)


def identifier_entries(
    column: Column, container: str, n_rows: int, own: Table | None, position: int, first: int | None
) -> Any:
    """An Arrow array [n] of identifiers: those of a table's rows and, where it has none, new ones.

    Parameters
    ----------
    own : Table [n, C], optional
    position : int
        Of the column.
    first : int, optional
        How many new ones were given out before; None leaves holes.

    Raises
    ------
    ColumnError
        A hole, or an entry of `own`, that the column's type cannot hold.
    """
    if first is not None:
        array = new_identifiers(column, first, n_rows)
    else:
        array = pa.nulls(n_rows, value_type(parse_type(column.storage)))
    if own is not None:
        array = _keep_present(column, array, own, position)
    if array.null_count and container in ("numpy", "pandas") and column.dtype.rstrip("0123456789") in _WITHOUT_HOLES:
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise ColumnError(
            f"column '{column.name}' lacks an identifier (row {row}), which its type at fit ({column.dtype}) cannot "
            "hold; fill it in, or refit with a type that has missing entries, such as Int64"
        )
    return array


def _keep_present(column: Column, array: Any, keep: Table, position: int) -> Any:
    """The entries of `keep` where it has them, those of `array` in its holes."""
    missing, numbers = keep.missing(position), keep.numbers[:, position]
    if missing.all():
        return array
    if position in keep.arrays:
        kept = keep.arrays[position].cast(array.type, safe=False)
        merged = pc.if_else(pa.array(missing), array, kept)
    else:
        merged = from_numbers(np.where(missing, to_numbers(array), numbers), array.type)
    if not pa.types.is_floating(array.type) and role_of(array.type) != TEXT:
        changed = ~missing & (to_numbers(merged) != numbers)
        if changed.any():
            raise _cannot_hold(column, keep, position, changed)
    return merged


def _cannot_hold(column: Column, keep: Table, position: int, rows: np.ndarray) -> ColumnError:
    row = int(np.argmax(rows))
    return ColumnError(
        f"column '{column.name}' holds {keep.entry(position, row)} (row {row}), which its type at fit "
        f"({column.dtype}) cannot hold; convert it, or refit with a wider type"
    )


def _build_array(dtype: str, arrays: Sequence[Any]) -> np.ndarray:
    if np.dtype(dtype).kind in "iufbM":
        return np.stack([array.to_numpy(zero_copy_only=False) for array in arrays], axis=1).astype(dtype, copy=False)
    built = np.empty((len(arrays[0]), len(arrays)), dtype=object)
    for position, array in enumerate(arrays):
        built[:, position] = array.to_pylist()
    if np.dtype(dtype).kind == "U":  # wide enough for new identifiers, too
        dtype = str(np.promote_types(built.astype(np.str_).dtype, dtype))
    return built.astype(dtype, copy=False)


def _build_pandas(columns: Sequence[Column], arrays: Sequence[Any], index: Any) -> Any:
    import pandas as pd

    series = {}
    for column, array in zip(columns, arrays, strict=True):
        label = column.name if column.label is None else column.label
        if column.dtype.endswith("[pyarrow]"):
            series[label] = pd.Series(array, dtype=pd.ArrowDtype(array.type))
        else:
            series[label] = array.to_pandas()
            if column.dtype != "category":
                series[label] = series[label].astype(column.dtype)
    frame = pd.DataFrame(series)
    return frame if index is None else frame.set_axis(index, axis=0)


def _build_polars(columns: Sequence[Column], table: Any) -> Any:
    import polars as pl

    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.with_columns(
        pl.col(column.name).cast(pl.Enum(list(column.categories or ())))
        for column in columns
        if column.dtype.startswith("Enum")
    )
