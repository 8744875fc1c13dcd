"""What sets clusters apart, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind

_SHOWN = 5


@dataclass(frozen=True)
class Trait:
    """How the rows of a cluster differ from all rows in one column.

    Attributes
    ----------
    column : str
    strength : float
        Of a number: (mean within − mean of all) / standard deviation of all. Of a level: (share within − share of
        all) / √(p (1 − p)), p being the share of all: the same for a column of 0 and 1.
    level : str or None
        The level whose share differs most; None of a number.
    within, overall : float or None
        Means, or shares of the level; None where no row has an entry.
    missing : float
        Share of the cluster's rows without an entry.
    is_date : bool
        Whether the means are dates, in microseconds since 1970.
    """

    column: str
    strength: float
    level: str | None
    within: float | None
    overall: float | None
    missing: float
    is_date: bool = False

    def _mean(self, number: float) -> str:
        return str(np.datetime64(int(number), "us").astype("datetime64[D]")) if self.is_date else f"{number:.4g}"


@dataclass(frozen=True)
class ClusterReport:
    """The size of each cluster, and its traits, the strongest first.

    Attributes
    ----------
    sizes : list of int
    traits : list of list of Trait
    """

    sizes: list[int]
    traits: list[list[Trait]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ClusterReport:
        return cls(state["sizes"], [[Trait(**trait) for trait in its] for its in state["traits"]])

    def __str__(self) -> str:
        lines = []
        for k, (size, its) in enumerate(zip(self.sizes, self.traits, strict=True)):
            lines.append(f"cluster {k}: {size} rows ({size / max(1, sum(self.sizes)):.1%})")
            for trait in its[:_SHOWN]:
                if trait.within is None or trait.overall is None:
                    continue
                if trait.level is None:
                    what = f"mean {trait._mean(trait.within)}, of all rows {trait._mean(trait.overall)}"
                else:
                    what = f"{trait.level!r} in {trait.within:.0%}, of all rows {trait.overall:.0%}"
                lines.append(f"  {trait.column}: {what} ({trait.strength:+.2f} sd)")
        return "\n".join(lines)

    __repr__ = __str__


def describe_clusters(columns: Sequence[Column], rows: Batch, labels: np.ndarray, n_clusters: int) -> ClusterReport:
    """What sets the clusters of rows apart.

    Parameters
    ----------
    columns : sequence of Column
    rows : Batch [n, C]
    labels : ndarray [n]
    """
    values = rows.values.cpu().numpy().astype(np.float64)
    observed = np.ones_like(values, dtype=bool) if rows.observed is None else rows.observed.cpu().numpy()
    member = (labels == np.arange(n_clusters)[:, None]).astype(np.float64)  # [K, n]
    traits: list[list[Trait]] = [[] for _ in range(n_clusters)]
    for j, column in enumerate(columns):
        x, seen = values[:, j], observed[:, j]
        sizes = member.sum(1)
        missing = 1 - (member @ seen) / np.maximum(sizes, 1)
        if column.levels is not None and column.is_discrete:
            for k, (strength, level, within, overall) in enumerate(_levels(column, x, seen, member)):
                traits[k].append(Trait(column.name, strength, level, within, overall, float(missing[k])))
            continue
        real = x if column.is_discrete else x * column.scale + column.offset
        found = real[seen]
        mean, sd = (float(found.mean()), float(found.std())) if len(found) else (0.0, 0.0)
        for k, (within, its) in enumerate(zip(member @ (real * seen), member @ seen, strict=True)):
            centre = float(within / its) if its else None
            strength = 0.0 if centre is None or sd == 0 else (centre - mean) / sd
            is_date = column.kind == Kind.DATE
            traits[k].append(Trait(column.name, strength, None, centre, mean, float(missing[k]), is_date))
    ordered = [sorted(its, key=lambda trait: -abs(trait.strength)) for its in traits]
    return ClusterReport([int(size) for size in member.sum(1)], ordered)


def _levels(
    column: Column, code: np.ndarray, seen: np.ndarray, member: np.ndarray
) -> list[tuple[float, str, float | None, float]]:
    """Strength, level and shares within and overall of the level that differs most, for each cluster."""
    assert column.levels is not None
    one_hot = (code[:, None] == np.arange(len(column.levels))) & seen[:, None]  # [n, L]
    overall = one_hot.sum(0) / max(1, seen.sum())
    counts = member @ seen
    within = (member @ one_hot) / np.maximum(counts, 1)[:, None]  # [K, L]
    strength = (within - overall) / np.sqrt(np.maximum(overall * (1 - overall), 1e-12))
    # A level of a single row is in one of the clusters, whatever they are.
    telling = (one_hot.sum(0) > 1) & (overall < 1) & (counts > 0)[:, None]
    strength = np.where(telling, strength, 0.0)
    best = np.abs(strength).argmax(1)
    return [
        (float(strength[k, b]), str(column.levels[b]), float(within[k, b]) if counts[k] else None, float(overall[b]))
        for k, b in enumerate(best)
    ]
