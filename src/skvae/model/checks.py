"""Checks of hyper-parameters; each error names the part, the parameter, its value and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

from skvae.model.component import Component


def check(part: Component, name: str, valid: Callable[[Any], bool], expected: str) -> None:
    """Refuse the value of a part's parameter unless `valid` accepts it.

    Raises
    ------
    ValueError
        If it does not, or cannot be asked.
    """
    value = getattr(part, name)
    try:
        good = bool(valid(value))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{type(part).__name__}({name}={value!r}): expected {expected}")


def check_whole(part: Component, name: str, minimum: int) -> None:
    check(part, name, lambda v: is_whole(v) and v >= minimum, f"a whole number ≥ {minimum}")


def check_weight(part: Component, name: str) -> None:
    check(part, name, lambda v: is_number(v) and 0 <= v < math.inf, "a finite number ≥ 0")


def check_share(part: Component, name: str) -> None:
    check(part, name, lambda v: is_number(v) and 0 <= v < 1, "a share in [0, 1)")


def check_sizes(part: Component, name: str) -> None:
    check(
        part,
        name,
        lambda v: not isinstance(v, str) and all(is_whole(size) and size >= 1 for size in v),
        "a sequence of whole numbers ≥ 1 (it may be empty)",
    )


def check_flag(part: Component, name: str) -> None:
    check(part, name, lambda v: isinstance(v, bool), "True or False")


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
