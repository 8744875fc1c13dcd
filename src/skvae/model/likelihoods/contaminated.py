"""A normal likelihood that an outlier cannot break."""

from __future__ import annotations

import copy
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
    here it costs about −log ε, and its gradient vanishes instead of exploding.

    Parameters
    ----------
    core : Normal
        N(μ, σ²), rounded or not; the broad component is of the same type.
    share : float
        ε.
    """

    def __init__(self, core: Normal, share: float) -> None:
        self.core, self.share = core, share

    def _broad(self, like: Tensor) -> Normal:
        broad = copy.copy(self.core)
        broad.set(torch.zeros_like(like), like.new_full((1,), _BROAD))
        return broad

    def log_prob(self, values: Tensor) -> Tensor:
        core = self.core.log_prob(values) + math.log1p(-self.share)
        broad = self._broad(values).log_prob(values) + math.log(self.share)
        return torch.logaddexp(core, broad)

    @property
    def mean(self) -> Tensor:
        return (1 - self.share) * self.core.mean

    def centre(self, weights: Tensor) -> Tensor:
        return (1 - self.share) * self.core.centre(weights)

    def cdf(self, values: Tensor) -> Tensor:
        return torch.lerp(self.core.cdf(values), self._broad(values).cdf(values), self.share)

    def icdf(self, u: Tensor) -> Tensor:
        broad = self._broad(u)
        # The quantile of a mixture lies between those of its components.
        ends = torch.stack([Normal.icdf(self.core, u), Normal.icdf(broad, u)])

        def cdf(x: Tensor) -> Tensor:
            return torch.lerp(Normal.cdf(self.core, x), Normal.cdf(broad, x), self.share)

        return self.core.snap(bisect(cdf, u, ends.amin(0), ends.amax(0)))
