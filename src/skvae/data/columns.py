"""The neutral description of a column: what the model may know of the data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a column holds, statistically."""

    CONTINUOUS = "continuous"
    INTEGER = "integer"
    BINARY = "binary"
    CATEGORICAL = "categorical"
    ORDINAL = "ordinal"
    DATE = "date"
    CONSTANT = "constant"
    IDENTIFIER = "identifier"
    DERIVED = "derived"


NUMERIC = frozenset({Kind.CONTINUOUS, Kind.INTEGER, Kind.DATE})
"""Kinds encoded as standardised reals."""

DISCRETE = frozenset({Kind.BINARY, Kind.CATEGORICAL, Kind.ORDINAL})
"""Kinds encoded as codes 0, 1, …, cardinality − 1."""

MODELLED = NUMERIC | DISCRETE
"""Kinds that a model is about; of the others, rows are given back their entries, or new ones."""


@dataclass(frozen=True)
class Column:
    """One column as seen at fit.

    Attributes
    ----------
    name : str
    kind : Kind
    dtype : str
        The data type in the words of the frame's own library.
    storage : str
        The Arrow type of its entries, which says more: of an `object` column, what the objects are.
    label : int or None
        The name as it came where that was a number, as pandas allows.
    levels : tuple or None
        Observed levels of a discrete column, in code order; the single value of a constant one; of a derived one,
        what goes with each level of its source.
    categories : tuple or None
        Levels declared by the dtype (pandas `category`, polars `Enum`, Arrow dictionaries), of which
        `levels` are those that occur.
    offset, scale : float
        Mean and standard deviation: of the values, in the data's units (dates: microseconds since
        1970), for numeric kinds; of the codes for discrete kinds.
    lower, upper : float
        Smallest and largest observed value, in the data's units, of numeric kinds.
    resolution : float
        The step to which all observed values are rounded (1 for integers, 0.01 for cents, a day in
        microseconds for dates without time); 0 where none was found.
    missing : float
        Share of missing entries at fit.
    spikes : tuple of float
        Values that repeat, in the data's units, the most frequent first: each that of at least 20 entries and
        of 0.2 % of those observed, at most 128; of numeric kinds.
    quantiles : tuple of float
        33 quantiles at evenly spaced probabilities from 0 to 1, in the data's units, of numeric kinds.
    source : str or None
        Of a derived column, the name of the one that says the same.
    fresh : str, int or None
        Of an identifier, of which nothing else is known: what no entry at fit begins with, to be followed by a
        running number, or the first whole number above all entries.
    """

    name: str
    kind: Kind
    dtype: str
    storage: str = "double"
    label: int | None = None
    levels: tuple[Any, ...] | None = None
    categories: tuple[Any, ...] | None = None
    offset: float = 0.0
    scale: float = 1.0
    lower: float = 0.0
    upper: float = 0.0
    resolution: float = 0.0
    missing: float = 0.0
    spikes: tuple[float, ...] = ()
    quantiles: tuple[float, ...] = ()
    source: str | None = None
    fresh: str | int | None = None

    @property
    def cardinality(self) -> int:
        """Number of levels; 0 for numeric kinds."""
        return len(self.levels) if self.levels is not None else 0

    @property
    def is_discrete(self) -> bool:
        return self.kind in DISCRETE

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        state = asdict(self)
        return {name: value for name, value in state.items() if value is not None and not _is_empty(value)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Column:
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in state.items() if name in known}
        values["kind"] = Kind(values["kind"])
        for name in ("levels", "categories", "spikes", "quantiles"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)


def _is_empty(value: Any) -> bool:
    return isinstance(value, tuple) and not value


def names_of(columns: Iterable[Column]) -> str:
    """Quoted names for a message, cut after five."""
    names = [f"'{column.name}'" for column in columns]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
