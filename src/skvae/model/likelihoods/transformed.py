"""Normal variables seen through a smooth increasing map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skvae.model.likelihoods.base import Distribution
from skvae.model.likelihoods.normal import Normal

# In t: the width below which that of a cell is taken from the slope of the map.
_NARROW = 1e-3
# Half the width given to a cell outside the map's domain, whose logarithm has a gradient.
_EMPTY = 1e-30


class IncreasingMap(nn.Module):
    """A smooth strictly increasing map t of the standardised values of each column."""

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """t(x) and log t'(x) of `values` [..., C]; log t' is −∞ where x is outside the map's domain."""
        raise NotImplementedError

    def inverse(self, t: Tensor) -> Tensor:
        """x with t(x) = `t` [..., C]."""
        raise NotImplementedError

    def expectation(self, mean: Tensor, scale: Tensor) -> Tensor:
        """E x for t(x) normal with `mean` and `scale` [..., C]."""
        raise NotImplementedError


class Transformed(Distribution):
    """x with t(x) normal, for an increasing map t; the density is that of t times t'.

    Parameters
    ----------
    core : Normal
        Of t.
    increasing : IncreasingMap
    """

    def __init__(self, core: Normal, increasing: IncreasingMap) -> None:
        self.core, self.map = core, increasing
        self.log_unit = core.log_unit

    def log_prob(self, values: Tensor) -> Tensor:
        t, log_slope = self.map(values)
        return self.core.log_prob(t) + log_slope

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        middle, log_slope = self.map(values)
        lower, upper = self.map(values - half)[0], self.map(values + half)[0]
        is_narrow = upper - lower < _NARROW
        middle = torch.where(is_narrow, middle, 0.5 * (lower + upper))
        half = torch.where(is_narrow, half * log_slope.exp(), 0.5 * (upper - lower))
        return self.core.log_cell_prob(middle, half.clamp(min=_EMPTY))

    @property
    def mean(self) -> Tensor:
        return self.map.expectation(self.core.mean, self.core.scale)

    def cdf(self, values: Tensor) -> Tensor:
        return self.core.cdf(self.map(values)[0])

    def icdf(self, u: Tensor) -> Tensor:
        return self.map.inverse(self.core.icdf(u))
