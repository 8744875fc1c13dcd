"""Which classes of a target, or bins of one that is a number, are to get how many rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import column_or_1d

from skvae.data.table import missing_entries
from skvae.model.checks import is_number, is_whole

STRATEGIES = ("auto", "not majority", "minority", "not minority", "all")
# Fewer rows of a class do not show how its rows vary.
_MIN_ROWS = 2


@dataclass(frozen=True)
class Groups:
    """The classes of a target, or the bins of one that is a number.

    Attributes
    ----------
    names : list
        The classes, or the numbers of the bins.
    codes : ndarray [n]
        Position in `names` of each row.
    numbers : ndarray [n] or None
        The target, if it is a number.
    edges : ndarray [n_bins + 1] or None
        Of the bins.
    """

    names: list[Any]
    codes: np.ndarray
    numbers: np.ndarray | None = None
    edges: np.ndarray | None = None

    @property
    def counts(self) -> dict[Any, int]:
        """Rows of each class; of the bins, of those that have any."""
        found = dict(zip(self.names, np.bincount(self.codes, minlength=len(self.names)).tolist(), strict=True))
        return {name: n for name, n in found.items() if n}

    @property
    def weights(self) -> np.ndarray:
        """Of each row: one over the square root of the size of its class, so that the rare ones are learned too."""
        return np.bincount(self.codes)[self.codes] ** -0.5

    def near(self, rows: np.ndarray, bin: int, resolution: float, rng: np.random.Generator) -> np.ndarray:
        """Numbers near those of `rows` and in their bin, as rounded as they are, [len(rows)].

        From a normal kernel of width 0.9 σ n^(−1/5), σ and n those of the bin, reflected at its edges (Silverman
        1986).
        """
        assert self.numbers is not None
        assert self.edges is not None
        members, (lower, upper) = self.numbers[self.codes == bin], self.edges[bin : bin + 2]
        width = 0.9 * members.std() * len(members) ** -0.2
        moved = self.numbers[rows] + width * rng.standard_normal(len(rows))
        moved = np.where(moved < lower, 2 * lower - moved, moved)
        moved = np.where(moved >= upper, 2 * upper - moved, moved).clip(lower, upper)
        if resolution == 0:
            return moved
        return (np.rint(moved / resolution) * resolution).round(max(0, round(-np.log10(resolution))))


def groups_of(y: Any, task: str, n_bins: int) -> Groups:
    """Group the rows by their target.

    Parameters
    ----------
    y : array [n], or one-hot [n, n_classes]
    task : {"auto", "classification", "regression"}
    n_bins : int

    Raises
    ------
    ValueError
        A target that is missing, of another shape, or the same for all rows; numbers with decimals as classes, or
        text as numbers.
    """
    values = _values(y)
    has_decimals = values.dtype.kind == "f" and bool((values != np.rint(values)).any())
    if task == "regression" or (task == "auto" and has_decimals):
        return _bins(values, n_bins)
    if has_decimals:
        value = values[values != np.rint(values)].item(0)
        raise ValueError(
            f"y holds {value}, of which no class is made: pass task='regression' if y is a quantity, else turn it "
            "into whole numbers or text"
        )
    if values.ndim == 2:
        names, codes = np.arange(values.shape[1]), values.argmax(1)
    else:
        try:
            names, codes = np.unique(values, return_inverse=True)
        except TypeError:
            kinds = sorted({type(value).__name__ for value in values})
            raise ValueError(f"y mixes {' and '.join(kinds)}; convert its labels to one type") from None
    groups = Groups(names.tolist(), codes)
    if len(groups.counts) < 2:
        (name,) = groups.counts
        raise ValueError(f"y has only one class, {name!r}: there is nothing to balance; pass rows of two at least")
    return groups


def _values(y: Any) -> np.ndarray:
    """y as an array [n], or [n, K] if it is one-hot, without holes."""
    if y is None:
        raise ValueError("VAEOversampler requires y to be passed, but the target y is None")
    if isinstance(y, str):
        raise ValueError(f"y={y!r} is text; pass the column itself, for example y=X.pop({y!r})")
    values = target_array(y)
    if values.ndim == 2 and values.shape[1] > 1:
        is_one_hot = np.isin(values, (0, 1)).all() and (values.astype(np.float64).sum(1) == 1).all()
        if not is_one_hot:
            raise ValueError(f"y has shape {values.shape}; expected [n], or one-hot [n, n_classes]")
        return values
    values = column_or_1d(values)
    missing = missing_entries(values)
    if missing.any():
        raise ValueError(
            f"y is missing in row {int(missing.argmax())}, which belongs to no class then: drop such rows, or "
            "predict their target first"
        )
    return values


def target_array(y: Any) -> np.ndarray:
    """y as an array; of text beside numbers and NaN in a list, which numpy makes text too, the entries themselves."""
    array = np.asarray(y)
    is_made_text = array.dtype.kind in "US" and not isinstance(y, np.ndarray)
    return np.asarray(y, dtype=object) if is_made_text or array.dtype.kind == "T" else array


def _bins(values: np.ndarray, n_bins: int) -> Groups:
    """Bins of equal width."""
    if values.ndim > 1 or any(isinstance(value, str) for value in values.tolist()):
        raise ValueError(
            f"y holds {values.item(0)!r} and has shape {values.shape}; a regression needs one number per row"
        )
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise ValueError(f"y holds {numbers[row]} (row {row}); drop the row, or transform y")
    lower, upper = numbers.min(), numbers.max()
    if lower == upper:
        raise ValueError(f"y is constant ({lower:g}), so that no range of it is rare; use VAE.sample for more rows")
    edges = np.linspace(lower, upper, n_bins + 1)
    codes = np.searchsorted(edges[1:-1], numbers, side="right")
    return Groups(list(range(n_bins)), codes, numbers, edges)


def new_rows(strategy: Any, groups: Groups, y: Any) -> dict[Any, int]:
    """How many rows of each class, or bin, are wanted beyond those there are.

    Parameters
    ----------
    strategy : str, float, dict or callable
        See `VAEOversampler`.
    groups : Groups
    y : array
        As it came, for a callable.

    Raises
    ------
    ValueError
        A strategy that is not understood, asks for fewer rows than there are, or names a class that y has not.
    """
    counts = groups.counts
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if isinstance(strategy, str) and strategy in STRATEGIES:
        if strategy == "auto" and groups.numbers is not None:
            median = sorted(counts.values())[(len(counts) - 1) // 2]
            return {name: median - n for name, n in counts.items() if _MIN_ROWS <= n < median}
        asked = {"minority": {smallest}, "not minority": {*counts} - {smallest}, "all": {*counts}}
        chosen = asked.get(strategy, {*counts} - {largest})
        new = {name: counts[largest] - n for name, n in counts.items() if name in chosen}
    elif is_number(strategy):
        new = _by_ratio(float(strategy), counts, largest)
    else:
        wanted = strategy(y) if callable(strategy) else strategy
        if not isinstance(wanted, Mapping):
            raise ValueError(
                f"sampling_strategy={strategy!r}: expected one of {STRATEGIES}, a ratio in (0, 1], a dict of class "
                "to number of rows, or a function that makes one from y"
            )
        new = {name: _missing_rows(name, n, counts) for name, n in wanted.items()}
    return new


def check_enough(new: dict[Any, int], groups: Groups) -> None:
    """Refuse to add rows to a class that has too few to learn from."""
    counts = groups.counts
    for name, n in new.items():
        if n > 0 and counts[name] < _MIN_ROWS:
            what = "bin" if groups.numbers is not None else "class"
            quantity = " (if y is a quantity, pass task='regression')" if what == "class" else ""
            raise ValueError(
                f"{what} {name!r} has {counts[name]} row, which does not show how its rows vary{quantity}: add rows "
                f"of it, merge it with another {what}, or leave it out of sampling_strategy, as a dict of {what} to "
                "number of rows"
            )


def _by_ratio(ratio: float, counts: dict[Any, int], largest: Any) -> dict[Any, int]:
    rest = [name for name in counts if name != largest]
    if len(rest) != 1:
        example = {rest[0]: counts[largest]}
        raise ValueError(
            f"sampling_strategy={ratio:g} is the ratio of two classes, and y has {len(counts)}; give the number of "
            f"rows of each as a dict, for example {example!r}"
        )
    if not 0 < ratio <= 1:
        raise ValueError(f"sampling_strategy={ratio:g}: expected a ratio in (0, 1]")
    n, (smaller,) = counts[rest[0]], rest
    new = int(counts[largest] * ratio - n)
    if counts[largest] * ratio < n:
        raise ValueError(
            f"sampling_strategy={ratio:g} asks for fewer rows of class {smaller!r} than the {n} there are; their "
            f"ratio is {n / counts[largest]:.3g} already: give a larger one"
        )
    return {smaller: new}


def _missing_rows(name: Any, wanted: Any, counts: dict[Any, int]) -> int:
    if name not in counts:
        known = ", ".join(map(repr, list(counts)[:10]))
        raise ValueError(f"sampling_strategy names the class {name!r}, of which y has no row; it has {known}")
    if not is_whole(wanted) or wanted < counts[name]:
        raise ValueError(
            f"sampling_strategy asks for {wanted!r} rows of class {name!r}, of which there are {counts[name]}: rows "
            "are added, never removed; give a whole number that is not smaller"
        )
    return int(wanted) - counts[name]
