"""Mixtures of continuous distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skvae.data.columns import Column
from skvae.model.likelihoods.base import Distribution, bisect
from skvae.model.likelihoods.continuous import Continuous, standardised
from skvae.model.likelihoods.normal import Normal

# Components that start where entries repeat still have this log σ, in standardised units.
_NARROWEST_START = -3.0


class Mixture(Distribution):
    """A mixture of K distributions, entry by entry.

    Parameters
    ----------
    log_share : Tensor [S, B, K, C]
        Log-shares of the components, which sum to 1.
    components : Distribution of shape [S, B, K, C]
    """

    def __init__(self, log_share: Tensor, components: Distribution) -> None:
        self.log_share, self.components = log_share, components
        self.log_unit = components.log_unit

    def log_prob(self, values: Tensor) -> Tensor:
        return (self.log_share + self.components.log_prob(values.unsqueeze(-2))).logsumexp(-2)

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        return (self.log_share + self.components.log_cell_prob(values.unsqueeze(-2), half)).logsumexp(-2)

    @property
    def mean(self) -> Tensor:
        return (self.log_share.exp() * self.components.mean).sum(-2)

    def cdf(self, values: Tensor) -> Tensor:
        return (self.log_share.exp() * self.components.cdf(values.unsqueeze(-2))).sum(-2)

    def icdf(self, u: Tensor) -> Tensor:
        # The quantile of a mixture lies between those of its components.
        ends = self.components.icdf(u.unsqueeze(-2))
        return bisect(self.cdf, u, ends.amin(-2), ends.amax(-2))


class MixtureOfGaussians(Continuous):
    """A mixture of normal distributions, whose shares, means and deviations are predicted per entry.

    Bishop (1994), mixture density networks, equations 22 to 24. The components start spread over the column's
    quantiles, each as wide as its share of them.

    Parameters
    ----------
    n_components : int
    rounded : bool
        Score whole numbers by the probability of their rounding cell, as in `Gaussian`.
    """

    alias = "mixture-of-gaussians"
    mean_start: Tensor
    log_scale_start: Tensor

    def __init__(self, n_components: int = 5, rounded: bool = False) -> None:
        super().__init__(rounded)
        self.n_components = n_components

    def bind(self, columns: Sequence[Column]) -> MixtureOfGaussians:
        n = self.n_components
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"MixtureOfGaussians(n_components={n!r}): expected a whole number ≥ 1")
        self.n_params = 3 * n * len(columns)
        ends = quantiles_at(columns, torch.linspace(0, 1, 2 * n + 1, dtype=torch.float64)).T  # [2K + 1, C]
        width = 0.5 * (ends[2::2] - ends[:-2:2])
        self.register_buffer("mean_start", ends[1::2].float(), persistent=False)
        log_width = width.log().clamp(min=_NARROWEST_START).float()
        self.register_buffer("log_scale_start", log_width if n > 1 else torch.zeros_like(log_width), persistent=False)
        return super().bind(columns)

    def forward(self, params: Tensor) -> Distribution:
        logits, mean, raw = params.unflatten(-1, (3, self.n_components, -1)).unbind(-3)  # [S, B, K, C] each
        normals = Normal(self.mean_start + mean, self.limited(self.log_scale_start + raw), self.log_unit)
        return self.finished(Mixture(logits.log_softmax(-2), normals))


def quantiles_at(columns: Sequence[Column], probability: Tensor) -> Tensor:
    """Standardised quantiles [C, n] of columns; of a normal variable for those of which none are known."""
    normal = torch.special.ndtri(torch.linspace(0, 1, 33, dtype=torch.float64).clamp(1e-3, 1 - 1e-3))
    known = standardised([column.quantiles or (column.offset,) * 33 for column in columns], columns)
    has = torch.tensor([bool(column.quantiles) for column in columns]).unsqueeze(1)
    quantiles = torch.where(has, known, normal)
    position = probability * 32
    below = position.long().clamp(max=31)
    return torch.lerp(quantiles[:, below], quantiles[:, below + 1], (position - below).expand(len(columns), -1))
