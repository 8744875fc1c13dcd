"""Conditions on the command line: `sex=F`, `30<=age<40`, `city={Bern,Oslo}`, `income=`."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from skvae.data.columns import Column, Kind
from skvae.data.storage import DATE, TEXT, TRUTH, parse_type, role_of

if TYPE_CHECKING:
    from skvae.data.schema import Schema

_BELOW, _FLIPPED = ("<", "<="), {">": "<", ">=": "<="}
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parsed(texts: Sequence[str] | None, schema: Schema) -> dict[str, Any]:
    """Conditions as `VAE.sample` takes them; several bounds of one column make a range together.

    Raises
    ------
    typer.BadParameter
        A text that is no condition on a column of the schema.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        column, what = _condition(text, schema)
        before = found.get(column.name)
        if column.name in found:
            if not (isinstance(what, tuple) and isinstance(before, tuple)):
                raise _refused(text, f"there is another condition on '{column.name}'; give one, {{a,b}} for a choice")
            sides = [[ends[k] for ends in (before, what) if ends[k] is not None] for k in (0, 1)]
            if any(len(its) > 1 for its in sides):
                raise _refused(text, f"'{column.name}' has such a bound already")
            what = tuple(its[0] if its else None for its in sides)
        found[column.name] = what
    return found


def _condition(text: str, schema: Schema) -> tuple[Column, Any]:
    """The column, and what is asked of it."""
    for column in sorted(schema.columns, key=lambda column: -len(column.name)):
        name = re.escape(column.name)
        if match := re.fullmatch(rf"\s*{name}\s*=\s*(.*?)\s*", text, re.DOTALL):
            return column, _equal(column, match[1], text)
        ends: list[tuple[str, str]] = []  # (sign as if the column stood on its left, value)
        if match := re.fullmatch(rf"\s*{name}\s*(<=|<|>=|>)\s*([^<>=]+?)\s*", text):
            ends = [(match[1], match[2])]
        elif match := re.fullmatch(rf"\s*([^<>=]+?)\s*(<=|<|>=|>)\s*{name}\s*(?:(<=|<|>=|>)\s*([^<>=]+?)\s*)?", text):
            ends = [(_turned(match[2]), match[1])] + ([(match[3], match[4])] if match[3] else [])
        if ends:
            low = [_end(column, sign, value, text) for sign, value in ends if sign not in _BELOW]
            high = [_end(column, sign, value, text) for sign, value in ends if sign in _BELOW]
            if max(len(low), len(high)) > 1:
                raise _refused(text, "both signs of a range point the same way: 30<=age<40")
            return column, (low[0] if low else None, high[0] if high else None)
    names = ", ".join(column.name for column in schema.columns[:20])
    raise _refused(text, f"expected a condition on a column, as sex=F, 30<=age<40, city={{a,b}}; columns: {names}")


def _turned(sign: str) -> str:
    back = {below: above for above, below in _FLIPPED.items()}
    return _FLIPPED.get(sign) or back[sign]


def _equal(column: Column, value: str, text: str) -> Any:
    if value == "":
        return None
    if value.startswith("{") and value.endswith("}"):
        members = next(csv.reader([value[1:-1]], skipinitialspace=True), [])
        return {_value(column, member, text) for member in members}
    return _value(column, value, text)


def _value(column: Column, value: str, text: str) -> Any:
    role = role_of(parse_type(column.storage))
    if role in (TEXT, DATE):
        return value
    if role == TRUTH and value.lower() in _TRUTHS:
        return _TRUTHS[value.lower()]
    try:
        return float(value)
    except ValueError:
        raise _refused(text, f"column '{column.name}' holds numbers, and {value!r} is none") from None


def _end(column: Column, sign: str, value: str, text: str) -> Any:
    """The end of a range that holds its ends."""
    end = _value(column, value, text)
    if sign not in ("<", ">"):
        return end
    towards = -1 if sign == "<" else 1
    if column.kind == Kind.ORDINAL and column.levels is not None and end in column.levels:
        place = column.levels.index(end) + towards
        if not 0 <= place < len(column.levels):
            raise _refused(text, f"no level of '{column.name}' lies there")
        return column.levels[place]
    if isinstance(end, str) and role_of(parse_type(column.storage)) == DATE:
        try:
            moment = np.array([end], dtype="datetime64[us]")
        except ValueError:
            return end  # `VAE.sample` says what is wrong with it
        return moment[0] + np.timedelta64(towards * max(1, round(column.resolution)), "us")
    if isinstance(end, str):
        return end
    return end + towards * column.resolution if column.resolution else math.nextafter(end, towards * math.inf)


def _refused(text: str, why: str) -> typer.BadParameter:
    return typer.BadParameter(f"{text!r}: {why}", param_hint="--where")
