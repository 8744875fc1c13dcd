"""Conditions on columns, as a caller names them: read against the schema, and met in the units of the data."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from skvae.data.columns import Column, Kind
from skvae.data.image_schema import ImageSchema
from skvae.data.schema import Schema, on_grid
from skvae.data.storage import DATE, TEXT, parse_type, role_of, to_numbers
from skvae.data.table import Table, read_table, show
from skvae.exceptions import ColumnError, SamplingWarning
from skvae.inference import conditional
from skvae.inference.conditional_sampling import (
    Between,
    Condition,
    Impossible,
    OneOf,
    SamplingReport,
    combined,
    sample_given,
)

if TYPE_CHECKING:
    from skvae.estimators.vae import VAE
    from skvae.training.randomness import Noise

_ROWS_AT_ONCE = 10_000
# Latents from which each of given partial rows draws.
_LATENTS_PER_ROW = 200
# Samples that rest on fewer latents, or on fewer for each of them, are warned about.
_MIN_EFFECTIVE, _MIN_EFFECTIVE_SHARE = 20, 0.5
# What float32 makes of standardised numbers, with some room.
_EPS = 1e-6


@dataclass(frozen=True)
class _Asked:
    """The condition on a numeric column in the units of the data: one of some numbers, or a range."""

    values: np.ndarray | None = None
    low: float = -math.inf
    high: float = math.inf


class Conditions:
    """What is asked of some columns.

    Parameters
    ----------
    schema : Schema
    wanted : mapping of column name (of arrays: or position) to value, (low, high), set of values, or None

    Attributes
    ----------
    encoded : dict of int to Condition
        By position among the modelled columns.
    absent : tuple of int
        Of these, those that are to be missing.

    Raises
    ------
    ColumnError
        A column that is not there, or a condition that no row of the data meets.
    """

    def __init__(self, schema: Schema, wanted: Mapping[Any, Any]) -> None:
        self._schema = schema
        self._wanted = wanted
        self.encoded: dict[int, Condition] = {}
        self._asked: dict[int, _Asked] = {}
        self._missing: list[int] = []
        absent: list[int] = []
        modelled = [column.name for column in schema.modelled]
        for key, what in wanted.items():
            i = _position(schema, key)
            column = schema.columns[i]
            if column.kind == Kind.IDENTIFIER:
                raise _error(
                    column,
                    f"is to be {what!r}",
                    "it is an identifier, which is not modelled: new rows get new ones",
                    "leave the condition out",
                )
            if what is None:
                if column.missing == 0:
                    raise _error(column, "is to be missing", "no entry was missing at fit", "leave the condition out")
                self._missing.append(i)
                if column.name in modelled:
                    absent.append(modelled.index(column.name))
                continue
            read = _Reader(schema, i)
            condition, asked = read.discrete(what) if column.levels is not None else read.numeric(what)
            if column.kind == Kind.CONSTANT:
                continue
            j = modelled.index(column.source or column.name)
            if j in self.encoded:  # of a column and one derived from it
                condition = _both(schema, column, wanted, condition, self.encoded[j])
            self.encoded[j] = condition
            if asked is not None:
                self._asked[i] = asked
        self.absent = tuple(absent)

    def __str__(self) -> str:
        return ", ".join(f"{name}={what!r}" for name, what in self._wanted.items())

    def given(self, values: np.ndarray) -> dict[int, np.ndarray]:
        """Entries of numeric columns that meet the conditions exactly, in the units of the data, NaN where missing.

        Parameters
        ----------
        values : ndarray [n, C]
            Encoded rows, which meet them up to the precision of float32.
        """
        modelled = {column.name: j for j, column in enumerate(self._schema.modelled)}
        entries = {i: np.full(len(values), np.nan) for i in self._missing}
        for i, asked in self._asked.items():
            column = self._schema.columns[i]
            numbers = values[:, modelled[column.name]].astype(np.float64) * column.scale + column.offset
            if asked.values is not None:
                nearest = np.abs(numbers[:, None] - asked.values).argmin(1)
                entries[i] = asked.values[nearest]
            else:
                entries[i] = np.clip(on_grid(numbers, column.resolution), asked.low, asked.high)
        return entries


class _Reader:
    """Reads a condition on the column at position `i`."""

    def __init__(self, schema: Schema, i: int) -> None:
        self.column = schema.columns[i]
        self.role = role_of(parse_type(self.column.storage))
        self.contents = schema._contents(i)

    def discrete(self, what: Any) -> tuple[Condition, None]:
        levels = self.column.levels
        assert levels is not None
        if not isinstance(what, tuple):
            codes = [self._code(value) for value in self._members(what)]
            return OneOf(tuple(float(code) for code in sorted(set(codes)))), None
        low, high = self._ends(what)
        if self.column.kind == Kind.ORDINAL:
            first = 0 if low is None else self._code(low)
            last = len(levels) - 1 if high is None else self._code(high)
            codes = list(range(first, last + 1))
        elif self.role == TEXT:
            raise self._error(
                f"is to be in {what!r}", f"its levels have no order ({self.contents})", "give a set of levels"
            )
        else:
            bounds = self._bounds(low, high)
            codes = [k for k, level in enumerate(levels) if bounds[0] <= float(level) <= bounds[1]]
        if not codes:
            raise self._error(f"is to be in {what!r}", f"no level lies there ({self.contents})", "widen the range")
        return OneOf(tuple(float(code) for code in codes)), None

    def numeric(self, what: Any) -> tuple[Condition, _Asked]:
        column = self.column
        if not isinstance(what, tuple):
            values = np.unique([self._number(value) for value in self._members(what)])
            for value in values:
                if not column.lower <= value <= column.upper:
                    raise self._error(f"is to be {self._shown(value)}", self._seen(), "stay within these bounds")
                if column.kind == Kind.INTEGER and value != round(value):
                    raise self._error(
                        f"is to be {self._shown(value)}", "it holds whole numbers", "give one, or a range"
                    )
            return OneOf(tuple(self._encoded(value) for value in values)), _Asked(values)
        low, high = self._bounds(*self._ends(what))
        if low > high or high < column.lower or low > column.upper:
            raise self._error(f"is to be in {what!r}", self._seen(), "give a range that holds some of it")
        low, high = max(low, column.lower), min(high, column.upper)
        step = column.resolution
        if step:  # the outermost points of the grid within
            low, high = (float(on_grid(np.array(end), step)) for end in (low, high))
            first, last = self._bounds(*what)
            low += step if low < first - _EPS * step else 0.0
            high -= step if high > last + _EPS * step else 0.0
            low, high = (float(on_grid(np.array(end), step)) for end in (low, high))
            if low > high:
                raise self._error(f"is to be in {what!r}", f"it moves in steps of {step:g}", "widen the range")
        # Entries are rounded to the grid and cut to the bounds; all that then lies in the range counts.
        margin = 0.5 * step / column.scale
        below, upto = self._encoded(low), self._encoded(high)
        below -= margin or 4 * _EPS * max(1.0, abs(below))
        return (
            Between(-math.inf if low <= column.lower else below, math.inf if high >= column.upper else upto + margin),
            _Asked(low=low, high=high),
        )

    def _members(self, what: Any) -> list[Any]:
        if not isinstance(what, (set, frozenset)):
            return [what]
        if not what:
            raise self._error("is to be in an empty set", "nothing is", "name a value")
        return list(what)

    def _ends(self, what: tuple[Any, ...]) -> tuple[Any, Any]:
        if len(what) != 2:
            raise self._error(
                f"is to be in {what!r}", "a range is (low, high)", "give two ends, None for an open one, or a set"
            )
        return what[0], what[1]

    def _bounds(self, low: Any, high: Any) -> tuple[float, float]:
        return (
            -math.inf if low is None else self._number(low, open_end=True),
            math.inf if high is None else self._number(high, open_end=True),
        )

    def _code(self, value: Any) -> int:
        levels = self.column.levels
        assert levels is not None
        if self.role == TEXT:
            if not isinstance(value, str):
                raise self._error(f"is to be {value!r}", f"it holds text ({self.contents})", "name a level")
            found = [k for k, level in enumerate(levels) if level == value]
        else:
            number = self._number(value)
            found = [k for k, level in enumerate(levels) if float(level) == number]
        if not found:
            shown = show(value) if isinstance(value, str) else repr(value)
            raise self._error(f"is to be {shown}", f"no entry was at fit ({self.contents})", "name a level of it")
        return found[0]

    def _number(self, value: Any, open_end: bool = False) -> float:
        if self.role == DATE:
            return self._date(value)
        if isinstance(value, (Real, np.bool_)) and (open_end or math.isfinite(value)) and not math.isnan(value):
            return float(value)
        remedy = "give a number" + ("; None is for a missing entry" if value is None or value != value else "")
        raise self._error(f"is to be {value!r}", "it holds numbers", remedy)

    def _date(self, value: Any) -> float:
        try:
            if isinstance(value, (Real, np.number)):
                raise ValueError
            moment = np.array([value], dtype="datetime64[us]") if isinstance(value, (str, np.datetime64)) else [value]
            number = float(to_numbers(pa.array(moment))[0])
        except (ValueError, TypeError, pa.ArrowException):
            raise self._error(f"is to be {value!r}", "it holds dates", "give a date, or its ISO text") from None
        if math.isnan(number):
            raise self._error(f"is to be {value!r}", "it holds dates", "give a date, or its ISO text")
        return number

    def _encoded(self, number: float) -> float:
        return (number - self.column.offset) / self.column.scale

    def _seen(self) -> str:
        return f"it was {self.contents} at fit"

    def _shown(self, number: float) -> str:
        return str(np.datetime64(int(number), "us")) if self.role == DATE else f"{number:g}"

    def _error(self, what: str, why: str, remedy: str) -> ColumnError:
        return _error(self.column, what, why, remedy)


def _both(schema: Schema, column: Column, wanted: Mapping[Any, Any], one: Condition, other: Condition) -> Condition:
    """Both of two conditions on what a column and one that says the same tell."""
    assert isinstance(one, OneOf)
    assert isinstance(other, OneOf)
    values = tuple(value for value in one.values if value in other.values)
    if not values:
        source = column.source or column.name
        alike = [c.name for c in schema.columns if source in (c.name, c.source) and c.name in wanted]
        raise ColumnError(
            f"conditions {dict(wanted)!r}: no row of the data meets all of them, as columns {alike} say "
            "the same of it; leave one of them out"
        )
    return OneOf(values)


def _error(column: Column, what: str, why: str, remedy: str) -> ColumnError:
    return ColumnError(f"conditions: column '{column.name}' {what}, but {why}; {remedy}")


def _position(schema: Schema, key: Any) -> int:
    for i, column in enumerate(schema.columns):
        if key == column.name or (column.label is not None and key == column.label):
            return i
    names = [column.name for column in schema.columns]
    if schema.container == "numpy" and isinstance(key, Integral) and -len(names) <= int(key) < len(names):
        return int(key) % len(names)
    raise ColumnError(f"conditions name column {key!r}, which the model does not have; it has {names[:20]}")


def check_conditions(vae: VAE, wanted: Any) -> None:
    """Refuse what is neither a mapping nor partial rows, and anything that is asked of images."""
    if wanted is None:
        return
    if isinstance(vae.schema_, ImageSchema):
        raise ValueError(
            "conditions are for the columns of tables, and this is a model of images; complete images of which some "
            "pixels are missing (NaN) with `impute`"
        )
    is_table = isinstance(wanted, (Mapping, str, os.PathLike)) or hasattr(wanted, "columns") or np.ndim(wanted) == 2
    if not is_table:
        raise ValueError(
            f"conditions={wanted!r}: expected a dict, such as {{{vae.schema_.columns[0].name!r}: …}}, or a data "
            "frame of partial rows"
        )


def conditional_sample(
    vae: VAE, n_samples: int, wanted: Mapping[Any, Any], decode: str, noise: Noise, n_before: int
) -> tuple[Any, SamplingReport]:
    """Rows that meet the conditions, in pieces, and the report on them; see `VAE.sample`.

    `n_before` rows of the same table were drawn before.
    """
    conditions = Conditions(vae.schema_, wanted)
    pieces, reports = [], []
    for number, first in enumerate(range(0, n_samples, _ROWS_AT_ONCE)):
        size = min(_ROWS_AT_ONCE, n_samples - first)
        try:
            with vae._answering(size * _LATENTS_PER_ROW):
                values, report = sample_given(
                    vae.model_,
                    conditions.encoded,
                    size,
                    noise.stream("given", number),
                    draw=decode == "draw",
                    absent=conditions.absent,
                )
        except Impossible:
            raise ValueError(
                f"conditions {conditions}: no row of this model meets all of them; each is met by some, but they "
                "exclude each other: loosen one"
            ) from None
        pieces.append(values)
        reports.append(report)
    report = combined(reports)
    if report.effective_size < max(_MIN_EFFECTIVE, _MIN_EFFECTIVE_SHARE * n_samples):
        warnings.warn(
            f"conditions {conditions} are rare under this model: the {n_samples} rows rest on as many latents as "
            f"{report.effective_size:.0f} independent draws would; take them with care, or loosen a condition",
            SamplingWarning,
            stacklevel=4,
        )
    encoded = torch.cat(pieces).double().cpu().numpy()
    return vae.schema_.decode(encoded, given=conditions.given(encoded), identifiers=n_before), report


def completed_sample(vae: VAE, n_samples: int, partial: Any, noise: Noise) -> Any:
    """Partial rows with their holes filled by draws, all of them `n_samples` times; see `VAE.sample`."""
    table = _widened(vae.schema_, read_table(partial))
    rows = vae.schema_.encode(table, vae.handle_unknown).to(vae._device)
    eps = noise.normal("latents", _LATENTS_PER_ROW, vae.model_.latent_dim)
    with vae._answering(len(rows) * (_LATENTS_PER_ROW + n_samples)):
        draws = conditional.conditional_draws(
            vae.model_, vae.prior_, rows, eps, n_samples, noise.stream("completions")
        )
    order = np.tile(np.arange(table.n_rows), n_samples)
    return vae.schema_.decode(draws.flatten(0, 1).cpu().numpy(), keep=_taken(table, order))


def _widened(schema: Schema, table: Table) -> Table:
    """The table with the columns of the schema in their order, all entries of those it lacks missing."""
    labels = [column.name if column.label is None else column.label for column in schema.columns]
    names = [str(label) for label in labels]
    for name in table.names:
        if name not in names:
            raise ColumnError(f"conditions name column '{name}', which the model does not have; it has {names[:20]}")
    source = {name: i for i, name in enumerate(table.names)}
    at = [source.get(name) for name in names]
    numbers = np.full((table.n_rows, len(names)), np.nan)
    for i, j in enumerate(at):
        if j is not None:
            numbers[:, i] = table.numbers[:, j]
    kept = [(i, j) for i, j in enumerate(at) if j is not None]
    return Table(
        table.container,
        labels,
        [column.dtype if j is None else table.dtypes[j] for column, j in zip(schema.columns, at, strict=True)],
        [pa.null() if j is None else table.types[j] for j in at],
        numbers,
        {i: table.arrays[j] for i, j in kept if j in table.arrays},
        {i: table.categories[j] for i, j in kept if j in table.categories},
        {i for i, j in kept if j in table.ordered},
        table.index,
    )


def _taken(table: Table, order: np.ndarray) -> Table:
    """The rows of a table at these positions, without an index of their own."""
    return Table(
        table.container,
        table.labels,
        table.dtypes,
        table.types,
        table.numbers[order],
        {i: array.take(pa.array(order)) for i, array in table.arrays.items()},
        table.categories,
        table.ordered,
    )
