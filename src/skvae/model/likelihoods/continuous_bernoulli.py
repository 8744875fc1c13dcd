"""Values in [0, 1] by the continuous Bernoulli distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skvae.data.columns import Column
from skvae.model.likelihoods.base import Distribution
from skvae.model.likelihoods.categorical import check_shares, full_scale
from skvae.model.likelihoods.continuous import Continuous

# Half the logit, in size, below which series take the place of closed forms that cancel; and one of the quantiles.
_NEAR, _NEAR_UNIFORM = 0.5, 1e-3


class ContinuousBernoulliColumns(Distribution):
    """p(x) ∝ λ^x (1 − λ)^(1 − x) on [0, 1], which is η e^(η x) / (e^η − 1) for the logit η of λ.

    Parameters
    ----------
    logits : Tensor [S, B, C]
        η.
    offset, scale : Tensor [C]
        The values are (top · x − offset) / scale.
    log_unit : Tensor [C]
        log scale.
    top : Tensor [C]
        What 1 stands for, in the data's units.
    """

    log_unit: Tensor

    def __init__(self, logits: Tensor, offset: Tensor, scale: Tensor, log_unit: Tensor, top: Tensor) -> None:
        self.logits, self.offset, self.scale, self.log_unit, self.top = logits, offset, scale, log_unit, top

    def _share(self, values: Tensor) -> Tensor:
        """x."""
        return (values * self.scale + self.offset) / self.top

    def _value(self, share: Tensor) -> Tensor:
        return (share * self.top - self.offset) / self.scale

    def log_prob(self, values: Tensor) -> Tensor:
        x = self._share(values).clamp(0.0, 1.0)
        return self.logits * (x - 0.5) - _log_sinh_ratio(0.5 * self.logits) - self.top.log()

    @property
    def mean(self) -> Tensor:
        return self._value(0.5 + 0.5 * _langevin(0.5 * self.logits))

    def cdf(self, values: Tensor) -> Tensor:
        x = self._share(values).clamp(0.0, 1.0)
        # Of the density that falls, (1 − e^(−a t)) / (1 − e^(−a)); one that rises is its mirror image.
        rises = self.logits > 0
        t = torch.where(rises, 1 - x, x)
        a = self.logits.abs()
        ratio = torch.expm1(-a * t) / torch.expm1(-a).clamp(max=-1e-30)
        below = torch.where(a < _NEAR_UNIFORM, t + 0.5 * a * t * (1 - t), ratio)
        return torch.where(rises, 1 - below, below)

    def icdf(self, u: Tensor) -> Tensor:
        rises = self.logits > 0
        u = torch.where(rises, 1 - u, u)
        a = self.logits.abs()
        exact = -torch.log1p(u * torch.expm1(-a)) / a.clamp(min=1e-30)
        t = torch.where(a < _NEAR_UNIFORM, u - 0.5 * a * u * (1 - u), exact).clamp(0.0, 1.0)
        return self._value(torch.where(rises, 1 - t, t))


class ContinuousBernoulli(Continuous):
    """Numbers in [0, 1], such as grey values, as the density that Bernoulli's formula is proportional to.

    Loaiza-Ganem & Cunningham (2019): the normaliser, which a Bernoulli likelihood of grey values leaves out, is
    what makes it a density. Numbers of type uint8 stand for 255ths. A value beyond the ends counts as the end.
    """

    alias = "continuous-bernoulli"
    offset: Tensor
    unit: Tensor
    top: Tensor

    def __init__(self) -> None:
        super().__init__()

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse columns of another kind, and numbers beyond [0, 1]."""
        super().check(columns)
        check_shares(self, columns)

    def bind(self, columns: Sequence[Column]) -> ContinuousBernoulli:
        self.n_params = len(columns)
        self.register_buffer("offset", torch.tensor([column.offset for column in columns]), persistent=False)
        self.register_buffer("unit", torch.tensor([column.scale for column in columns]), persistent=False)
        self.register_buffer("top", torch.tensor([full_scale(column) for column in columns]), persistent=False)
        return super().bind(columns)

    def forward(self, params: Tensor) -> ContinuousBernoulliColumns:
        return ContinuousBernoulliColumns(params, self.offset, self.unit, self.log_unit, self.top)


def _log_sinh_ratio(y: Tensor) -> Tensor:
    """log(sinh(y) / y), stable everywhere, and so is its derivative."""
    square = y.square().clamp(max=_NEAR**2)
    series = square * (1 / 6 + square * (-1 / 180 + square * (1 / 2835 + square * (-1 / 37800 + square / 467775))))
    size = y.abs().clamp(min=_NEAR)
    closed = size + torch.log(-torch.expm1(-2 * size) / size) - math.log(2.0)
    return torch.where(y.abs() < _NEAR, series, closed)


def _langevin(y: Tensor) -> Tensor:
    """coth(y) − 1 / y, its derivative."""
    small = y.clamp(-_NEAR, _NEAR)
    square = small.square()
    series = small * (1 / 3 + square * (-1 / 45 + square * (2 / 945 + square * (-1 / 4725 + square * 2 / 93555))))
    size = y.abs().clamp(min=_NEAR)
    closed = torch.copysign(1 / torch.tanh(size) - 1 / size, y)
    return torch.where(y.abs() < _NEAR, series, closed)
