"""Columns that say the same as another in other words: a code and its name, a flag as a number and as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from skvae.data.columns import Column, Kind
from skvae.data.table import Table

# Levels of a column that may be looked for in others, and rows of each at least: fewer may agree by chance.
_MAX_LEVELS, _MIN_ROWS_OF_LEVEL = 128, 10
# Rows that refute most pairs; those that are left are compared in all.
_SCREENED = 2_000
# Of more columns of levels than this nothing is derived: the work grows with the square of their number.
_MAX_SOURCES = 200


def with_derived(table: Table, columns: Sequence[Column], settled: Collection[int]) -> list[Column]:
    """The columns, those that follow from another described as `Kind.DERIVED`.

    A column of levels is the source of a later one of levels, or of any of numbers, if in all rows that have both
    each value of the one goes with one of the other, and every level is met in 10 rows or more.

    Parameters
    ----------
    settled : collection of int
        Positions of columns that stay what they are.
    """
    found = list(columns)
    sizes = {c.cardinality for c in columns if c.is_discrete and c.cardinality <= _MAX_LEVELS}
    if not sizes or sum(column.is_discrete for column in columns) > _MAX_SOURCES:
        return found
    coded = {i: pair for i, column in enumerate(columns) if (pair := _codes(table, i, column, sizes)) is not None}
    for i, (codes, values) in coded.items():
        if not columns[i].is_discrete or found[i].kind == Kind.DERIVED:
            continue
        for j, (others, its_values) in coded.items():
            before = columns[j].is_discrete and j < i
            if j == i or before or j in settled or found[j].kind == Kind.DERIVED or len(values) != len(its_values):
                continue
            if _partners(codes[:_SCREENED], others[:_SCREENED], len(values), 0) is None:
                continue
            partners = _partners(codes, others, len(values), _MIN_ROWS_OF_LEVEL)
            if partners is not None:
                levels = tuple(its_values[k] for k in partners)
                found[j] = replace(columns[j], kind=Kind.DERIVED, levels=levels, source=columns[i].name)
    return found


def _codes(table: Table, i: int, column: Column, sizes: set[int]) -> tuple[np.ndarray, tuple] | None:
    """The entries of a column as positions [n] in its values, −1 where missing; None if it has another number of
    values than `sizes`."""
    if column.is_discrete:
        if column.cardinality not in sizes:
            return None
        assert column.levels is not None
        codes, levels = table.codes(i, column.levels), column.levels
        return np.where(np.isnan(codes), -1, codes).astype(np.int64), levels
    if column.kind not in (Kind.INTEGER, Kind.CONTINUOUS):
        return None
    numbers = table.numbers[:, i]
    if len(np.unique(numbers[:_SCREENED])) > max(sizes) + 1:  # and a missing one
        return None
    seen, codes = np.unique(numbers, return_inverse=True)  # missing ones come last
    n_seen = int((~np.isnan(seen)).sum())
    if n_seen not in sizes:
        return None
    values = tuple(int(x) if column.kind == Kind.INTEGER else float(x) for x in seen[:n_seen])
    return np.where(codes < n_seen, codes, -1), values


def _partners(codes: np.ndarray, others: np.ndarray, n_levels: int, least: int) -> np.ndarray | None:
    """Of each level of the one column that of the other that it goes with, [K]; None if not each with a single one.

    Parameters
    ----------
    codes, others : ndarray [n]
        Positions among `n_levels` each, −1 where missing.
    least : int
        Rows that each pair is to be met in; of 0, levels may be absent.
    """
    both = (codes >= 0) & (others >= 0)
    counts = np.bincount(codes[both] * n_levels + others[both], minlength=n_levels**2).reshape(n_levels, n_levels)
    met = counts > 0
    if (met.sum(0) > 1).any() or (met.sum(1) > 1).any():
        return None
    if least and (counts.max(1) < least).any():
        return None
    return counts.argmax(1)
