"""Real and synthetic tables on common ground: numbers as they are, levels as codes of the real table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skvae.data.columns import DISCRETE, NUMERIC, Column, Kind
from skvae.data.constraints import Constraint
from skvae.data.identifiers import identifiers
from skvae.data.schema import Schema
from skvae.data.source import opened, reading, text_columns
from skvae.data.storage import EMPTY, NUMBER, PLURAL, TRUTH
from skvae.data.table import Table, read_table
from skvae.exceptions import ColumnError

# Below this, a share or a neighbourhood says nothing.
MIN_ROWS = 20


@dataclass(frozen=True)
class Rows:
    """The rows of one table.

    Attributes
    ----------
    columns : tuple of Column
        Those compared; kinds and levels are of the real table.
    values : ndarray [n, C], float64
        Numbers and dates in the units of the data; codes of levels, where a level that the real table lacks has
        the code `cardinality`; NaN where missing.
    """

    columns: tuple[Column, ...]
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def numeric(self) -> np.ndarray:
        """Which columns are numbers or dates, bool [C]."""
        return np.array([column.kind in NUMERIC for column in self.columns], dtype=bool)

    def part(self, n: int, rng: np.random.Generator) -> Rows:
        """At most n of the rows, at random and in their order."""
        if n >= len(self):
            return self
        return Rows(self.columns, self.values[np.sort(rng.choice(len(self), n, replace=False))])


@dataclass(frozen=True)
class Tables:
    """What is compared: rows of the real table, of the synthetic one and, where given, held-out real rows.

    `left_out` are columns that are not compared, `constraints` rules between the others that the real rows keep.
    """

    real: Rows
    synthetic: Rows
    holdout: Rows | None
    left_out: tuple[str, ...]
    constraints: tuple[Constraint, ...]


def read_tables(
    real: Any, synthetic: Any, holdout: Any = None, column_kinds: Mapping[Any, str] | None = None
) -> Tables:
    """Read the tables of a report; kinds and levels are inferred from the real one.

    Columns are found by name (by position, of arrays), in any order. Columns with a value of its own in every row,
    such as identifiers and free text, are left out, for no two samples of them agree; and those that `column_kinds`
    makes identifiers.

    Raises
    ------
    ColumnError
        Other columns, or a column that holds something else than in the real table.
    ValueError
        Fewer than 20 rows.
    """
    table = _read(opened(real, **reading(column_kinds)), "real")
    schema = Schema.infer(table, column_kinds)
    odd = {found.name for found in identifiers(table, column_kinds or {})}
    odd |= {column.name for column in schema.columns if column.kind == Kind.IDENTIFIER}
    kept = [i for i, column in enumerate(schema.columns) if column.name not in odd]
    if not kept:
        raise ColumnError(
            f"column '{schema.columns[0].name}' has a value of its own in every row, and so has every other column "
            "of the real table: there is nothing to compare; add columns whose values repeat"
        )
    columns = tuple(schema.columns[i] for i in kept)
    text = text_columns(schema)
    others = [
        None if X is None else _encode(_aligned(X, name, schema, table, text), columns, kept)
        for name, X in (("synthetic", synthetic), ("holdout", holdout))
    ]
    assert others[0] is not None
    rules = tuple(rule for rule in schema.constraints if not odd & {*rule.left, *rule.right})
    return Tables(_encode(table, columns, kept), others[0], others[1], tuple(sorted(odd)), rules)


def _read(X: Any, name: str) -> Table:
    table = read_table(X)
    if table.n_rows < MIN_ROWS:
        raise ValueError(f"the {name} table has {table.n_rows} rows; expected {MIN_ROWS} or more")
    return table


def _aligned(X: Any, name: str, schema: Schema, real: Table, text: list[str]) -> Table:
    """A further table, checked to have the real one's columns, and brought into their order."""
    X = opened(X, text=text)
    table = _read(X, name)
    if "numpy" in (table.container, real.container):
        if len(table.names) != len(real.names):
            raise ColumnError(
                f"the {name} table has {len(table.names)} columns, the real one {len(real.names)}; pass the "
                "same columns"
            )
    else:
        for has, lacks, who, whom in (
            (real.names, table.names, name, "real"),
            (table.names, real.names, "real", name),
        ):
            if missing := [column for column in has if column not in lacks]:
                raise ColumnError(
                    f"column '{missing[0]}' of the {whom} table is not in the {who} table; pass the same columns"
                )
        if table.names != real.names:
            table = _read(_selected(X, [table.labels[table.names.index(column)] for column in real.names]), name)
    for i, (column, now, then) in enumerate(zip(schema.columns, table.roles, real.roles, strict=True)):
        if now in (then, EMPTY) or {now, then} == {NUMBER, TRUTH}:
            continue
        present = ~table.missing(i)
        if present.any():
            raise ColumnError(
                f"column '{column.name}' holds {PLURAL[now]} in the {name} table "
                f"({table.entry(i, int(np.argmax(present)))}, row {int(np.argmax(present))}) and "
                f"{PLURAL[then]} in the real one; convert one of them"
            )
    return table


def _selected(X: Any, labels: list[Any]) -> Any:
    """The columns of a frame in another order."""
    return X.select(labels) if hasattr(X, "select") else X[labels]


def _encode(table: Table, columns: tuple[Column, ...], kept: list[int]) -> Rows:
    values = np.array(table.numbers[:, kept])
    for j, (i, column) in enumerate(zip(kept, columns, strict=True)):
        if column.kind in DISCRETE or column.kind == Kind.CONSTANT:
            assert column.levels is not None
            codes = table.codes(i, column.levels)
            values[:, j] = np.where(np.isnan(codes) & ~table.missing(i), column.cardinality, codes)
    return Rows(columns, values)
