"""Rules that no row of a table violates: sums, and the order of numbers or dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from skvae.data.columns import NUMERIC, Column, Kind

# With fewer rows a rule may hold by chance.
_MIN_ROWS = 50
# Rows that refute most candidates; those that are left are tried on all.
_SCREENED = 2000
# Of more columns than this, rules are not looked for: the work grows with the square of their number.
_MAX_COLUMNS = 200
# An order is a rule if it would be broken in this share of rows, were the two columns independent.
_MIN_CHANCE = 0.05
# A sum may be off by rounding errors up to this share of the standard deviation.
_LARGEST_ROUNDING = 0.01

# What is left of a column that others explain, up to errors of arithmetic.
_SMALLEST_REST = 1e-9


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

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return asdict(self) | {"left": list(self.left), "right": list(self.right)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Constraint:
        return cls(state["relation"], tuple(state["left"]), tuple(state["right"]), state["tolerance"])


def constraints_of(columns: Sequence[Column], values: np.ndarray) -> list[Constraint]:
    """The rules of a table; see `evaluation.find_constraints`.

    Parameters
    ----------
    values : ndarray [n, C], float64
        In the units of the data, NaN where missing; of columns that hold neither numbers nor dates, whatever.
    """
    numeric = [j for j, column in enumerate(columns) if column.kind in NUMERIC]
    if not 2 <= len(numeric) <= _MAX_COLUMNS or len(values) < _MIN_ROWS:
        return []
    columns, values = [columns[j] for j in numeric], values[:, numeric]
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest, no sum is a rule
        return _sums(columns, values) + _orders(columns, values)


def _sums(columns: Sequence[Column], values: np.ndarray) -> list[Constraint]:
    """Columns that are sums of others, up to rounding."""
    usable = [
        j for j, column in enumerate(columns) if column.kind != Kind.DATE and np.isnan(values[:, j]).mean() < 0.5
    ]
    complete = values[~np.isnan(values[:, usable]).any(axis=1)][:, usable]
    if len(usable) < 3 or len(complete) < max(_MIN_ROWS, 3 * len(usable)):
        return []
    looked_at = complete[:: max(1, len(complete) // _SCREENED)]
    unit = np.maximum(np.abs(looked_at).max(axis=0), np.finfo(np.float64).tiny)
    looked_at = looked_at / unit
    looked_at -= looked_at.mean(axis=0)
    length = np.linalg.norm(looked_at, axis=0)
    found: list[Constraint] = []
    basis: list[int] = []
    # Columns that are no sums, made orthonormal one after the other (Gram & Schmidt): basis = q r.
    q, r = np.empty((len(looked_at), len(usable))), np.zeros((len(usable), len(usable)))
    for j in np.argsort(length * unit, kind="stable"):
        k = len(basis)
        if length[j] == 0 or k == len(looked_at):
            continue
        rest, part = looked_at[:, j], np.zeros(k)
        for _ in range(2):  # twice is enough (Giraud & Langou 2005)
            more = q[:, :k].T @ rest
            part, rest = part + more, rest - q[:, :k] @ more
        off = np.linalg.norm(rest)
        if k >= 2 and off < _LARGEST_ROUNDING * length[j]:
            weights = solve_triangular(r[:k, :k], part) * unit[j] / unit[basis]
            rule = _sum_rule([columns[usable[i]] for i in basis], columns[usable[j]], weights, complete, basis, j)
            if rule is not None:
                found.append(rule)
                continue  # what follows from others is no basis
        if off > _SMALLEST_REST * length[j]:
            q[:, k], r[:k, k], r[k, k] = rest / off, part, off
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
            holds[i, rivals] = ~(part[:, i, None] > part[:, rivals]).any(axis=0)
    present = ~np.isnan(screened)
    for i, j in np.argwhere(holds):
        both = present[:, i] & present[:, j]
        chance = 0.0
        if both.sum() >= _MIN_ROWS:
            above, below = np.sort(screened[both, j]), screened[both, i]
            chance = (np.searchsorted(above, below, side="left") / len(below)).mean()
        same = holds[j, i] and i > j  # equal columns: one of the two orders says it
        holds[i, j] = chance >= _MIN_CHANCE and not same
    follows = (holds.astype(np.int64) @ holds.astype(np.int64)) > 0
    return [
        Constraint("≤", (columns[i].name,), (columns[j].name,), 0.0)
        for i, j in np.argwhere(holds & ~follows)
        if i != j and n_columns > 1
    ]
