"""Likelihoods of counts: whole numbers from 0 on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.data.columns import Column, Kind
from skvae.model.likelihoods.base import Distribution, Likelihood, bisect, soft_limit
from skvae.model.likelihoods.incomplete_beta import log_cdf, stirling_error

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# A mean lies within e^±15 times the column's.
_LOG_MEAN_LIMIT = 15.0
# Log of the size r of a negative binomial: at the upper end it is as good as Poisson.
_LOG_SIZE_LIMITS = (-7.0, 12.0)


class CountColumns(Distribution):
    """Counts with mean μ.

    `log_prob` is that of a count at its own mean less half the deviance, k log(k/μ) − (k − μ) for Poisson
    (Loader 2000): log-gamma functions of large counts would leave no digits in float32.

    Parameters
    ----------
    log_mean : Tensor [S, B, C]
        log μ.
    offset, scale : Tensor [C]
        Of the standardisation: values are (count − offset) / scale.
    """

    def __init__(self, log_mean: Tensor, offset: Tensor, scale: Tensor) -> None:
        self.log_mean, self.offset, self.scale = log_mean, offset, scale

    def _at(self, count: Tensor) -> Tensor:
        """Log mass of whole counts ≥ 0, [S, B, C]."""
        raise NotImplementedError

    def _cdf(self, count: Tensor) -> Tensor:
        """P(x ≤ count) for whole counts ≥ 0."""
        raise NotImplementedError

    def _upper(self) -> Tensor:
        """A count that is exceeded with a probability below 2⁻²⁴."""
        raise NotImplementedError

    def log_prob(self, values: Tensor) -> Tensor:
        count = torch.round(values * self.scale + self.offset)
        return torch.where(count < 0, -torch.inf, self._at(count.clamp(min=0.0)))

    @property
    def mean(self) -> Tensor:
        return (torch.exp(self.log_mean) - self.offset) / self.scale

    def cdf(self, values: Tensor) -> Tensor:
        # Rounded down, with some allowance for the inexactness of standardised counts.
        count = torch.floor(values * self.scale + self.offset + 0.01)
        return torch.where(count < 0, 0.0, self._cdf(count.clamp(min=0.0).expand_as(self.log_mean)))

    def icdf(self, u: Tensor) -> Tensor:
        def cdf(x: Tensor) -> Tensor:
            return torch.where(x < 0, 0.0, self._cdf(torch.floor(x).clamp(min=0.0)))

        upper = self._upper()
        # The cdf is a staircase and passes u at a whole count; an interval shorter than ½ leaves one.
        steps = int(torch.log2(upper.max())) + 3
        count = torch.round(bisect(cdf, u, torch.full_like(upper, -1.0), upper, steps)).clamp(min=0.0)
        return (count - self.offset) / self.scale


class PoissonColumns(CountColumns):
    """Poisson counts."""

    def _at(self, count: Tensor) -> Tensor:
        ratio, excess = _distance(count, self.log_mean)
        positive = count.clamp(min=1.0)
        at_mean = -_HALF_LOG_2PI - 0.5 * positive.log() - stirling_error(positive)
        return at_mean.masked_fill(count < 1, 0.0) - count * ratio - excess

    def _cdf(self, count: Tensor) -> Tensor:
        return torch.special.gammaincc(count + 1.0, torch.exp(self.log_mean))

    def _upper(self) -> Tensor:
        return _poisson_upper(torch.exp(self.log_mean))


class NegativeBinomialColumns(CountColumns):
    """Counts with variance μ + μ²/r.

    Parameters
    ----------
    log_size : Tensor [C]
        log r.
    """

    def __init__(self, log_mean: Tensor, log_size: Tensor, offset: Tensor, scale: Tensor) -> None:
        super().__init__(log_mean, offset, scale)
        self.log_size = log_size

    @property
    def size(self) -> Tensor:
        return torch.exp(self.log_size)

    def _at(self, count: Tensor) -> Tensor:
        return _NegativeBinomialMass.apply(self.log_mean, self.log_size, count)[0]

    def _cdf(self, count: Tensor) -> Tensor:
        # P(x ≤ k) = I_p(r, k + 1) with p = r / (r + μ). Large counts leave float32 no digits.
        wide = count.dtype if count.device.type == "mps" else torch.float64
        log_ratio = (self.log_mean - self.log_size).to(wide)
        at = self.size.to(wide), count.to(wide) + 1.0, F.logsigmoid(-log_ratio), F.logsigmoid(log_ratio)
        return log_cdf(*torch.broadcast_tensors(*at))[0].exp().to(count.dtype)

    def _upper(self) -> Tensor:
        # A Poisson variable whose rate is a gamma variable; by the bound of Laurent & Massart (2000), lemma 1.
        size = self.size
        gamma = size + torch.sqrt(2 * 18.0 * size) + 18.0
        return _poisson_upper(torch.exp(self.log_mean) * gamma / size)


class CountLikelihood(Likelihood):
    """Counts whose mean μ is predicted: log μ relative to the log of the column's mean."""

    kinds = frozenset({Kind.INTEGER})
    offset: Tensor
    scale: Tensor

    def check(self, columns: Sequence[Column]) -> None:
        super().check(columns)
        for column in columns:
            if column.lower < 0:
                raise ValueError(
                    f"likelihood {self!r} scores counts, and column '{column.name}' goes down to {column.lower:g}; "
                    "shift it to start at 0, or use likelihood='auto' or 'gaussian' for it"
                )

    def bind(self, columns: Sequence[Column]) -> Self:
        self.n_params = len(columns)
        self.register_buffer("offset", torch.tensor([column.offset for column in columns]), persistent=False)
        self.register_buffer("scale", torch.tensor([column.scale for column in columns]), persistent=False)
        return self

    def _log_mean(self, params: Tensor) -> Tensor:
        return self.offset.log() + soft_limit(params, -_LOG_MEAN_LIMIT, _LOG_MEAN_LIMIT)


