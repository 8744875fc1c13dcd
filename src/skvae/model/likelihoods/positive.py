"""Likelihoods of positive columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skvae.data.columns import Column, Kind
from skvae.model.likelihoods.base import Distribution, soft_limit
from skvae.model.likelihoods.continuous import Continuous, standardised
from skvae.model.likelihoods.normal import Normal
from skvae.model.likelihoods.transformed import IncreasingMap, Transformed

# log σ of the logarithm in units of its own deviation: a σ much above that would have no finite mean to speak of.
_LOG_SCALE_LIMITS = (-5.0, 1.0)
# What is left of the smallest positive value where float32 cannot tell an entry from 0.
_FLOOR = 1e-3
_LARGEST_EXPONENT = 80.0


class LogMap(IncreasingMap):
    """t = (log v − m) / s for v the value in the data's units, over the column's scale.

    Parameters
    ----------
    zero : Tensor [C]
        The standardised value of 0.
    floor : Tensor [C]
        The smallest v.
    log_mean, log_deviation : Tensor [C]
        m and s.
    """

    zero: Tensor
    floor: Tensor
    log_mean: Tensor
    log_deviation: Tensor

    def __init__(self, zero: Tensor, floor: Tensor, log_mean: Tensor, log_deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("zero", zero, persistent=False)
        self.register_buffer("floor", floor, persistent=False)
        self.register_buffer("log_mean", log_mean, persistent=False)
        self.register_buffer("log_deviation", log_deviation, persistent=False)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        positive = values - self.zero
        log_value = torch.maximum(positive, self.floor).log()
        log_slope = -log_value - self.log_deviation.log()
        # Rounding errors of a standardised value do not make it negative.
        is_negative = positive < -1e-6 * self.zero.abs().clamp(min=1.0)
        t = (log_value - self.log_mean) / self.log_deviation
        return t, torch.where(is_negative, -torch.inf, log_slope)

    def inverse(self, t: Tensor) -> Tensor:
        return self.zero + torch.exp((self.log_mean + self.log_deviation * t).clamp(max=_LARGEST_EXPONENT))

    def expectation(self, mean: Tensor, scale: Tensor) -> Tensor:
        """exp(m + s μ + (s σ)² / 2)."""
        return self.inverse(mean + 0.5 * self.log_deviation * scale.square())


class LogNormal(Continuous):
    """Strictly positive columns whose logarithm is normal, with mean and deviation predicted per entry.

    An entry below a thousandth of the smallest at fit is scored as that thousandth, and one below 0 by a
    density of 0.

    Parameters
    ----------
    rounded : bool
        Score whole numbers by the probability of their rounding cell, as in `Gaussian`.
    """

    alias = "log-normal"

    def __init__(self, rounded: bool = False) -> None:
        super().__init__(rounded)

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        return super().kinds - {Kind.DATE}

    def check(self, columns: Sequence[Column]) -> None:
        super().check(columns)
        for column in columns:
            if column.lower <= 0:
                raise ValueError(
                    f"likelihood {self!r} cannot score column '{column.name}', whose smallest value is "
                    f"{column.lower:g}; it scores values above 0: use likelihood='auto', or "
                    "Spikes(rest='log-normal') for a column of zeros and positive values"
                )

    def bind(self, columns: Sequence[Column]) -> LogNormal:
        self.n_params = 2 * len(columns)
        zero = standardised([(0.0,)] * len(columns), columns).squeeze(1)
        log_unit = torch.tensor([column.scale for column in columns], dtype=torch.float64).log()
        smallest, mean, deviation = torch.tensor([_logarithms(c) for c in columns], dtype=torch.float64).T
        floor = _FLOOR * torch.exp(smallest - log_unit)
        self.map = LogMap(zero.float(), floor.float(), (mean - log_unit).float(), deviation.float())
        return super().bind(columns)

    def forward(self, params: Tensor) -> Distribution:
        mean, raw = params.chunk(2, dim=-1)
        normal = Normal(mean, soft_limit(raw, *_LOG_SCALE_LIMITS), self.log_unit)
        return self.finished(Transformed(normal, self.map))


def _logarithms(column: Column) -> tuple[float, float, float]:
    """Smallest, mean and standard deviation of the logarithms of a column's positive values."""
    logs = np.log([value for value in (column.lower, *column.quantiles, column.upper) if value > 0])
    if len(logs) < 5:  # hardly any quantile is positive, or none is known
        return float(logs.min()), float(logs.max()) - 1.0, 1.0
    return float(logs.min()), float(logs.mean()), max(float(logs.std()), 1e-3)
