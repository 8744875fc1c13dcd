"""Rules that no row of a table violates: sums, and the order of numbers or dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skvae.data.columns import NUMERIC, Column, Kind
from skvae.data.identifiers import identifiers
from skvae.data.schema import Schema
from skvae.data.table import read_table
from skvae.evaluation.tables import Rows

# With fewer rows a rule may hold by chance.
_MIN_ROWS = 50
# Rows that refute most candidates.
_SCREENED = 2000
# An order is a rule if it would be broken in this share of rows, were the two columns independent.
_MIN_CHANCE = 0.05
# A sum may be off by rounding errors up to this share of the standard deviation.
_LARGEST_ROUNDING = 0.01


@dataclass(frozen=True)
class Constraint:
    """A rule between columns of numbers or dates: left = right or left ≤ right, sums of columns each.

    Attributes
    ----------
    relation : {"=", "≤"}
    left, right : tuple of str
        Names of the columns that are added up.
    tolerance : float
        By how much a row may miss the rule, in the units of the data.
    """

    relation: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    tolerance: float

    def __str__(self) -> str:
        return f"{' + '.join(self.left)} {self.relation} {' + '.join(self.right)}"


@dataclass(frozen=True)
class ConstraintRate:
    """How often a rule is violated.

    Attributes
    ----------
    constraint : str
    violated : float
        Share of the rows that have all of its columns.
    n_rows : int
        Number of these rows.
    """

    constraint: str
    violated: float
    n_rows: int


def find_constraints(X: Any) -> list[Constraint]:
    """Rules that hold in every row of a table: one column is the sum of others, or is never above another.

    They are found, not imposed: a model may be fitted to the table without a column that follows from the others,
    or to differences in place of ends, and `quality_report` says how often synthetic rows violate them.

    A sum is found by regressing each column on those before it, in the order of their standard deviations; it may be
    off by rounding errors of the columns' last digits. An order a ≤ b is a rule if both are dates or both numbers,
    and if at least 5 % of rows would violate it were the columns independent; one that follows from two others is
    left out. Rows without an entry in one of the columns are passed over; fewer than 50 rows tell nothing.

    Parameters
    ----------
    X : array or data frame [n, C], or path of a csv or parquet file

    Returns
    -------
    list of Constraint
        Sums first; `print(*constraints, sep="\\n")` shows them.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.exponential(size=(2, 100))
    >>> print(*find_constraints(np.stack([a, b, a + b], axis=1)), sep="\\n")
    x2 = x0 + x1
    x0 ≤ x2
    x1 ≤ x2
    """
    table = read_table(X)
    columns = Schema.infer(table, {found.name: Kind.IDENTIFIER for found in identifiers(table)}).columns
    return constraints_of(Rows(columns, table.numbers))


def constraints_of(rows: Rows) -> list[Constraint]:
    """The rules of rows in the units of the data."""
    numeric = [j for j, column in enumerate(rows.columns) if column.kind in NUMERIC]
    if len(numeric) < 2 or len(rows) < _MIN_ROWS:
        return []
    columns, values = [rows.columns[j] for j in numeric], rows.values[:, numeric]
    return _sums(columns, values) + _orders(columns, values)


def constraint_rates(constraints: Sequence[Constraint], rows: Rows) -> tuple[ConstraintRate, ...]:
    """How often rows violate rules."""
    position = {column.name: j for j, column in enumerate(rows.columns)}
    rates = []
    for rule in constraints:
        left, right = (
            rows.values[:, [position[name] for name in side]].sum(axis=1) for side in (rule.left, rule.right)
        )
        gap = left - right
        gap = gap[~np.isnan(gap)]
        broken = np.abs(gap) > rule.tolerance if rule.relation == "=" else gap > rule.tolerance
        rates.append(ConstraintRate(str(rule), float(broken.mean()) if len(gap) else 0.0, len(gap)))
    return tuple(rates)


def _sums(columns: Sequence[Column], values: np.ndarray) -> list[Constraint]:
    """Columns that are sums of others, up to rounding."""
    usable = [
        j for j, column in enumerate(columns) if column.kind != Kind.DATE and np.isnan(values[:, j]).mean() < 0.5
    ]
    complete = values[~np.isnan(values[:, usable]).any(axis=1)][:, usable]
    if len(usable) < 3 or len(complete) < max(_MIN_ROWS, 3 * len(usable)):
        return []
    looked_at = complete[:: max(1, len(complete) // _SCREENED)]
    spread = looked_at.std(axis=0)
    order = [j for j in np.argsort(spread, kind="stable") if spread[j] > 0]
    found: list[Constraint] = []
    basis: list[int] = []
    for j in order:
        if len(basis) >= 2:
            design = np.column_stack([looked_at[:, basis] / spread[basis], np.ones(len(looked_at))])
            solution = np.linalg.lstsq(design, looked_at[:, j], rcond=None)[0]
            residual = looked_at[:, j] - design @ solution
            if np.sqrt((residual**2).mean()) < _LARGEST_ROUNDING * spread[j]:
                weights = solution[:-1] / spread[basis]
                rule = _sum_rule([columns[usable[i]] for i in basis], columns[usable[j]], weights, complete, basis, j)
                if rule is not None:
                    found.append(rule)
                    continue  # what follows from others is no basis
        basis.append(j)
    return found


def _sum_rule(
    parts: Sequence[Column], total: Column, weights: np.ndarray, values: np.ndarray, basis: list[int], j: int
) -> Constraint | None:
    """The rule with the weights rounded to −1, 0, 1, if it holds in every row."""
    signs = np.rint(weights)
    if (np.abs(signs) > 1).any() or np.count_nonzero(signs) < 2:
        return None
    used = [(parts[i], signs[i]) for i in np.argsort(basis) if signs[i]]
    off = np.abs(values[:, j] - values[:, basis] @ signs).max()
    scale = np.abs(values[:, [j, *basis]]).max()
    # Half a unit of the last digit of each; of whole numbers, which add up without rounding, as well.
    rounding = 0.5 * sum(column.resolution for column in (total, *(part for part, _ in used)))
    if all(column.kind == Kind.INTEGER for column in (total, *(part for part, _ in used))):
        rounding = 0.0
    tolerance = max(min(rounding, _LARGEST_ROUNDING * values[:, j].std()), 1e-9 * scale)
    if off > tolerance * (1 + 1e-9):
        return None
    minus = tuple(part.name for part, sign in used if sign < 0)
    plus = tuple(part.name for part, sign in used if sign > 0)
    # total = plus − minus, written without differences and with the single column on the left
    left, right = (total.name, *minus), plus
    if len(right) == 1:
        left, right = right, left
    return Constraint("=", left, right, float(tolerance))


def _orders(columns: Sequence[Column], values: np.ndarray) -> list[Constraint]:
    """Pairs of which the first is never above the second."""
    n_columns = len(columns)
    dates = np.array([column.kind == Kind.DATE for column in columns])
    holds = dates[:, None] == dates
    np.fill_diagonal(holds, False)
    screened = values[:: max(1, len(values) // _SCREENED)]
    for part in (screened, values):
        for i in np.flatnonzero(holds.any(axis=1)):
            rivals = np.flatnonzero(holds[i])
            with np.errstate(invalid="ignore"):
                holds[i, rivals] = ~(part[:, i, None] > part[:, rivals]).any(axis=0)
    present = ~np.isnan(values)
    for i, j in np.argwhere(holds):
        both = present[:, i] & present[:, j]
        chance = 0.0
        if both.sum() >= _MIN_ROWS:
            chance = (np.searchsorted(np.sort(values[both, j]), values[both, i], side="left") / both.sum()).mean()
        same = holds[j, i] and i > j  # equal columns: one of the two orders says it
        holds[i, j] = chance >= _MIN_CHANCE and not same
    follows = (holds.astype(np.int64) @ holds.astype(np.int64)) > 0
    return [
        Constraint("≤", (columns[i].name,), (columns[j].name,), 0.0)
        for i, j in np.argwhere(holds & ~follows)
        if i != j and n_columns > 1
    ]
