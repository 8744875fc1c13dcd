"""Whole numbers as discretised logistic distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from skvae.data.columns import Column, Kind
from skvae.model.checks import check_whole
from skvae.model.likelihoods.base import Distribution, Likelihood, soft_limit
from skvae.model.likelihoods.continuous import standardised
from skvae.model.likelihoods.mixture import Mixture, quantiles_at

# log s in standardised units is at most 5, and at least what leaves a point's neighbours 1/1000 of its mass.
_LOG_SCALE_LIMIT, _SCALES_PER_CELL = 5.0, 16.0


class LogisticColumns(Distribution):
    """A logistic variable, rounded to a grid whose first and last points take the tails.

    An entry beyond the bounds, which has no mass, is scored by its cell as though the grid went on. `mean` and
    `centre` are those of the variable cut to the bounds, before rounding.

    Parameters
    ----------
    location, log_scale : Tensor [..., C]
        In standardised units.
    lower, upper, cell : Tensor [C]
        The bounds and the distance between neighbouring points, in standardised units.
    """

    def __init__(self, location: Tensor, log_scale: Tensor, lower: Tensor, upper: Tensor, cell: Tensor) -> None:
        self.location, self.log_scale = location, log_scale
        self.lower, self.upper, self.cell = lower, upper, cell

    def log_prob(self, values: Tensor) -> Tensor:
        # σ(b) − σ(a) = σ(b) σ(−a) [1 − exp(a − b)] loses no digits, wherever the cell lies; a point that takes a
        # tail has one of these factors alone.
        rate = torch.exp(-self.log_scale)
        centred = (values - self.location) * rate
        half = 0.5 * self.cell * rate
        is_first = (values - self.lower).abs() < 0.5 * self.cell
        is_last = (values - self.upper).abs() < 0.5 * self.cell
        from_below = F.logsigmoid(half + centred).masked_fill(is_last, 0.0)
        from_above = F.logsigmoid(half - centred).masked_fill(is_first, 0.0)
        width = torch.log(-torch.expm1(-2.0 * half)).masked_fill(is_first | is_last, 0.0)
        return from_below + from_above + width

    @property
    def mean(self) -> Tensor:
        # The integral of P(x > t) between the bounds.
        scale = torch.exp(self.log_scale)
        from_lower = F.softplus((self.location - self.lower) / scale)
        from_upper = F.softplus((self.location - self.upper) / scale)
        return self.lower + scale * (from_lower - from_upper)

    def cdf(self, values: Tensor) -> Tensor:
        # Rounded down to the grid, with some allowance for the inexactness of values that lie on it.
        steps = torch.floor((values - self.lower) / self.cell + 0.01)
        edge = self.lower + (steps + 0.5) * self.cell
        below = torch.sigmoid((edge - self.location) * torch.exp(-self.log_scale))
        below = below.masked_fill(values > self.upper - 0.01 * self.cell, 1.0)
        return below.masked_fill(steps < 0, 0.0)

    def icdf(self, u: Tensor) -> Tensor:
        return self.snap(self.location + torch.exp(self.log_scale) * torch.logit(u))

    def snap(self, x: Tensor) -> Tensor:
        """The nearest point of the grid."""
        steps = torch.round((x - self.lower) / self.cell)
        return torch.minimum(self.lower + steps.clamp(min=0.0) * self.cell, self.upper)


class LogisticMixture(Mixture):
    """Several of them, mixed entry by entry."""

    components: LogisticColumns

    def icdf(self, u: Tensor) -> Tensor:
        return self.components.snap(super().icdf(u))  # from the step of the cdf, which is not the point itself


class DiscretisedLogistic(Likelihood):
    """Whole numbers, by the mass of their rounding cells under a mixture of logistic distributions.

    Salimans, Karpathy, Chen & Kingma (2017), section 2.1: all that lies beyond a column's smallest or largest
    value falls to that value, so that a pile of entries at a bound is no outlier.

    Parameters
    ----------
    n_components : int
        Number of logistic distributions that are mixed, with shares, locations and scales per entry. Several
        start spread over the column's quantiles.
    """

    alias = "discretised-logistic"
    kinds = frozenset({Kind.INTEGER})
    start: Tensor
    narrowest: Tensor
    lower: Tensor
    upper: Tensor
    cell: Tensor

    def __init__(self, n_components: int = 1) -> None:
        super().__init__()
        self.n_components = n_components

    def bind(self, columns: Sequence[Column]) -> DiscretisedLogistic:
        check_whole(self, "n_components", 1)
        n = self.n_components
        self.n_params = len(columns) * n * (3 if n > 1 else 2)
        lower, upper, above = standardised([(c.lower, c.upper, c.lower + c.resolution) for c in columns], columns).T
        cell = above - lower
        start = quantiles_at(columns, (torch.arange(n, dtype=torch.float64) + 0.5) / n).T  # [K, C]
        buffers = {
            "start": start if n > 1 else torch.zeros(1, len(columns)),
            "narrowest": torch.log(cell / _SCALES_PER_CELL).clamp(max=-_LOG_SCALE_LIMIT),
            "lower": lower,
            "upper": upper,
            "cell": cell,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.float(), persistent=False)
        return self

    def forward(self, params: Tensor) -> Distribution:
        location, raw, *logits = params.unflatten(-1, (-1, *self.start.shape)).unbind(-3)  # [S, B, K, C] each
        log_scale = soft_limit(raw, self.narrowest, _LOG_SCALE_LIMIT)
        parts = LogisticColumns(self.start + location, log_scale, self.lower, self.upper, self.cell)
        if logits:
            return LogisticMixture(logits[0].log_softmax(-2), parts)
        return LogisticColumns(location.squeeze(-2), log_scale.squeeze(-2), self.lower, self.upper, self.cell)
