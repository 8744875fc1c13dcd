"""Likelihoods of numeric columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skvae.data.columns import NUMERIC, Column, Kind
from skvae.model.likelihoods.base import Distribution, Likelihood, soft_limit
from skvae.model.likelihoods.contaminated import Contaminated
from skvae.model.likelihoods.normal import Normal, RoundedNormal

SCALES = ("shared", "column", "row")

# log σ in standardised units lies within ±5: σ from 0.7 % to 148 times the column's spread.
_LOG_SCALE_LIMIT = 5.0


class Gaussian(Likelihood):
    """Normal likelihood with a learned standard deviation.

    Parameters
    ----------
    scale : {"shared", "column", "row"}
        One σ for all columns (in standardised units; with linear networks this is probabilistic PCA,
        Tipping & Bishop 1999), one per column (factor analysis), or one per entry, predicted by the decoder.
    outliers : float
        Share ε of entries that belong to a broad normal over the whole column instead (see `Contaminated`).
    rounded : bool
        Score whole numbers by the probability of their rounding cell instead of a density, which could grow
        without bound on a repeated value.
    """

    alias = "gaussian"
    log_unit: Tensor
    lower: Tensor
    cell: Tensor
    origin: Tensor

    def __init__(self, scale: str = "shared", rounded: bool = False, outliers: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.outliers = outliers
        self.rounded = rounded

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        return frozenset({Kind.INTEGER}) if self.rounded else NUMERIC

    def bind(self, columns: Sequence[Column]) -> Gaussian:
        if self.scale not in SCALES:
            raise ValueError(f"Gaussian(scale={self.scale!r}) is not understood; expected one of {SCALES}")
        if not 0 <= self.outliers < 1:
            raise ValueError(f"Gaussian(outliers={self.outliers!r}): expected a share in [0, 1)")
        n_columns = len(columns)
        self.n_params = 2 * n_columns if self.scale == "row" else n_columns
        if self.scale != "row":
            self.log_scale = nn.Parameter(torch.zeros(1 if self.scale == "shared" else n_columns))
        unit = torch.tensor([column.scale for column in columns], dtype=torch.float64)
        self.register_buffer("log_unit", unit.log().float(), persistent=False)
        if self.rounded:
            cell = torch.tensor([column.resolution for column in columns], dtype=torch.float64) / unit
            origin = torch.tensor([(column.lower - column.offset) / column.scale for column in columns])
            # A probability cannot exceed 1, so σ may shrink well inside the cell.
            lower = torch.log(cell / 8).clamp(max=-_LOG_SCALE_LIMIT)
            self.register_buffer("cell", cell.float(), persistent=False)
            self.register_buffer("origin", origin.float(), persistent=False)
            self.register_buffer("lower", lower.float(), persistent=False)
        return self

    def forward(self, params: Tensor) -> Distribution:
        mean, raw = params.chunk(2, dim=-1) if self.scale == "row" else (params, self.log_scale)
        if self.rounded:
            log_scale = soft_limit(raw, self.lower, _LOG_SCALE_LIMIT)
            normal: Normal = RoundedNormal(mean, log_scale, self.cell, self.origin)
        else:
            normal = Normal(mean, soft_limit(raw, -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT), self.log_unit)
        return Contaminated(normal, self.outliers) if self.outliers else normal
