"""What a column physically holds: its Arrow type, the same as text, and the role that follows from it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

NUMBER, TRUTH, DATE, TEXT, EMPTY = "number", "truth value", "date", "text", "nothing"

PLURAL = {NUMBER: "numbers", TRUTH: "truth values", DATE: "dates", TEXT: "text"}


def role_of(kind: Any) -> str | None:
    """The role of an Arrow type; None for types that are not understood."""
    types = pa.types
    if types.is_dictionary(kind):
        role = role_of(kind.value_type)
        # Levels are text, numbers or truth values, which JSON has too.
        return None if role == DATE or types.is_decimal(kind.value_type) else role
    if types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind):
        return NUMBER
    if types.is_boolean(kind):
        return TRUTH
    if types.is_timestamp(kind) or types.is_date(kind):
        return DATE
    if str(kind) in ("string", "large_string", "string_view"):
        return TEXT
    return EMPTY if types.is_null(kind) else None


def parse_type(text: str) -> Any:
    """The Arrow type that prints as `text`."""
    if found := re.fullmatch(r"dictionary<values=(.+), indices=(\w+), ordered=([01])>", text):
        values, indices, ordered = found.groups()
        return pa.dictionary(parse_type(indices), parse_type(values), ordered == "1")
    if found := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", text):
        return pa.timestamp(*found.groups())
    if found := re.fullmatch(r"(decimal\d+)\((\d+), (-?\d+)\)", text):
        return getattr(pa, found[1])(int(found[2]), int(found[3]))
    return pa.type_for_alias(text)


def value_type(kind: Any) -> Any:
    """The type of the entries, whether they are written out or looked up in a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def to_numbers(array: Any) -> np.ndarray:
    """Entries of an Arrow array as float64 [n]: truth values as 0 and 1, dates as microseconds since 1970."""
    role = role_of(array.type)
    if role == TRUTH:
        array = array.cast(pa.uint8())
    elif role == DATE:
        zone = getattr(array.type, "tz", None)
        array = array.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    if not pa.types.is_floating(array.type):
        array = array.cast(pa.float64(), safe=False)
    return array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def from_numbers(numbers: np.ndarray, kind: Any) -> Any:
    """The inverse of `to_numbers`, for an Arrow type without dictionary; whole numbers are rounded and cut to
    what the type can hold."""
    if role_of(kind) == DATE:
        zone = getattr(kind, "tz", None)
        array = pa.array(np.rint(numbers).astype(np.int64))
        return array.cast(pa.timestamp("us", zone)).cast(kind, safe=False)
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        # The largest 64-bit number is no float64; the next power of two would overflow.
        numbers = np.clip(np.rint(numbers), limits.min, np.nextafter(limits.max + 1.0, 0.0))
    elif not pa.types.is_floating(kind):
        return pa.array(numbers).cast(kind, safe=False)
    return pa.array(numbers.astype(kind.to_pandas_dtype(), copy=False), type=kind)
