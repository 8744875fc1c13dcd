"""What distances between rows tell: coverage, and whether training rows were copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from skvae.data.columns import Kind
from skvae.evaluation.tables import Rows

# Rarer levels of a column with more are one.
_MAX_LEVELS = 200
# Distances held at a time.
_BLOCK = 2**22
# Squared distances differ by rounding errors of about this size, relative to the rows' squared lengths.
_ROUNDING = 1e-11


def coordinates(real: Rows, rows: Rows) -> np.ndarray:
    """Rows as points: one coordinate per number and one per level, so that columns count alike.

    Numbers and dates are standardised by the real table; a level is a one-hot vector divided by √2, so that two
    different levels are 1 apart (of more than 200 levels, all but the 200 most frequent are one). A missing number is
    the mean and, in a coordinate of its own, 1 away from those that are not.

    Returns
    -------
    ndarray [n, D], float64
    """
    parts = []
    for column, reference, values, numeric in zip(
        real.columns, real.values.T, rows.values.T, real.numeric, strict=True
    ):
        missing = np.isnan(values)
        if numeric:
            scale = np.nanstd(reference)
            z = (values - np.nanmean(reference)) / (scale if scale > 0 else 1.0)
            parts.append(np.where(missing, 0.0, z)[:, None])
            if np.isnan(reference).any() or missing.any():
                parts.append(missing[:, None].astype(np.float64))
        elif column.kind != Kind.CONSTANT:
            # One more for levels that the real table lacks, one for missing.
            codes = np.where(missing, column.cardinality + 1, np.nan_to_num(values)).astype(np.int64)
            place, size = _places(reference, column.cardinality)
            parts.append(np.eye(size)[place[codes]] / np.sqrt(2))
    return np.hstack(parts)


def _places(reference: np.ndarray, cardinality: int) -> tuple[np.ndarray, int]:
    """The coordinate of each level, of none, and of a missing entry; and how many coordinates there are."""
    if cardinality <= _MAX_LEVELS:
        return np.arange(cardinality + 2), cardinality + 2
    counts = np.bincount(reference[~np.isnan(reference)].astype(np.int64), minlength=cardinality)
    place = np.full(cardinality + 2, _MAX_LEVELS)
    place[np.argsort(-counts, kind="stable")[:_MAX_LEVELS]] = np.arange(_MAX_LEVELS)
    place[-1] = _MAX_LEVELS + 1
    return place, _MAX_LEVELS + 2


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of blocks of rows of a [n, D] to all of b [m, D]; those of equal rows are 0."""
    length_b = np.einsum("nd,nd->n", b, b)
    step = max(1, _BLOCK // len(b))
    for first in range(0, len(a), step):
        part = a[first : first + step]
        length = np.einsum("nd,nd->n", part, part)[:, None]
        squared = part @ b.T
        squared *= -2.0
        squared += length
        squared += length_b
        squared[squared < _ROUNDING * (1.0 + length)] = 0.0
        yield slice(first, first + len(part)), squared


def density_coverage(real: np.ndarray, samples: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Density and coverage: how often samples lie near real rows, and how many real rows have samples nearby.

    With B_i the closed ball around real row i that reaches to its k-th nearest other real row, density is
    1/(k m) Σ_j Σ_i 1[sample j in B_i], about 1 for samples of the same distribution, and coverage the share of
    balls that hold a sample, about 1 − 2^−k for as many of them (.97 for k = 5).

    Parameters
    ----------
    real : array [n, D]
    samples : array [m, D]
    k : int
        Below n.

    Returns
    -------
    density, coverage : float

    Raises
    ------
    ValueError
        If k is not below the number of real rows, or the two have another number of features.

    References
    ----------
    M. F. Naeem, S. J. Oh, Y. Uh, Y. Choi & J. Yoo (2020), Reliable fidelity and diversity metrics for generative
    models, equations 5 and 6.
    """
    real, samples = _points(real, "real"), _points(samples, "samples")
    if real.shape[1] != samples.shape[1]:
        raise ValueError(f"real has {real.shape[1]} features, samples {samples.shape[1]}; pass the same features")
    if not 1 <= k < len(real):
        raise ValueError(f"k={k}: expected 1 ≤ k < {len(real)}, the number of real rows")
    radii = np.empty(len(real))
    for rows, squared in _squared_distances(real, real):
        radii[rows] = np.partition(squared, k, axis=1)[:, k]  # with itself, at 0
    radii += _ROUNDING * (1.0 + np.einsum("nd,nd->n", real, real))
    inside, covered = 0, 0
    for rows, squared in _squared_distances(real, samples):
        hits = (squared <= radii[rows, None]).sum(1)
        inside += int(hits.sum())
        covered += int((hits > 0).sum())
    return inside / (k * len(samples)), covered / len(real)


def _points(X: np.ndarray, name: str) -> np.ndarray:
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or not len(X) or not np.isfinite(X).all():
        raise ValueError(f"{name} has shape {X.shape}; expected [n, D] finite numbers, as an encoder gives them")
    return X


@dataclass(frozen=True)
class Closeness:
    """Whether synthetic rows are closer to the rows trained on than to others of their kind.

    Attributes
    ----------
    closest_share : float
        Share of synthetic rows whose closest record is a training row and not a held-out one; ties count half.
        ½ for rows that owe nothing to single training rows, 1 for copies of them.
    membership_auc : float
        Area under the ROC curve of an attack that takes a row for one trained on the closer it is to a synthetic
        row; ½ if the attack is in vain.
    copied_share, copied_share_holdout : float
        Share of synthetic rows that equal one of the training rows, and of the held-out ones.
    """

    closest_share: float
    membership_auc: float
    copied_share: float
    copied_share_holdout: float


def closeness(train: np.ndarray, holdout: np.ndarray, samples: np.ndarray) -> Closeness:
    """Distances to the closest record and membership inference.

    Parameters
    ----------
    train, holdout : ndarray [n, D]
        As many of the one as of the other, or the larger one would be closer by chance.
    samples : ndarray [m, D]

    References
    ----------
    M. Platzer & T. Reutterer (2021), Holdout-based empirical assessment of mixed-type synthetic data (the share
    closer to training than to held-out rows).
    D. Chen, N. Yu, Y. Zhang & M. Fritz (2020), GAN-Leaks: a taxonomy of membership inference attacks against
    generative models (the full black-box attack, by the distance to the nearest sample).
    """
    if len(train) != len(holdout):
        raise ValueError(f"train has {len(train)} rows, holdout {len(holdout)}; pass as many of each")
    n = len(train)
    records = np.concatenate([train, holdout])
    nearest = np.empty((len(samples), 2))
    to_samples = np.full(2 * n, np.inf)
    for rows, squared in _squared_distances(samples, records):
        nearest[rows, 0], nearest[rows, 1] = squared[:, :n].min(1), squared[:, n:].min(1)
        np.minimum(to_samples, squared.min(0), out=to_samples)
    gap = nearest[:, 0] - nearest[:, 1]
    gap[np.abs(gap) < _ROUNDING * (1.0 + np.einsum("nd,nd->n", samples, samples))] = 0.0
    is_member = np.repeat([True, False], n)
    return Closeness(
        closest_share=float((gap < 0).mean() + 0.5 * (gap == 0).mean()),
        membership_auc=float(roc_auc_score(is_member, -to_samples)),
        copied_share=float((nearest[:, 0] == 0).mean()),
        copied_share_holdout=float((nearest[:, 1] == 0).mean()),
    )
