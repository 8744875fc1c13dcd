"""Rules that no row of a table violates: sums, and the order of numbers or dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skvae.data.columns import Kind
from skvae.data.constraints import Constraint
from skvae.data.identifiers import identifiers
from skvae.data.schema import Schema
from skvae.data.table import read_table
from skvae.evaluation.tables import Rows


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

    @property
    def n_violating(self) -> int:
        """Number of rows that violate it."""
        return round(self.violated * self.n_rows)


def find_constraints(X: Any) -> list[Constraint]:
    """Rules that hold in every row of a table: one column is the sum of others, or is never above another.

    They are found, not imposed: a model may be fitted to the table without a column that follows from the others,
    or to differences in place of ends, and `quality_report` says how often synthetic rows violate them.

    A sum is found by regressing each column on those before it, in the order of their standard deviations; it may be
    off by rounding errors of the columns' last digits. An order a ≤ b is a rule if both are dates or both numbers,
    and if at least 5 % of rows would violate it were the columns independent; one that follows from two others is
    left out. Rows without an entry in one of the columns are passed over. Fewer than 50 rows tell nothing, and of
    more than 200 columns of numbers and dates rules are not looked for. `schema_.constraints` of a fitted estimator
    has the same.

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
    return list(Schema.infer(table, {found.name: Kind.IDENTIFIER for found in identifiers(table)}).constraints)


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
