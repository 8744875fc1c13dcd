"""A normal likelihood that an outlier cannot break."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.model.likelihoods.base import Distribution, bisect
from skvae.model.likelihoods.normal import Normal

# The broad component spans the whole column: three of its standard deviations.
_BROAD = math.log(3.0)


class Contaminated(Distribution):
    """(1 − ε) N(μ, σ²) + ε N(0, 3²), in standardised units (Tukey 1960, the contaminated normal).

    Where σ has become small, an entry far from μ costs a normal density (x − μ)² / 2σ² nats, without limit;
    here it costs about −log ε, and its gradient vanishes instead of exploding. `mean` is that of the mixture,
    (1 − ε) μ, as are all other answers.

    Parameters
    ----------
    core : Normal
        N(μ, σ²).
    share : float
        ε.
    """

    def __init__(self, core: Normal, share: float) -> None:
        self.core, self.share = core, share
        self.log_unit = core.log_unit

    def _broad(self, like: Tensor) -> Normal:
        return Normal(torch.zeros_like(like), like.new_full((1,), _BROAD), self.core.log_unit)

    def _mix(self, core: Tensor, broad: Tensor) -> Tensor:
        return torch.logaddexp(core + math.log1p(-self.share), broad + math.log(self.share))

    def log_prob(self, values: Tensor) -> Tensor:
        return self._mix(self.core.log_prob(values), self._broad(values).log_prob(values))

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        return self._mix(self.core.log_cell_prob(values, half), self._broad(values).log_cell_prob(values, half))

    @property
    def mean(self) -> Tensor:
        return (1 - self.share) * self.core.mean

    def cdf(self, values: Tensor) -> Tensor:
        return torch.lerp(self.core.cdf(values), self._broad(values).cdf(values), self.share)

    def icdf(self, u: Tensor) -> Tensor:
        # The quantile of a mixture lies between those of its components.
        ends = torch.stack([self.core.icdf(u), self._broad(u).icdf(u)])
        return bisect(self.cdf, u, ends.amin(0), ends.amax(0))
