"""How far each synthetic column is distributed like the real one."""

from __future__ import annotations

import numpy as np

from skvae.evaluation.tables import Rows


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov–Smirnov distance of two samples of numbers, sup_x |F_a(x) − F_b(x)|; infinities are allowed.

    Parameters
    ----------
    a : ndarray [n]
    b : ndarray [m]
    """
    a, b = np.sort(a), np.sort(b)
    every = np.concatenate([a, b])
    gap = np.searchsorted(a, every, side="right") / len(a) - np.searchsorted(b, every, side="right") / len(b)
    return float(np.abs(gap).max())


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation distance of two samples of codes, ½ Σ_k |p_a(k) − p_b(k)|; NaN is one more level.

    Parameters
    ----------
    a : ndarray [n]
        Codes 0, 1, … or NaN.
    b : ndarray [m]
    """
    a, b = (np.nan_to_num(codes, nan=-1.0).astype(np.int64) + 1 for codes in (a, b))
    size = int(max(a.max(), b.max())) + 1
    return 0.5 * float(
        np.abs(np.bincount(a, minlength=size) / len(a) - np.bincount(b, minlength=size) / len(b)).sum()
    )


def shape_errors(real: Rows, other: Rows) -> np.ndarray:
    """Distance of each column's distributions, in [0, 1]: what SDMetrics calls 1 − column shape.

    Numbers and dates: the Kolmogorov–Smirnov distance. Levels: the total variation distance. Missing entries count:
    they are one more level, and among numbers an entry below all others or above all others, whichever gives the
    larger distance. Without missing entries the two distances are the usual ones.

    Returns
    -------
    ndarray [C]

    References
    ----------
    DataCebo, SDMetrics: KSComplement, TVComplement, `docs.sdv.dev/sdmetrics`.
    """
    return np.array(
        [
            _numbers(a, b) if numeric else total_variation(a, b)
            for a, b, numeric in zip(real.values.T, other.values.T, real.numeric, strict=True)
        ]
    )


def _numbers(a: np.ndarray, b: np.ndarray) -> float:
    holes = np.isnan(a).any() or np.isnan(b).any()
    return max(
        kolmogorov_smirnov(np.nan_to_num(a, nan=place), np.nan_to_num(b, nan=place))
        for place in ((-np.inf, np.inf) if holes else (0.0,))
    )
