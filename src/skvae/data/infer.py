"""Inferring the columns of a table: kinds, levels, scales."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skvae.data.columns import NUMERIC, Column, Kind
from skvae.data.derived import with_derived
from skvae.data.identifiers import fresh
from skvae.data.storage import DATE, PLURAL, TEXT, TRUTH
from skvae.data.table import Table
from skvae.exceptions import ColumnError

# A numeric column with two values is a yes/no column only if both are seen this often; else a rare third
# value in later rows would be refused although "few so far" was all the data said.
_MIN_SHARE = 0.01
_MIN_ROWS = 10

_DATE_STEPS = (86_400e6, 3_600e6, 60e6, 1e6, 1e3, 1.0)  # day, hour, minute, second, ms, µs
_MAX_DECIMALS = 6
# Entries among which repeated values and quantiles are looked for, and rows at least.
_MAX_ENTRIES, _MIN_LOOKED_AT = 2**21, 2048

_N_QUANTILES = 33
# A value repeats if it is that of so many entries and of that share of them; only the commonest are kept.
_SPIKE_ROWS, _SPIKE_SHARE, _MAX_SPIKES = 20, 0.002, 128


def infer_columns(
    table: Table,
    column_kinds: Mapping[Any, str],
    allowed: frozenset[Kind],
    as_they_are: Collection[Any] | None = None,
) -> list[Column]:
    """Describe every column of a table; the arguments and errors are those of `Schema.infer`."""
    overrides = _overrides(table, column_kinds)
    facts = _numeric_facts(table)
    columns = [_infer_column(table, i, facts, overrides.get(i), allowed) for i in range(len(table.names))]
    if as_they_are is None:
        return columns
    named = {i for i, name in enumerate(table.names) if name in as_they_are}
    return with_derived(table, columns, named | set(overrides))


def _overrides(table: Table, column_kinds: Mapping[Any, str]) -> dict[int, Kind]:
    """The kinds asked for, by position."""
    choices = [str(kind) for kind in Kind if kind not in (Kind.CONSTANT, Kind.DERIVED)]
    overrides = {}
    for key, kind in column_kinds.items():
        if key in table.labels:
            position = table.labels.index(key)
        elif isinstance(key, Integral):
            position = int(key)
            if not -len(table.labels) <= position < len(table.labels):
                raise ColumnError(f"column_kinds names column {key}, but X has {len(table.labels)} columns")
            position %= len(table.labels)
        else:
            raise ColumnError(f"column_kinds names column '{key}', which X lacks; it has {table.names[:10]}")
        if kind not in choices:
            raise ColumnError(
                f"column_kinds gives column '{table.names[position]}' the kind {kind!r}; expected one of {choices}"
            )
        overrides[position] = Kind(kind)
    return overrides


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
    """Statistics of columns laid out as rows, [C, n], NaN where missing; overwrites them."""
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


def _infer_column(
    table: Table, i: int, facts: _NumericFacts, override: Kind | None, allowed: frozenset[Kind]
) -> Column:
    name, role, label = table.names[i], table.roles[i], table.labels[i]
    n_present = table.n_rows - table.arrays[i].null_count if role == TEXT else int(facts.count[i])
    if n_present == 0:
        raise ColumnError(f"column '{name}' has no observed value (all {table.n_rows} are missing); drop it")
    if override not in (None, Kind.IDENTIFIER):
        _check_override(table, i, facts, override)
    column = Column(
        name=name,
        kind=Kind.CONSTANT,
        dtype=table.dtypes[i],
        storage=str(table.types[i]),
        label=int(label) if isinstance(label, Integral) else None,
        categories=table.categories.get(i),
        missing=1.0 - n_present / table.n_rows,
    )
    if override == Kind.IDENTIFIER:
        return replace(column, kind=override, categories=None, fresh=fresh(table, i))
    by_level = _is_by_level(table, i)
    if not by_level:
        if facts.constant[i]:
            return replace(column, levels=(_plain(facts.lower[i], role),))
        kind = override or _numeric_kind(facts, i, role, allowed)
        if kind in NUMERIC:
            numbers = table.numbers[:, i]
            looked_at = numbers[:: _stride(table)]
            if np.isnan(looked_at).all():
                looked_at = numbers
            ordered = np.sort(looked_at)  # missing ones come last
            ordered = ordered[: len(ordered) - np.isnan(ordered).sum()]
            return replace(
                column,
                kind=kind,
                offset=float(facts.mean[i]),
                scale=float(facts.deviation[i]),
                lower=float(facts.lower[i]),
                upper=float(facts.upper[i]),
                resolution=_resolution(numbers, kind, column.storage),
                spikes=_spikes(ordered),
                quantiles=_quantiles(ordered, facts.lower[i], facts.upper[i]),
            )
    levels = _levels(table, i, declared_order=i in table.ordered or override == Kind.ORDINAL)
    if len(levels) == 1:
        return replace(column, levels=levels)
    if override == Kind.BINARY and len(levels) > 2:
        raise ColumnError(f"column '{name}' has {len(levels)} levels and cannot be 'binary'; correct column_kinds")
    if by_level:
        usual = Kind.BINARY if len(levels) == 2 else Kind.CATEGORICAL
        kind = override or (Kind.ORDINAL if i in table.ordered else usual)
    codes = table.codes(i, levels)
    counts = np.bincount(codes[~np.isnan(codes)].astype(np.int64))
    positions = np.arange(len(levels))
    mean = np.average(positions, weights=counts)
    variance = np.average((positions - mean) ** 2, weights=counts)
    return replace(column, kind=kind, levels=levels, offset=float(mean), scale=float(np.sqrt(variance)))


def _stride(table: Table) -> int:
    """Every how many rows are looked at for repeated values and quantiles; more than 1 only in very large tables."""
    n_looked_at = max(_MIN_LOOKED_AT, _MAX_ENTRIES // len(table.names))
    return max(1, table.n_rows // n_looked_at)


def _is_by_level(table: Table, i: int) -> bool:
    """Whether the dtype alone makes the column discrete: text, or any category dtype."""
    return table.roles[i] == TEXT or pa.types.is_dictionary(table.types[i])


def _check_override(table: Table, i: int, facts: _NumericFacts, override: Kind) -> None:
    """Refuse a kind that the entries cannot have."""
    name, role, numbers = table.names[i], table.roles[i], table.numbers[:, i]
    odd = None
    if _is_by_level(table, i):
        if override in NUMERIC:
            odd = ~table.missing(i)
            what = "text" if role == TEXT else f"{PLURAL[role]} as categories"
    elif (override == Kind.DATE) != (role == DATE):
        odd, what = ~table.missing(i), PLURAL[role]
    elif override == Kind.INTEGER and not facts.integral[i]:
        odd, what = (numbers != np.rint(numbers)) & ~table.missing(i), "numbers that are not whole"
    elif override == Kind.BINARY and not facts.two_valued[i] and not facts.constant[i]:
        odd = ~table.missing(i) & (numbers != facts.lower[i]) & (numbers != facts.upper[i])
        what = "more than two values"
    if odd is not None:
        row = int(np.argmax(odd))
        raise ColumnError(
            f"column '{name}' holds {what} ({table.entry(i, row)}, row {row}) and cannot be '{override}'; convert "
            "it or correct column_kinds"
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


def _levels(table: Table, i: int, declared_order: bool) -> tuple[Any, ...]:
    """The levels that occur: as the dtype orders them if asked, else sorted."""
    if table.roles[i] == TEXT:
        seen = pc.unique(table.arrays[i].drop_null()).to_pylist()
    else:
        numbers = table.numbers[:, i]
        seen = [_plain(number, table.roles[i]) for number in np.unique(numbers[~np.isnan(numbers)])]
    if declared_order and i in table.categories:
        occurring = set(seen)
        return tuple(level for level in table.categories[i] if level in occurring)
    return tuple(sorted(seen))


def _plain(number: float, role: str) -> bool | int | float:
    """A level as a plain Python value of the column's own type."""
    if role == TRUTH:
        return bool(number)
    return int(number) if number == int(number) and abs(number) < 2**53 else float(number)


