"""Likelihoods of numeric columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.data.columns import NUMERIC, Column, Kind
from skvae.model.likelihoods.base import Distribution, Likelihood, soft_limit

SCALES = ("shared", "column", "row")

_LOG_2PI = math.log(2 * math.pi)
# log σ in standardised units lies within ±5: σ from 0.7 % to 148 times the column's spread.
_LOG_SCALE_LIMIT = 5.0


class Normal(Distribution):
    """N(μ, σ²) in standardised units; densities are given in the units of the data.

    Parameters
    ----------
    mean : Tensor [S, B, C]
    log_scale : Tensor, broadcastable to [S, B, C]
        log σ.
    log_unit : Tensor [C]
        Log of the columns' standard deviations in the data's units: the log-Jacobian of the standardisation.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor, log_unit: Tensor) -> None:
        self._mean, self.log_scale, self.log_unit = mean, log_scale, log_unit

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def scale(self) -> Tensor:
        return torch.exp(self.log_scale)

    def log_prob(self, values: Tensor) -> Tensor:
        # −log σ − c − ½ (x − μ)² / σ², in as few passes over [S, B, C] as that takes.
        constant = (-0.5 * _LOG_2PI - self.log_unit) - self.log_scale
        precision = torch.exp(-2.0 * self.log_scale)
        squared = F.mse_loss(self._mean, values.expand_as(self._mean), reduction="none")
        return torch.addcmul(constant, squared, precision, value=-0.5)

    def centre(self, weights: Tensor) -> Tensor:
        return (weights.unsqueeze(-1) * self._mean).sum(0)

    def cdf(self, values: Tensor) -> Tensor:
        return torch.special.ndtr((values - self._mean) / self.scale)

    def icdf(self, u: Tensor) -> Tensor:
        return self._mean + self.scale * torch.special.ndtri(u)


class RoundedNormal(Normal):
    """A normal variable rounded to a grid: the probability of each cell of width `cell`.

    Parameters
    ----------
    cell : Tensor [C]
        Distance between neighbouring values, in standardised units.
    origin : Tensor [C]
        A point of the grid, in standardised units.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor, cell: Tensor, origin: Tensor) -> None:
        super().__init__(mean, log_scale, torch.zeros_like(cell))
        self.cell, self.origin = cell, origin

    def log_prob(self, values: Tensor) -> Tensor:
        scale = self.scale
        # By symmetry the cell is moved into the lower tail, where log_ndtr loses nothing.
        centre = -(values - self._mean).abs() / scale
        half = (0.5 * self.cell) / scale
        upper = torch.special.log_ndtr(centre + half)
        gap = (torch.special.log_ndtr(centre - half) - upper).clamp(max=-1e-6)
        mass = upper + torch.log(-torch.expm1(gap))
        # In cells much narrower than σ the difference cancels; the midpoint rule errs by (2 half)² / 24.
        density = -0.5 * (centre.square() + _LOG_2PI) + torch.log(2 * half)
        return torch.where(half > 0.01, mass, density)

    def cdf(self, values: Tensor) -> Tensor:
        return super().cdf(values + 0.5 * self.cell)

    def icdf(self, u: Tensor) -> Tensor:
        steps = torch.round((super().icdf(u) - self.origin) / self.cell)
        return self.origin + steps * self.cell


class Gaussian(Likelihood):
    """Normal likelihood with a learned standard deviation.

    Parameters
    ----------
    scale : {"shared", "column", "row"}
        One σ for all columns (in standardised units; with linear networks this is probabilistic PCA,
        Tipping & Bishop 1999), one per column (factor analysis), or one per entry, predicted by the decoder.
    rounded : bool
        Score whole numbers by the probability of their rounding cell instead of a density, which could grow
        without bound on a repeated value.
    """

    alias = "gaussian"
    log_unit: Tensor
    lower: Tensor
    cell: Tensor
    origin: Tensor

    def __init__(self, scale: str = "shared", rounded: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.rounded = rounded

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        return frozenset({Kind.INTEGER}) if self.rounded else NUMERIC

    def bind(self, columns: Sequence[Column]) -> Gaussian:
        if self.scale not in SCALES:
            raise ValueError(f"Gaussian(scale={self.scale!r}) is not understood; expected one of {SCALES}")
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

    def forward(self, params: Tensor) -> Normal:
        mean, raw = params.chunk(2, dim=-1) if self.scale == "row" else (params, self.log_scale)
        if self.rounded:
            log_scale = soft_limit(raw, self.lower, _LOG_SCALE_LIMIT)
            return RoundedNormal(mean, log_scale, self.cell, self.origin)
        return Normal(mean, soft_limit(raw, -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT), self.log_unit)