class Poisson(CountLikelihood):
    """Counts of independent events: variance equal to the mean, which is predicted per entry."""

    alias = "poisson"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, params: Tensor) -> PoissonColumns:
        return PoissonColumns(self._log_mean(params), self.offset, self.scale)


class NegativeBinomial(CountLikelihood):
    """Counts that vary more than independent events: variance μ + μ²/r.

    The mean μ is predicted per entry, the size r learned per column (the form "NB2" of Cameron & Trivedi 2013,
    equation 3.26, with α = 1/r). As r grows it becomes Poisson.
    """

    alias = "negative-binomial"

    def __init__(self) -> None:
        super().__init__()

    def bind(self, columns: Sequence[Column]) -> NegativeBinomial:
        super().bind(columns)
        # At the start, what gives each column its variance at its mean.
        sizes = [c.offset**2 / max(c.scale**2 - c.offset, 1e-3 * c.offset) for c in columns]
        self.log_size = nn.Parameter(torch.tensor(sizes).log().clamp(-4.0, 6.0))
        return self

    def forward(self, params: Tensor) -> NegativeBinomialColumns:
        log_size = soft_limit(self.log_size, *_LOG_SIZE_LIMITS)
        return NegativeBinomialColumns(self._log_mean(params), log_size, self.offset, self.scale)


class _NegativeBinomialMass(torch.autograd.Function):
    """Log mass of counts k [B, C] for log μ [S, B, C] and log r [C].

    The derivatives are written out because forty small operations cost more to record than to do.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(log_mean: Tensor, log_size: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size, mean = torch.exp(log_size), torch.exp(log_mean)
        ratio, excess = _distance(count, log_mean)
        positive = count.clamp(min=1.0)
        total, both = count + size, mean + size
        of_total, of_size, of_count = stirling_error(torch.stack([total, size.expand_as(total), positive]))
        spread = 0.5 * torch.log(positive * (total / size)) + _HALF_LOG_2PI
        at_mean = (of_total - of_size - of_count - spread).masked_fill(count < 1, 0.0)
        # Half the deviance, k log(k/μ) − (k + r) log((k + r) / (μ + r)), as k · rise + r · growth: both are small
        # where r is.
        far = torch.log(both / total)
        growth = _log1p(excess / total, far)  # log (μ + r) / (k + r)
        rise = _log1p(torch.expm1(ratio) * (size / total), ratio + far)  # log k/μ + log (μ + r) / (k + r)
        relative = excess / both
        of_gamma = _digamma_error(total) - _digamma_error(size.expand_as(total))
        by_log_size = size * (of_gamma - growth + relative)
        return at_mean - count * rise - size * growth, -size * relative, by_log_size

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        by_log_mean, by_log_size = ctx.saved_tensors
        return grad * by_log_mean, (grad * by_log_size).flatten(0, -2).sum(0), None


def _distance(count: Tensor, log_mean: Tensor) -> tuple[Tensor, Tensor]:
    """log(k/μ) (of no meaning for k = 0) and μ − k, [S, B, C]."""
    positive = count.clamp(min=1.0)
    ratio = positive.log() - log_mean
    return ratio, torch.where(count > 0, positive * torch.expm1(-ratio), torch.exp(log_mean))


def _log1p(x: Tensor, far: Tensor) -> Tensor:
    """log(1 + x), or `far`, which is the same, where 1 + x would lose its digits."""
    return torch.where(x < -0.5, far, torch.log1p(x.clamp(min=-0.75)))


def _digamma_error(x: Tensor) -> Tensor:
    """ψ(x) − log x, which is small where both are large."""
    large = x.clamp(min=8.0)
    inverse = 1.0 / large.square()
    series = -0.5 / large - inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252)))
    small = x.clamp(max=8.0)
    return torch.where(x > 8.0, series, torch.digamma(small) - small.log())


def _poisson_upper(rate: Tensor) -> Tensor:
    """A count that a Poisson variable exceeds with a probability below 2⁻²⁴."""
    return rate + 8.0 * torch.sqrt(rate) + 25.0