def _spikes(ordered: np.ndarray) -> tuple[float, ...]:
    """Values that repeat among ordered entries, the most frequent first."""
    least = math.ceil(max(_SPIKE_ROWS, _SPIKE_SHARE * len(ordered)))
    if not (ordered[least - 1 :] == ordered[: max(0, len(ordered) - least + 1)]).any():
        return ()
    # Of each run of equal entries.
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    counts = np.diff(last, prepend=-1)
    often = np.flatnonzero(counts >= least)
    often = often[np.argsort(-counts[often], kind="stable")][:_MAX_SPIKES]
    return tuple((ordered[last[often]] + 0.0).tolist())  # no negative zero


def _quantiles(ordered: np.ndarray, lower: float, upper: float) -> tuple[float, ...]:
    """Quantiles of ordered entries at evenly spaced probabilities, interpolated linearly, between the bounds."""
    position = np.linspace(0.0, len(ordered) - 1, _N_QUANTILES)
    below = np.floor(position).astype(np.int64)
    low, high = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)]
    share = position - below
    # A weighted mean, as the difference of two large numbers may overflow; of equal ones it may miss them.
    between = np.where(low == high, low, low * (1 - share) + high * share)
    between[0], between[-1] = lower, upper
    return tuple(np.maximum.accumulate(between).tolist())


def _resolution(numbers: np.ndarray, kind: Kind, storage: str) -> float:
    """The step to which every entry is rounded; 0 if none is found."""
    if kind == Kind.INTEGER:
        return 1.0
    if kind == Kind.DATE:
        present = numbers[~np.isnan(numbers)]
        return next((step for step in _DATE_STEPS if (present % step == 0).all()), 0.0)
    eps = {"halffloat": 2.0**-10, "float": 2.0**-23}.get(storage, 2.0**-52)  # the rounding error of the type
    # A few rows refute most columns.
    candidates = _fitting_decimals(numbers[:50], np.arange(_MAX_DECIMALS + 1), eps)
    return next((10.0**-d for d in candidates if len(_fitting_decimals(numbers, d[None], eps))), 0.0)


def _fitting_decimals(numbers: np.ndarray, decimals: np.ndarray, eps: float) -> np.ndarray:
    """Those of `decimals` that suffice for every entry, up to rounding errors of relative size `eps`."""
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = np.abs(numbers[~np.isnan(numbers)]) * 10.0 ** decimals[:, None]  # [len(decimals), n]
        error = np.abs(shifted - np.rint(shifted))
        fits = (error <= np.minimum(0.02, 4 * eps * shifted)) & (shifted <= 2.0**50)
    return decimals[fits.all(axis=1)]
