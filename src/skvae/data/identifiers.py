"""Columns that tell rows apart rather than describe them: identifiers and free text.

They are recognised here, and new entries of them are made, which are none of those at fit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skvae.data.columns import Column
from skvae.data.storage import NUMBER, TEXT, parse_type, value_type
from skvae.data.table import Table
from skvae.exceptions import ColumnError

# Among fewer values it is no wonder that all are distinct.
_MIN_VALUES = 50
# Whole numbers that are all distinct are an identifier if they are nearly consecutive, or carry this word.
_MAX_GAP = 2.0
_NAMED = re.compile(r"(?i:(^|[_\W])(id|uuid|guid|key|index|row|rownum|nr|no)($|[_\W]))|[a-z](Id|ID)$")
# Text is free, not a set of levels, if so many of its entries are distinct and so many words long.
_FREE_SHARE, _FREE_WORDS = 0.5, 3.0


@dataclass(frozen=True)
class Identifier:
    """A column found to be an identifier or free text.

    Attributes
    ----------
    name : str
    what : {"identifier", "free text"}
    n_values : int
        Distinct values.
    n_present : int
        Entries that are not missing.
    example : str
        Its first entry, as a message shows it.
    """

    name: str
    what: str
    n_values: int
    n_present: int
    example: str

    def __str__(self) -> str:
        some = "all" if self.n_values == self.n_present else f"{self.n_values}"
        what = "an identifier" if self.what == "identifier" else self.what
        return (
            f"column '{self.name}' looks like {what}: {some} of its {self.n_present} entries are distinct, such as "
            f"{self.example}"
        )


def identifiers(table: Table, column_kinds: Mapping[Any, str] | None = None) -> list[Identifier]:
    """Columns that identify rows, or hold free text.

    An identifier is text that is distinct in every row, or whole numbers that are and that also run nearly without
    gaps or have a name such as `id`: amounts in cents may be distinct in every row, too. Free text has mostly
    distinct entries of three words or more. Columns with fewer than 50 entries are not judged, nor are those whose
    kind was given.

    Parameters
    ----------
    table : Table
    column_kinds : mapping of column name (or position) to kind, optional
        Kinds given by the user.
    """
    given = {str(key) for key in (column_kinds or {})}
    found = []
    for i, name in enumerate(table.names):
        if name in given or str(i) in given or i in table.categories:
            continue
        if table.roles[i] == TEXT:
            finding = _text(table, i)
        elif table.roles[i] == NUMBER and pa.types.is_integer(table.types[i]) | pa.types.is_floating(table.types[i]):
            finding = _number(table, i)
        else:
            finding = None
        if finding is not None:
            found.append(finding)
    return found


def _text(table: Table, i: int) -> Identifier | None:
    present = table.arrays[i].drop_null()
    if len(present) < _MIN_VALUES:
        return None
    n_values = pc.count_distinct(present).as_py()
    if n_values < _FREE_SHARE * len(present):
        return None
    words = pc.mean(pc.add(pc.count_substring(pc.utf8_trim_whitespace(present), " "), 1)).as_py()
    if words >= _FREE_WORDS:
        what = "free text"
    elif n_values == len(present):
        what = "identifier"
    else:
        return None
    return Identifier(table.names[i], what, n_values, len(present), _first(table, i))


def _number(table: Table, i: int) -> Identifier | None:
    numbers = table.numbers[:, i]
    head = numbers[:_MIN_VALUES]
    head = head[~np.isnan(head)]
    if len(np.unique(head)) < len(head) or (head != np.rint(head)).any():
        return None  # refutes most columns at once
    present = numbers[~np.isnan(numbers)]
    if len(present) < _MIN_VALUES or (present != np.rint(present)).any():
        return None
    if len(np.unique(present)) < len(present):
        return None
    consecutive = present.max() - present.min() + 1 <= _MAX_GAP * len(present)
    if not consecutive and not _NAMED.search(table.names[i]):
        return None
    return Identifier(table.names[i], "identifier", len(present), len(present), _first(table, i))


def _first(table: Table, i: int) -> str:
    return table.entry(i, int(np.argmin(table.missing(i))))


def fresh(table: Table, i: int) -> str | int:
    """What new identifiers of a column begin with; see `Column.fresh`.

    Raises
    ------
    ColumnError
        A column that holds neither text nor whole numbers, or whose type allows no other entries.
    """
    name, entries = table.names[i], table.array(i)
    if i in table.ordered:
        raise ColumnError(
            f"column '{name}' has a type ({table.dtypes[i][:40]}) of ordered or fixed levels and cannot be an "
            "'identifier', of which there are ever new ones; convert it to text"
        )
    if table.roles[i] == TEXT:
        for prefix in _prefixes(name):
            if not pc.any(pc.starts_with(entries, prefix)).as_py():
                return prefix
    whole = np.ones(table.n_rows, dtype=bool)
    if table.roles[i] != NUMBER:
        whole = table.missing(i)
    elif not pa.types.is_integer(entries.type):
        numbers = table.numbers[:, i]
        whole = np.isnan(numbers) | ((numbers == np.rint(numbers)) & (np.abs(numbers) < 2.0**53))
    if not whole.all():
        row = int(np.argmin(whole))
        raise ColumnError(
            f"column '{name}' holds {table.entry(i, row)} (row {row}) and cannot be an 'identifier', which is text "
            "or a whole number (below 2^53 where it is no integer type); convert it or correct column_kinds"
        )
    return int(pc.max(entries).as_py()) + 1


def _prefixes(name: str) -> Iterator[str]:
    yield f"{name}-"
    yield f"new-{name}-"
    for k in itertools.count(2):
        yield f"new{k}-{name}-"


def new_identifiers(column: Column, first: int, n: int) -> Any:
    """An Arrow array [n] of new identifiers, after the first so many; of the type of the column's entries.

    Raises
    ------
    ColumnError
        If the type cannot tell so many apart.
    """
    kind = value_type(parse_type(column.storage))
    assert column.fresh is not None
    if isinstance(column.fresh, str):
        numbers = pc.cast(pa.array(np.arange(first + 1, first + n + 1)), pa.large_string())
        start, nothing = (pa.scalar(text, numbers.type) for text in (column.fresh, ""))
        return pc.binary_join_element_wise(start, numbers, nothing).cast(kind)
    least = column.fresh + first
    if least + n - 1 > _largest(kind):
        raise ColumnError(
            f"column '{column.name}' ({column.dtype}) has no room for {n} new identifiers from {least} on; refit "
            "with a wider type, such as int64, or with text"
        )
    numbers = np.arange(least, least + n, dtype=np.int64 if least + n <= 2**63 else np.uint64)
    return pa.array(numbers).cast(kind, safe=False)


def _largest(kind: Any) -> int:
    """The whole number up to which a type tells all apart."""
    if pa.types.is_integer(kind):
        return int(np.iinfo(kind.to_pandas_dtype()).max)
    if pa.types.is_decimal(kind):
        return int(10 ** (kind.precision - kind.scale) - 1)
    return 2 ** (np.finfo(kind.to_pandas_dtype()).nmant + 1)
