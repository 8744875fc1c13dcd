"""How far pairs of synthetic columns depend on each other as the real ones do."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from skvae.data.columns import Kind
from skvae.evaluation.tables import Rows

# As in SDMetrics.
_N_BINS = 10


def trend_errors(real: Rows, other: Rows) -> np.ndarray:
    """Distance of each pair of columns, in [0, 1]: what SDMetrics calls 1 − column pair trend.

    Two columns of numbers or dates: ½ |ρ_real − ρ_other|, Pearson's correlation over the rows that have both. All
    other pairs: the total variation distance of their joint levels, ½ Σ |p_real − p_other|, where numbers go into ten
    bins of equal width between the real column's bounds, the largest value and what is beyond in bins of their own.
    A missing entry is one more level. Pairs with a column that is constant in the real table have no trend: NaN.

    Returns
    -------
    ndarray [C, C]
        Symmetric, NaN on the diagonal.

    References
    ----------
    DataCebo, SDMetrics: CorrelationSimilarity, ContingencySimilarity, `docs.sdv.dev/sdmetrics`.
    """
    numeric = real.numeric
    codes = _codes(real, other)
    sizes = np.array([int(max(a.max(), b.max())) + 1 for a, b in zip(codes[0].T, codes[1].T, strict=True)])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tables = [_contingency(part, offsets) for part in codes]
    block = sparse.csr_matrix(
        (np.ones(offsets[-1]), (np.arange(offsets[-1]), np.repeat(np.arange(len(sizes)), sizes)))
    )  # [levels, C]
    errors = 0.5 * np.asarray((block.T @ abs(tables[0] - tables[1]) @ block).todense())
    both = np.flatnonzero(numeric)
    if len(both):
        gap = correlations(real.values[:, both]) - correlations(other.values[:, both])
        errors[np.ix_(both, both)] = 0.5 * np.abs(gap)
    np.fill_diagonal(errors, np.nan)
    constant = np.array([column.kind == Kind.CONSTANT for column in real.columns])
    errors[constant] = errors[:, constant] = np.nan
    return errors


def correlations(values: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each pair of columns over the rows that have both; 0 where one is constant there.

    Parameters
    ----------
    values : ndarray [n, C]
        NaN where missing.

    Returns
    -------
    ndarray [C, C]
    """
    present = ~np.isnan(values)
    n = np.maximum(present.sum(0), 1)
    # Centred and scaled by all of a column first, so that the moments of pairs lose no digits.
    filled = np.where(present, values, 0.0)
    filled = np.where(present, filled - filled.sum(0) / n, 0.0)
    spread = np.sqrt((filled**2).sum(0) / n)
    filled /= np.where(spread > 0, spread, 1.0)
    mask = present.astype(np.float64)
    count = np.maximum(mask.T @ mask, 1.0)
    mean = filled.T @ mask / count  # [C, C]: of the first, where the second is present
    variance = np.maximum((filled**2).T @ mask / count - mean**2, 0.0)
    scale = np.sqrt(variance * variance.T)
    covariance = filled.T @ filled / count - mean * mean.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 1e-12, covariance / scale, 0.0)


def _codes(real: Rows, other: Rows) -> list[np.ndarray]:
    """Codes ≥ 0 of all entries of both tables; 0 is missing."""
    parts = []
    for rows in (real, other):
        codes = np.nan_to_num(rows.values, nan=-1.0)
        for j in np.flatnonzero(real.numeric):
            column = real.columns[j]
            edges = np.linspace(column.lower, column.upper, _N_BINS + 1)
            codes[:, j] = np.where(np.isnan(rows.values[:, j]), -1, np.digitize(rows.values[:, j], edges))
        parts.append(codes.astype(np.int64) + 1)
    return parts


def _contingency(codes: np.ndarray, offsets: np.ndarray) -> sparse.csr_matrix:
    """Shares of rows that have both levels, of every two levels of all columns: [levels, levels]."""
    n, n_columns = codes.shape
    columns = (codes + offsets[:-1]).ravel()
    rows = sparse.csr_matrix(
        (np.ones(n * n_columns), columns, np.arange(0, n * n_columns + 1, n_columns)), shape=(n, offsets[-1])
    )
    return (rows.T @ rows) / n
