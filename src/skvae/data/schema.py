"""Schema: the columns of a table, inferred once and checked ever after."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from skvae.data.batch import Batch
from skvae.data.columns import DISCRETE, NUMERIC, Column, Kind
from skvae.data.table import DATE, EMPTY, TEXT, TRUTH, Table, build_table
from skvae.exceptions import ColumnError

ANY_KIND = frozenset(Kind)

# A numeric column with two values is a yes/no column only if both are seen this often; else a rare third
# value in later rows would be refused although "few so far" was all the data said.
_MIN_SHARE = 0.01
_MIN_ROWS = 10

# Standardised values beyond this are cut, so that one absurd entry at prediction cannot overflow float32.
_LARGEST = 1e8

_ROWS_AT_ONCE = 1024  # standardised in float64 in pieces that stay in the cache

_DATE_STEPS = (86_400e6, 3_600e6, 60e6, 1e6, 1e3, 1.0)  # day, hour, minute, second, ms, µs
_MAX_DECIMALS = 6


class Schema:
    """Names, kinds, levels and scales of the columns of a table.

    Made by `Schema.infer`; `encode` turns a table with the same columns into tensors and `decode` turns
    tensors into a table like the one seen at fit: same container, columns, dtypes, categories, rounding and
    bounds.

    Attributes
    ----------
    columns : tuple of Column
    modelled : tuple of Column
        Those that are not constant; the columns of a `Batch`, in order.
    container : {"numpy", "pandas", "polars", "pyarrow"}
    n_rows : int
        Number of rows it was inferred from.
    """

    def __init__(self, columns: Iterable[Column], container: str, n_rows: int) -> None:
        self.columns = tuple(columns)
        self.container = container
        self.n_rows = n_rows
        positions = [i for i, column in enumerate(self.columns) if column.kind != Kind.CONSTANT]
        self.modelled = tuple(self.columns[i] for i in positions)
        self._positions = np.array(positions, dtype=np.int64)
        self._offset = np.array([c.offset if c.kind in NUMERIC else 0.0 for c in self.modelled])
        self._scale = np.array([c.scale if c.kind in NUMERIC else 1.0 for c in self.modelled])

    @classmethod
    def infer(
        cls,
        table: Table,
        column_kinds: Mapping[Any, str] | None = None,
        allowed: frozenset[Kind] = ANY_KIND,
    ) -> Schema:
        """Read the kinds off a table.

        Parameters
        ----------
        table : Table
            From `read_table`.
        column_kinds : mapping of column name (or position) to kind, optional
            Overrides what would be inferred.
        allowed : frozenset of Kind
            Kinds that the likelihood can score: where a numeric column could be read in several ways, the
            most specific of these is taken.

        Raises
        ------
        ColumnError
            A column without any entry, an override that the column cannot have, or no column that varies.
        """
        overrides = _named_overrides(table, column_kinds or {})
        facts = _numeric_facts(table)
        columns = [_infer_column(table, i, facts, overrides.get(name), allowed) for i, name in enumerate(table.names)]
        schema = cls(columns, table.container, table.n_rows)
        if not schema.modelled:
            raise ColumnError(
                f"column '{columns[0].name}' is constant ({_show(columns[0].levels)}) and so is every other "
                "column: there is nothing to learn; add columns that vary"
            )
        return schema

    def encode(self, table: Table, handle_unknown: str = "error") -> Batch:
        """Encode a table with these columns.

        Parameters
        ----------
        handle_unknown : {"error", "missing"}
            What to do with levels not seen at fit.

        Returns
        -------
        Batch
            With `values` [n, C] and `observed` [n, C] (None if nothing is missing), C the number of modelled
            columns.
        """
        codes = {}
        for i, column in enumerate(self.columns):
            _check_role(table, i, column)
            if column.kind in DISCRETE:
                codes[i] = _codes(table, i, column, handle_unknown)
        values = np.empty((table.n_rows, len(self.modelled)), dtype=np.float32)
        for first in range(0, table.n_rows, _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            numbers = table.numbers[rows]
            if len(self.modelled) < len(self.columns):
                numbers = numbers[:, self._positions]
            standardised = (numbers - self._offset) / self._scale
            values[rows] = np.clip(standardised, -_LARGEST, _LARGEST, out=standardised)
        for j, i in enumerate(self._positions):
            if i in codes:
                values[:, j] = codes[i]
        missing = np.isnan(values)
        has_missing = bool(missing.any())
        if has_missing:
            values[missing] = 0.0
        return Batch(
            values=torch.from_numpy(values),
            observed=torch.from_numpy(~missing) if has_missing else None,
        )

    def changed_constants(self, table: Table) -> list[str]:
        """Names of the columns that were constant at fit and hold another value now."""
        changed = []
        for i, column in enumerate(self.columns):
            if column.kind != Kind.CONSTANT:
                continue
            assert column.levels is not None
            if i in table.texts:
                same = pc.equal(table.texts[i], pa.scalar(column.levels[0], table.texts[i].type))
                differs = not pc.all(pc.fill_null(same, True)).as_py()
            else:
                numbers = table.numbers[:, i]
                differs = bool((np.abs(numbers - float(column.levels[0])) > _jitter(numbers)).any())
            if differs:
                changed.append(column.name)
        return changed

    def decode(self, values: torch.Tensor | np.ndarray, keep: Table | None = None, index: Any = None) -> Any:
        """Decode encoded rows.

        Parameters
        ----------
        values : array [n, C]
            Standardised reals and codes of the modelled columns.
        keep : Table, optional
            Entries present in this table are returned as they are there; only its holes are filled.
        index : optional
            Row index for a pandas frame; that of `keep` by default.

        Returns
        -------
        ndarray or data frame like the one seen at fit, with n rows
        """
        encoded = np.asarray(values, dtype=np.float64)
        numbers = encoded * self._scale + self._offset
        entries: list[Any] = []
        modelled = {int(i): j for j, i in enumerate(self._positions)}
        for i, column in enumerate(self.columns):
            if i not in modelled:
                assert column.levels is not None
                entries.append(_levels_array(column)[np.zeros(len(encoded), dtype=np.int64)])
                continue
            j = modelled[i]
            if column.kind in DISCRETE:
                codes = np.clip(np.rint(encoded[:, j]), 0, column.cardinality - 1)
                if keep is not None:
                    kept = _codes(keep, i, column, "missing")
                    codes = np.where(np.isnan(kept), codes, kept)
                entries.append(_levels_array(column)[codes.astype(np.int64)])
            else:
                drawn = _round(np.clip(numbers[:, j], column.lower, column.upper), column.resolution)
                if keep is not None:
                    drawn = np.where(np.isnan(keep.numbers[:, i]), drawn, keep.numbers[:, i])
                entries.append(drawn)
        if index is None and keep is not None:
            index = keep.index
        return build_table(self.container, self.columns, entries, index)

    def to_dict(self) -> dict[str, Any]:
        return {
            "container": self.container,
            "n_rows": self.n_rows,
            "columns": [column.to_dict() for column in self.columns],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Schema:
        return cls([Column.from_dict(column) for column in state["columns"]], state["container"], state["n_rows"])

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        return cls.from_dict(json.loads(text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        header = ("column", "kind", "dtype", "missing", "levels or range")
        rows = [
            (c.name, str(c.kind), c.dtype, f"{c.missing:.1%}" if c.missing else "", _describe(c))
            for c in self.columns[:40]
        ]
        widths = [max(len(row[k]) for row in [header, *rows]) for k in range(4)]
        lines = [
            "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[4]]).rstrip()
            for row in [header, *rows]
        ]
        if len(self.columns) > 40:
            lines.append(f"… and {len(self.columns) - 40} more columns")
        return f"Schema of {len(self.columns)} columns, from {self.n_rows} rows ({self.container})\n" + "\n".join(
            lines
        )


@dataclass
class _NumericFacts:
    """Statistics of numeric columns, each [C]."""

    count: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    constant: np.ndarray
    integral: np.ndarray
    two_valued: np.ndarray
    rarer_share: np.ndarray


def _numeric_facts(table: Table, block: int = 16) -> _NumericFacts:
    """Statistics of all columns, a cache-sized block of them at a time; of no meaning for text."""
    blocks = [
        _facts_of_block(np.array(table.numbers[:, first : first + block].T, order="C"))
        for first in range(0, len(table.names), block)
    ]
    return _NumericFacts(
        **{f.name: np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(_NumericFacts)}
    )


def _facts_of_block(numbers: np.ndarray) -> _NumericFacts:
    """Statistics of columns laid out as rows, [C, n], NaN where missing."""
    missing = np.isnan(numbers)
    count = numbers.shape[1] - missing.sum(axis=1)
    # An all-missing column gives (inf, -inf); the caller refuses it by its count.
    lower = np.fmin.reduce(numbers, axis=1, initial=np.inf)
    upper = np.fmax.reduce(numbers, axis=1, initial=-np.inf)
    is_upper = (numbers == upper[:, None]).sum(axis=1)
    is_lower = (numbers == lower[:, None]).sum(axis=1)
    numbers[missing] = 0.0
    largest = np.maximum(np.abs(np.where(count == 0, 0.0, [lower, upper])).max(axis=0), np.finfo(np.float64).tiny)
    integral = (numbers == np.rint(numbers)).all(axis=1) & (largest < 2.0**53)
    at_least_one = np.maximum(count, 1)
    # In units of the largest entry, so that the square of 1e300 does not overflow.
    numbers /= largest[:, None]
    mean = numbers.sum(axis=1) / at_least_one
    numbers -= mean[:, None]
    numbers[missing] = 0.0
    variance = np.einsum("cn,cn->c", numbers, numbers) / at_least_one
    with np.errstate(over="ignore", invalid="ignore"):
        constant = upper - lower <= 4 * np.finfo(np.float64).eps * largest
    return _NumericFacts(
        count=count,
        lower=lower,
        upper=upper,
        mean=mean * largest,
        deviation=np.sqrt(variance) * largest,
        constant=constant,
        integral=integral,
        two_valued=(is_upper + is_lower == count) & ~constant,
        rarer_share=np.minimum(is_upper, is_lower) / at_least_one,
    )


def _named_overrides(table: Table, column_kinds: Mapping[Any, str]) -> dict[str, Kind]:
    overrides = {}
    for key, kind in column_kinds.items():
        is_position = isinstance(key, int) and key not in table.names
        if is_position and not -len(table.names) <= key < len(table.names):
            raise ColumnError(f"column_kinds names position {key}, but X has {len(table.names)} columns")
        name = table.names[key] if is_position else str(key)
        if name not in table.names:
            raise ColumnError(f"column_kinds names column '{name}', which X lacks; it has {table.names[:10]}")
        choices = [str(choice) for choice in Kind if choice != Kind.CONSTANT]
        if kind not in choices:
            raise ColumnError(f"column_kinds gives column '{name}' the kind {kind!r}; expected one of {choices}")
        overrides[name] = Kind(kind)
    return overrides


def _infer_column(
    table: Table, i: int, facts: _NumericFacts, override: Kind | None, allowed: frozenset[Kind]
) -> Column:
    name, role = table.names[i], table.roles[i]
    n_present = table.n_rows - table.texts[i].null_count if role == TEXT else int(facts.count[i])
    if n_present == 0:
        raise ColumnError(f"column '{name}' has no observed value (all {table.n_rows} are missing); drop it")
    common = {
        "name": name,
        "dtype": table.dtypes[i],
        "categories": table.categories.get(i),
        "missing": 1.0 - n_present / table.n_rows,
    }
    if role == TEXT:
        return _infer_levels(table, i, override, common)
    _check_override(name, role, override, facts, i)
    if facts.constant[i]:
        return Column(kind=Kind.CONSTANT, levels=(_plain(facts.lower[i], role),), **common)
    kind = override or _numeric_kind(facts, i, role, allowed)
    if kind in DISCRETE:
        present = table.numbers[:, i][~np.isnan(table.numbers[:, i])]
        levels, codes = np.unique(present, return_inverse=True)
        named = tuple(_plain(level, role) for level in levels)
        return Column(kind=kind, levels=named, offset=codes.mean(), scale=codes.std(), **common)
    return Column(
        kind=kind,
        offset=float(facts.mean[i]),
        scale=float(facts.deviation[i]),
        lower=float(facts.lower[i]),
        upper=float(facts.upper[i]),
        resolution=_resolution(table.numbers[:, i], kind),
        **common,
    )


def _numeric_kind(facts: _NumericFacts, i: int, role: str, allowed: frozenset[Kind]) -> Kind:
    """The most specific allowed kind of a column of numbers."""
    if role == DATE:
        return Kind.DATE
    usual = facts.count[i] >= _MIN_ROWS and facts.rarer_share[i] >= _MIN_SHARE
    zero_one = facts.lower[i] == 0 and facts.upper[i] == 1
    only_binary = not allowed & NUMERIC
    two = facts.two_valued[i] and (usual or only_binary or (zero_one and facts.count[i] < _MIN_ROWS))
    if Kind.BINARY in allowed and (role == TRUTH or two):
        return Kind.BINARY
    if Kind.INTEGER in allowed and facts.integral[i] and role != TRUTH:
        return Kind.INTEGER
    return Kind.CONTINUOUS


def _check_override(name: str, role: str, override: Kind | None, facts: _NumericFacts, i: int) -> None:
    if override is None:
        return
    problem = None
    if (override == Kind.DATE) != (role == DATE):
        problem = f"holds {role}s"
    elif override == Kind.INTEGER and not facts.integral[i]:
        problem = "holds numbers that are not whole"
    elif override == Kind.BINARY and not facts.two_valued[i] and not facts.constant[i]:
        problem = "holds more than two values"
    if problem:
        raise ColumnError(f"column '{name}' {problem} and cannot be '{override}'; correct column_kinds")


def _infer_levels(table: Table, i: int, override: Kind | None, common: dict[str, Any]) -> Column:
    """A column of named levels."""
    name = common["name"]
    if override in NUMERIC:
        example = table.texts[i].drop_null()[0].as_py()
        raise ColumnError(
            f"column '{name}' holds text ({example!r}) and cannot be '{override}'; convert it to numbers or "
            "dates first"
        )
    seen = pc.unique(table.texts[i].drop_null()).to_pylist()
    declared = table.categories.get(i) if i in table.ordered else None
    levels = tuple(level for level in declared if level in set(seen)) if declared else tuple(sorted(seen))
    if len(levels) == 1:
        return Column(kind=Kind.CONSTANT, levels=levels, **common)
    if override == Kind.BINARY and len(levels) > 2:
        raise ColumnError(f"column '{name}' has {len(levels)} levels and cannot be 'binary'")
    if override is not None:
        kind = override
    elif i in table.ordered:
        kind = Kind.ORDINAL
    else:
        kind = Kind.BINARY if len(levels) == 2 else Kind.CATEGORICAL
    column = Column(kind=kind, levels=levels, **common)
    codes = _codes(table, i, column, "error")
    return Column(kind=kind, levels=levels, offset=np.nanmean(codes), scale=np.nanstd(codes), **common)


def _codes(table: Table, i: int, column: Column, handle_unknown: str) -> np.ndarray:
    """Codes [n] of a discrete column, NaN where missing."""
    assert column.levels is not None
    missing = table.missing(i)
    if i in table.texts:
        found = pc.index_in(table.texts[i], value_set=pa.array(column.levels, table.texts[i].type))
        codes = found.to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        levels = np.array([float(level) for level in column.levels])
        numbers = table.numbers[:, i]
        codes = np.searchsorted(levels, numbers).clip(0, len(levels) - 1).astype(np.float64)
        codes[levels[codes.astype(np.int64)] != numbers] = np.nan
    unknown = np.isnan(codes) & ~missing
    if unknown.any() and handle_unknown == "error":
        row = int(np.argmax(unknown))
        value = table.texts[i][row].as_py() if i in table.texts else table.numbers[row, i]
        raise ColumnError(
            f"column '{column.name}' holds {value!r} (row {row}), a level not seen at fit "
            f"({_show(column.levels)}); mark it missing (NaN), set handle_unknown='missing', or refit"
        )
    codes[missing] = np.nan
    return codes


def _check_role(table: Table, i: int, column: Column) -> None:
    """Text where numbers were, or the reverse."""
    role = table.roles[i]
    was_text = bool(column.levels) and isinstance(column.levels[0], str)  # type: ignore[index]
    if role == EMPTY or (role == TEXT) == was_text:
        if role != EMPTY and (role == DATE) != (column.kind == Kind.DATE) and column.kind != Kind.CONSTANT:
            raise ColumnError(
                f"column '{column.name}' holds {role}s but was {column.kind} at fit; convert it or refit"
            )
        return
    if role == TEXT:
        if column.categories is not None and not was_text:
            return  # a category dtype over numbers
        entries = table.texts[i].drop_null()
        if len(entries) == 0:
            return
        row = int(np.argmax(~table.missing(i)))
        raise ColumnError(
            f"column '{column.name}' holds text ({entries[0].as_py()!r}, row {row}) but was {column.kind} at "
            "fit; mark it missing (NaN) or refit"
        )
    row = int(np.argmax(~table.missing(i)))
    raise ColumnError(
        f"column '{column.name}' holds {role}s ({table.numbers[row, i]:g}, row {row}) but was text at fit; "
        "convert it to text or refit"
    )


def _resolution(numbers: np.ndarray, kind: Kind) -> float:
    """The step to which every entry is rounded; 0 if none is found."""
    if kind == Kind.INTEGER:
        return 1.0
    if kind != Kind.DATE and not _has_decimals(numbers[:50], _MAX_DECIMALS):
        return 0.0  # most columns are refuted by a few rows
    present = numbers[~np.isnan(numbers)]
    if kind == Kind.DATE:
        return next((step for step in _DATE_STEPS if (present % step == 0).all()), 0.0)
    for decimals in range(_MAX_DECIMALS + 1):
        if _has_decimals(present, decimals):
            return 10.0**-decimals
    return 0.0


def _has_decimals(numbers: np.ndarray, decimals: int) -> bool:
    numbers = numbers[~np.isnan(numbers)]
    with np.errstate(over="ignore"):
        shifted = numbers * 10.0**decimals
    if not np.isfinite(shifted).all() or np.abs(shifted).max(initial=0.0) > 2.0**50:
        return False
    error = np.abs(shifted - np.rint(shifted))
    return bool((error <= np.minimum(1e-3, 4 * np.finfo(np.float64).eps * np.abs(shifted))).all())


def _round(numbers: np.ndarray, resolution: float) -> np.ndarray:
    if resolution == 0.0:
        return numbers
    if resolution < 1.0:
        return np.round(numbers, round(-np.log10(resolution)))
    return np.rint(numbers / resolution) * resolution


def _jitter(numbers: np.ndarray) -> np.ndarray:
    """Differences that are rounding error, not another value."""
    return 1e-9 * np.abs(numbers)


def _levels_array(column: Column) -> np.ndarray:
    assert column.levels is not None
    if isinstance(column.levels[0], (int, float)) and not isinstance(column.levels[0], bool):
        return np.array(column.levels)
    array = np.empty(len(column.levels), dtype=object)
    array[:] = column.levels
    return array


def _plain(value: float, role: str) -> bool | int | float:
    """A level as a plain Python value of the column's own type."""
    if role == TRUTH:
        return bool(value)
    return int(value) if value == int(value) and abs(value) < 2**53 else float(value)


def _show(levels: tuple[Any, ...] | None, most: int = 4) -> str:
    levels = levels or ()
    shown = ", ".join(repr(level) for level in levels[:most])
    return shown + (f", … {len(levels)} levels" if len(levels) > most else "")


def _describe(column: Column) -> str:
    if column.levels is not None:
        return _show(column.levels)
    if column.kind == Kind.DATE:
        lower, upper = (np.datetime64(int(bound), "us") for bound in (column.lower, column.upper))
        return f"{np.datetime_as_string(lower, 'D')} to {np.datetime_as_string(upper, 'D')}"
    step = f" in steps of {column.resolution:g}" if 0 < column.resolution < 1 else ""
    return f"{column.lower:g} to {column.upper:g}{step}"
