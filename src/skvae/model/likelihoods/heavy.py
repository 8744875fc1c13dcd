"""Likelihoods with heavy tails."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skvae.data.columns import Column
from skvae.model.likelihoods import incomplete_beta
from skvae.model.likelihoods.base import Distribution, soft_limit
from skvae.model.likelihoods.continuous import Continuous

# Degrees of freedom lie above 1, so that there is a mean, and below 150, where the distribution is normal.
_LOG_EXCESS_LIMITS, _LOG_EXCESS_START = (-3.0, 5.0), math.log(4.0)


class StudentTColumns(Distribution):
    """μ + σ t with t of Student's distribution, in standardised units.

    Parameters
    ----------
    df : Tensor [C]
        Degrees of freedom.
    mean, log_scale : Tensor [S, B, C]
        μ and log σ.
    log_unit : Tensor [C]
        Log of the columns' standard deviations in the data's units.
    """

    log_unit: Tensor

    def __init__(self, df: Tensor, mean: Tensor, log_scale: Tensor, log_unit: Tensor) -> None:
        self.df, self._mean, self.log_scale, self.log_unit = df, mean, log_scale, log_unit

    def log_prob(self, values: Tensor) -> Tensor:
        half = 0.5 * (self.df + 1)
        constant = torch.lgamma(half) - torch.lgamma(0.5 * self.df) - 0.5 * torch.log(math.pi * self.df)
        squared = torch.square((values - self._mean) * torch.exp(-self.log_scale))
        return (constant - self.log_unit) - self.log_scale - half * torch.log1p(squared / self.df)

    @property
    def mean(self) -> Tensor:
        return self._mean

    def cdf(self, values: Tensor) -> Tensor:
        t = (values - self._mean) * torch.exp(-self.log_scale)
        # ν / (ν + t²) is a Beta(ν/2, 1/2) variable.
        ratio = (t.square() / self.df).clamp(min=1e-30)
        log_x = -torch.log1p(ratio)
        both_tails = incomplete_beta.log_cdf(0.5 * self.df, torch.full_like(self.df, 0.5), log_x, ratio.log() + log_x)
        tail = 0.5 * both_tails[0].exp()
        return torch.where(t < 0, tail, 1 - tail)

    def icdf(self, u: Tensor) -> Tensor:
        both_tails = 2 * torch.minimum(u, 1 - u)
        half = torch.full_like(u, 0.5)
        logit = incomplete_beta.icdf(0.5 * self.df.expand_as(u), half, both_tails, (1 - both_tails).clamp(min=1e-12))
        t = torch.sqrt(self.df) * torch.exp(-0.5 * logit) * torch.sign(u - 0.5)
        return self._mean + torch.exp(self.log_scale) * t


class StudentT(Continuous):
    """Student's t: a location and a scale predicted per entry, the degrees of freedom learned per column.

    Its tails fall off as a power, so that an entry far out costs the logarithm of its distance (Lange, Little &
    Taylor 1989), and how heavy they are is learned.
    """

    alias = "student-t"

    def __init__(self) -> None:
        super().__init__()

    def bind(self, columns: Sequence[Column]) -> StudentT:
        self.n_params = 2 * len(columns)
        self.log_excess = nn.Parameter(torch.zeros(len(columns)))
        return super().bind(columns)

    def forward(self, params: Tensor) -> StudentTColumns:
        mean, raw = params.chunk(2, dim=-1)
        df = 1 + torch.exp(soft_limit(_LOG_EXCESS_START + self.log_excess, *_LOG_EXCESS_LIMITS))
        return StudentTColumns(df, mean, self.limited(raw), self.log_unit)
