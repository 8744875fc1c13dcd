"""Schema: the columns of a table, inferred once and checked ever after."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from skvae.data.batch import Batch
from skvae.data.build import build_table, identifier_entries
from skvae.data.columns import MODELLED, NUMERIC, Column, Kind
from skvae.data.constraints import Constraint, constraints_of
from skvae.data.infer import infer_columns
from skvae.data.storage import DATE, EMPTY, NUMBER, PLURAL, TEXT, TRUTH, parse_type, role_of
from skvae.data.table import Table, show
from skvae.exceptions import ColumnError

ANY_KIND = frozenset(Kind)

# Standardised values beyond this are cut, so that one absurd entry at prediction cannot overflow float32.
_LARGEST = 1e8

_ROWS_AT_ONCE = 1024  # standardised in float64 in pieces that stay in the cache

_AT_FIT = {NUMBER: "numeric", TRUTH: "true or false", DATE: "a date", TEXT: "text"}

_SHOWN_COLUMNS, _SHOWN_LEVELS, _SHOWN_WIDTH = 40, 4, 32
_SHOWN_RULES = 8


class Schema:
    """Names, kinds, levels and scales of the columns of a table.

    Made by `Schema.infer`; `encode` turns a table with the same columns into tensors and `decode` turns
    tensors into a table like the one seen at fit: same container, columns, dtypes, categories, rounding and
    bounds.

    Attributes
    ----------
    columns : tuple of Column
    modelled : tuple of Column
        Those that are neither constant, nor identifiers, nor derived from another; the columns of a `Batch`, in
        order.
    container : {"numpy", "pandas", "polars", "pyarrow"}
    n_rows : int
        Number of rows it was inferred from.
    constraints : tuple of Constraint
        Rules that none of these rows violates; see `evaluation.find_constraints`. They are found, and not imposed.
    """

    def __init__(
        self, columns: Iterable[Column], container: str, n_rows: int, constraints: Iterable[Constraint] = ()
    ) -> None:
        self.constraints = tuple(constraints)
        self.columns = tuple(columns)
        self.container = container
        self.n_rows = n_rows
        positions = [i for i, column in enumerate(self.columns) if column.kind in MODELLED]
        self.modelled = tuple(self.columns[i] for i in positions)
        self._positions = np.array(positions, dtype=np.int64)
        names = [column.name for column in self.columns]
        self._sources = {
            i: names.index(column.source) for i, column in enumerate(self.columns) if column.source is not None
        }
        self._roles = [role_of(parse_type(column.storage)) or EMPTY for column in self.columns]
        self._offset = np.array([c.offset if c.kind in NUMERIC else 0.0 for c in self.modelled])
        self._scale = np.array([c.scale if c.kind in NUMERIC else 1.0 for c in self.modelled])

    @classmethod
    def infer(
        cls,
        table: Table,
        column_kinds: Mapping[Any, str] | None = None,
        allowed: frozenset[Kind] = ANY_KIND,
        as_they_are: Collection[Any] | None = None,
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
        as_they_are : collection of column names, optional
            If given, columns that say the same as another (see `with_derived`) are derived from it, but for these and
            those of `column_kinds`.

        Raises
        ------
        ColumnError
            A column without any entry, an override that the column cannot have, or no column that varies.
        """
        columns = infer_columns(table, column_kinds or {}, allowed, as_they_are)
        schema = cls(columns, table.container, table.n_rows, constraints_of(columns, table.numbers))
        if not schema.modelled:
            what = "an identifier" if columns[0].kind == Kind.IDENTIFIER else "constant"
            alike = all(column.kind == columns[0].kind for column in columns)
            others = "so is every other column" if alike else "every other column is constant or an identifier"
            raise ColumnError(
                f"column '{columns[0].name}' is {what} ({schema._contents(0)}) and {others}: there is nothing to "
                "learn; add columns that vary"
            )
        return schema

    def encode(self, table: Table, handle_unknown: str = "error") -> Batch:
        """Encode a table with these columns.

        Parameters
        ----------
        table : Table [n, n_columns]
        handle_unknown : {"error", "missing"}
            What to do with levels not seen at fit.

        Returns
        -------
        Batch
            With `values` [n, C] and `observed` [n, C] (None if nothing is missing), C the number of modelled
            columns.

        Raises
        ------
        ColumnError
            Other columns than at fit, a column that holds something else (text for numbers …), an unseen level.
        ValueError
            If `handle_unknown` is none of the two.
        """
        if handle_unknown not in ("error", "missing"):
            raise ValueError(f"handle_unknown={handle_unknown!r} is not understood; expected 'error' or 'missing'")
        self._check_columns(table)
        values = np.empty((table.n_rows, len(self.modelled)), dtype=np.float32)
        for first in range(0, table.n_rows, _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            numbers = table.numbers[rows]
            if len(self.modelled) < len(self.columns):
                numbers = numbers[:, self._positions]
            with np.errstate(over="ignore"):  # an infinity is cut like any value too large
                standardised = (numbers - self._offset) / self._scale
            values[rows] = np.clip(standardised, -_LARGEST, _LARGEST, out=standardised)
        for j, i in enumerate(self._positions):
            if self.columns[i].is_discrete:
                values[:, j] = self._codes(table, i, handle_unknown)
        missing = np.isnan(values)
        has_missing = bool(missing.any())
        if has_missing:
            values[missing] = 0.0
        return Batch(
            values=torch.from_numpy(values),
            observed=torch.from_numpy(~missing) if has_missing else None,
        )

    def changed_columns(self, table: Table) -> list[str]:
        """What is to be said of the columns of `changed_entries`: that one was constant, or followed another."""
        return [
            f"column '{self.columns[i].name}' "
            + (f"followed '{self.columns[i].source}'" if i in self._sources else "was constant")
            for i in self.changed_entries(table)
        ]

    def changed_entries(self, table: Table) -> dict[int, np.ndarray]:
        """Of the columns that were constant at fit, or followed another, and hold another value now, by position:
        where, bool [n].

        Raises
        ------
        ColumnError
            As `encode` does for columns that hold something else.
        """
        self._check_columns(table)
        changed = {}
        for i, column in enumerate(self.columns):
            if column.kind not in (Kind.CONSTANT, Kind.DERIVED):
                continue
            assert column.levels is not None
            codes, present = table.codes(i, column.levels), ~table.missing(i)
            differs = np.isnan(codes) & present
            if column.kind == Kind.DERIVED:
                expected = self._codes(table, self._sources[i], "missing")
                differs |= present & (codes != expected) & ~np.isnan(expected)
            elif self._roles[i] not in (TEXT, DATE) and differs.any():
                # Differences that are rounding errors are not another value.
                level, numbers = float(column.levels[0]), table.numbers[differs, i]
                differs[differs] = np.abs(numbers - level) > 1e-9 * np.abs(numbers)
            if differs.any():
                changed[i] = differs
        return changed

    def decode(
        self,
        values: torch.Tensor | np.ndarray,
        keep: Table | None = None,
        index: Any = None,
        given: Mapping[int, np.ndarray] | None = None,
        identifiers: Table | int = 0,
    ) -> Any:
        """Decode encoded rows.

        Parameters
        ----------
        values : array [n, C]
            Standardised reals and codes of the modelled columns; NaN for a hole.
        keep : Table [n, n_columns], optional
            Entries present in this table are returned as they are there; only its holes are filled, and levels
            not seen at fit.
        index : optional
            Row index for a pandas frame; that of `keep` by default.
        given : mapping of int to ndarray [n], float64, optional
            Entries of some columns, by position in `columns`, in the units of the data (codes of levels), which take
            the place of what `values` says; NaN where an entry is to be missing.
        identifiers : Table or int
            What stands in columns that are identifiers. Those of the rows [n] of a table, missing where they are;
            or else, where `keep` has none, new ones, of which so many were given out before.

        Returns
        -------
        ndarray or data frame like the one seen at fit, with n rows

        Raises
        ------
        ColumnError
            If an entry of `keep` cannot be held by the column's type at fit (1.5 by a whole number).
        ValueError
            If `values` has another shape.
        """
        encoded = np.asarray(values, dtype=np.float64)
        n_rows = len(encoded) if keep is None else keep.n_rows
        if encoded.shape != (n_rows, len(self.modelled)):
            raise ValueError(f"values has shape {encoded.shape}; expected {(n_rows, len(self.modelled))}")
        if keep is not None:
            self._check_columns(keep)
        holes = np.isnan(encoded)
        encoded = np.where(holes, 0.0, encoded)
        with np.errstate(over="ignore"):
            numbers = encoded * self._scale + self._offset
        entries = [np.zeros(n_rows, dtype=np.int64)] * len(self.columns)
        for j, i in enumerate(self._positions):
            column = self.columns[i]
            if column.is_discrete:
                codes = np.clip(np.rint(encoded[:, j]), 0, column.cardinality - 1)
                if keep is not None:
                    kept = self._codes(keep, i, "missing")
                    codes = np.where(np.isnan(kept), codes, kept)
                entries[i] = codes.astype(np.int64)
            else:
                entries[i] = on_grid(np.clip(numbers[:, j], column.lower, column.upper), column.resolution)
        missing = {i: holes[:, j] for j, i in enumerate(self._positions) if holes[:, j].any()}
        for i, its in (given or {}).items():
            missing[i] = np.isnan(its)
            entries[i] = np.where(missing[i], 0.0, its).astype(entries[i].dtype)
        for i, source in self._sources.items():
            entries[i] = entries[source]
            if source in missing:
                missing[i] = missing[source] | missing.get(i, False)
        own, first = (identifiers, None) if isinstance(identifiers, Table) else (keep, identifiers)
        for i, column in enumerate(self.columns):
            if column.kind == Kind.IDENTIFIER:
                entries[i] = identifier_entries(column, self.container, n_rows, own, i, first)
        return build_table(self.container, self.columns, entries, keep, index, missing)

    def _check_columns(self, table: Table) -> None:
        """Refuse a table with other columns, or with text where numbers were, or the reverse."""
        names = [column.name for column in self.columns]
        if len(table.names) != len(names):
            raise ColumnError(f"X has {len(table.names)} columns, but had {len(names)} at fit; pass the same columns")
        if "numpy" not in (table.container, self.container) and table.names != names:
            now, then = next(pair for pair in zip(table.names, names, strict=True) if pair[0] != pair[1])
            raise ColumnError(
                f"column '{now}' stands where '{then}' was at fit; pass the same columns in the same order"
            )
        for i, (column, now, then) in enumerate(zip(self.columns, table.roles, self._roles, strict=True)):
            if now in (then, EMPTY) or {now, then} == {NUMBER, TRUTH}:
                continue
            present = ~table.missing(i)
            if present.any():
                rows = np.flatnonzero(present).tolist()
                # Of text, the first that is no number written out is the likely culprit.
                row = next((r for r in rows if now == TEXT and not _is_number(table.array(i)[r].as_py())), rows[0])
                raise ColumnError(
                    f"column '{column.name}' holds {PLURAL[now]} ({table.entry(i, row)}, row {row}) but was "
                    f"{self._at_fit(i)} at fit; mark it missing (NaN), convert it or refit"
                )

    def _at_fit(self, i: int) -> str:
        """What the entries of a column were, in words."""
        if self._roles[i] == NUMBER and self.columns[i].is_discrete:
            return f"one of {self._contents(i)}"
        return _AT_FIT[self._roles[i]]

    def _codes(self, table: Table, i: int, handle_unknown: str) -> np.ndarray:
        """Codes [n] of a discrete column, NaN where it is missing, and so is all that was derived from it."""
        column = self.columns[i]
        assert column.levels is not None
        codes = table.codes(i, column.levels)
        if handle_unknown == "error" and (unknown := np.isnan(codes) & ~table.missing(i)).any():
            row = int(np.argmax(unknown))
            raise ColumnError(
                f"column '{column.name}' holds {table.entry(i, row)} (row {row}), a level not seen at fit "
                f"({self._contents(i)}); mark it missing (NaN), set handle_unknown='missing', or refit"
            )
        for j, source in self._sources.items():
            if source == i and (hole := table.missing(i)).any():
                known = self.columns[j].levels
                assert known is not None
                codes = np.where(hole & np.isnan(codes), table.codes(j, known), codes)
        return codes

    def to_dict(self) -> dict[str, Any]:
        return {
            "container": self.container,
            "n_rows": self.n_rows,
            "columns": [column.to_dict() for column in self.columns],
            "constraints": [rule.to_dict() for rule in self.constraints],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Schema:
        return cls(
            [Column.from_dict(column) for column in state["columns"]],
            state["container"],
            state["n_rows"],
            [Constraint.from_dict(rule) for rule in state.get("constraints", ())],
        )

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
        rows = [header] + [
            (_cut(c.name), str(c.kind), _cut(c.dtype), f"{c.missing:.1%}" if c.missing else "", self._contents(i))
            for i, c in enumerate(self.columns[:_SHOWN_COLUMNS])
        ]
        widths = [max(len(row[k]) for row in rows) for k in range(4)] + [0]
        lines = [f"Schema of {len(self.columns)} columns, from {self.n_rows} rows ({self.container})"]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if len(self.columns) > _SHOWN_COLUMNS:
            lines.append(f"… and {len(self.columns) - _SHOWN_COLUMNS} more columns")
        if self.constraints:
            shown = ", ".join(str(rule) for rule in self.constraints[:_SHOWN_RULES])
            more = len(self.constraints) - _SHOWN_RULES
            lines.append(f"no row violates: {shown}" + (f" and {more} more rules" if more > 0 else ""))
        return "\n".join(lines)

    def _contents(self, i: int) -> str:
        """Levels or range of a column."""
        column = self.columns[i]
        if column.kind == Kind.IDENTIFIER:
            return f"new ones {column.fresh}1, …" if isinstance(column.fresh, str) else f"new ones {column.fresh}, …"
        if self._roles[i] == DATE:
            bounds = column.levels or (column.lower, column.upper)
            first, *last = (np.datetime_as_string(np.datetime64(int(bound), "us"), "D") for bound in bounds)
            return " to ".join([first, *last])
        if column.levels is not None:
            follows = f"follow {column.source}: " if column.source is not None else ""
            shown = follows + ", ".join(show(level) for level in column.levels[:_SHOWN_LEVELS])
            return shown + (f", … {column.cardinality} levels" if column.cardinality > _SHOWN_LEVELS else "")
        step = f" in steps of {column.resolution:g}" if 0 < column.resolution < 1 else ""
        return f"{column.lower:g} to {column.upper:g}{step}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_WIDTH else text[: _SHOWN_WIDTH - 1] + "…"


def on_grid(numbers: np.ndarray, resolution: float) -> np.ndarray:
    """Numbers rounded as those of a column with this resolution; 0 for none."""
    if resolution == 0.0:
        return numbers
    if resolution < 1.0:
        return np.round(numbers, round(-np.log10(resolution)))
    return np.rint(numbers / resolution) * resolution


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
