"""Likelihoods of columns with bounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from skvae.data.columns import Column
from skvae.model.likelihoods import incomplete_beta
from skvae.model.likelihoods.base import Distribution, soft_limit
from skvae.model.likelihoods.continuous import Continuous, standardised

# log a and log b.
_LOG_LIMITS = (-2.0, 9.0)
# Share of the range by which it is widened at least.
_MARGIN = 1e-3
_SMALLEST = 1e-7


class BetaColumns(Distribution):
    """l + w y with y of a Beta(a, b) distribution, in standardised units.

    Parameters
    ----------
    log_a, log_b : Tensor [S, B, C]
    lower, log_width : Tensor [C]
        l and log w.
    log_unit : Tensor [C]
        Log of the columns' standard deviations in the data's units.
    """

    log_unit: Tensor

    def __init__(self, log_a: Tensor, log_b: Tensor, lower: Tensor, log_width: Tensor, log_unit: Tensor) -> None:
        self.log_a, self.log_b = log_a, log_b
        self.lower, self.log_width, self.log_unit = lower, log_width, log_unit

    def _share(self, values: Tensor) -> Tensor:
        """y."""
        return (values - self.lower) * torch.exp(-self.log_width)

    def log_prob(self, values: Tensor) -> Tensor:
        y = self._share(values)
        inside = y.clamp(_SMALLEST, 1 - _SMALLEST)
        log_y, log_rest = inside.log(), torch.log1p(-inside)
        by_logit = incomplete_beta.log_density(self.log_a.exp(), self.log_b.exp(), log_y, log_rest)
        jacobian = torch.where((y > 0) & (y < 1), log_y + log_rest + self.log_width + self.log_unit, torch.inf)
        return by_logit - jacobian

    @property
    def mean(self) -> Tensor:
        return self.lower + self.log_width.exp() * torch.sigmoid(self.log_a - self.log_b)

    def cdf(self, values: Tensor) -> Tensor:
        y = self._share(values)
        inside = y.clamp(_SMALLEST, 1 - _SMALLEST)
        log_below = incomplete_beta.log_cdf(self.log_a.exp(), self.log_b.exp(), inside.log(), torch.log1p(-inside))[0]
        return torch.where(y >= 1, 1.0, torch.where(y <= 0, 0.0, log_below.exp()))

    def icdf(self, u: Tensor) -> Tensor:
        a, b = self.log_a.exp().expand_as(u), self.log_b.exp().expand_as(u)
        return self.lower + self.log_width.exp() * torch.sigmoid(incomplete_beta.icdf(a, b, u, 1 - u))


class Beta(Continuous):
    """A Beta distribution on the range of the column seen at fit: shares, scores, everything with two bounds.

    The range is widened by half a resolution, and by a thousandth at least, on either side, so that an entry at
    its end has a finite density; beyond, the density is 0 and its logarithm −∞. Predicted per entry are the
    mean and the precision a + b (Ferrari & Cribari-Neto 2004, equation 4).
    """

    alias = "beta"
    lower: Tensor
    log_width: Tensor
    start: Tensor

    def __init__(self) -> None:
        super().__init__()

    def bind(self, columns: Sequence[Column]) -> Beta:
        self.n_params = 2 * len(columns)
        margin = [max(0.5 * c.resolution, _MARGIN * (c.upper - c.lower)) for c in columns]
        ends = [(c.lower - m, c.upper + m) for c, m in zip(columns, margin, strict=True)]
        lower, upper = standardised(ends, columns).T
        # At the start the mean and the variance of the column, which are 0 and 1.
        mean = -lower / (upper - lower)
        precision = (mean * (1 - mean) * (upper - lower).square() - 1).clamp(min=0.5)
        start = torch.stack([torch.logit(mean), precision.log()])
        self.register_buffer("lower", lower.float(), persistent=False)
        self.register_buffer("log_width", (upper - lower).log().float(), persistent=False)
        self.register_buffer("start", start.float(), persistent=False)
        return super().bind(columns)

    def forward(self, params: Tensor) -> BetaColumns:
        logit, log_precision = (params.unflatten(-1, (2, -1)) + self.start).unbind(-2)
        log_a = soft_limit(F.logsigmoid(logit) + log_precision, *_LOG_LIMITS)
        log_b = soft_limit(F.logsigmoid(-logit) + log_precision, *_LOG_LIMITS)
        return BetaColumns(log_a, log_b, self.lower, self.log_width, self.log_unit)
