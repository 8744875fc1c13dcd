"""Columns that tell rows apart rather than describe them: identifiers and free text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skvae.data.storage import NUMBER, TEXT
from skvae.data.table import Table

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
