"""q(z | x): approximate posteriors."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from skvae.model.component import Component
from skvae.model.likelihoods.base import soft_limit

_LOG_2PI = math.log(2 * math.pi)
# σ of a latent lies between e^-6 and e^6.
_LOG_SCALE_LIMIT = 6.0


class Posterior(Component):
    """Maps the encoder's output to a distribution over z."""

    def bind(self, n_hidden: int, latent_dim: int) -> Self:
        raise NotImplementedError

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> NormalPosterior:
        """Posterior of each row from `hidden` [B, n_hidden]."""
        raise NotImplementedError


class NormalPosterior:
    """N(μ, diag σ²) for each row.

    Parameters
    ----------
    mean, log_scale : Tensor [B, D]
        μ and log σ.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.mean, self.log_scale = mean, log_scale
        self.scale = torch.exp(log_scale)

    def rsample(self, eps: Tensor) -> Tensor:
        """z = μ + σ ε for `eps` [S, B, D] or [S, 1, D] (noise shared by all rows); [S, B, D]."""
        return torch.addcmul(self.mean, self.scale, eps)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of `z` [S, B, D], [S, B]."""
        standardised = (z - self.mean) / self.scale
        return -(0.5 * standardised.square() + self.log_scale + 0.5 * _LOG_2PI).sum(-1)

    def detach(self) -> NormalPosterior:
        """The same with parameters that carry no gradient."""
        return NormalPosterior(self.mean.detach(), self.log_scale.detach())


class DiagonalNormal(Posterior):
    """A normal posterior with independent dimensions (Kingma & Welling 2014, equation 9)."""

    alias = "diagonal"

    def __init__(self) -> None:
        super().__init__()

    def bind(self, n_hidden: int, latent_dim: int) -> DiagonalNormal:
        self.linear = nn.Linear(n_hidden, 2 * latent_dim)
        return self

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> NormalPosterior:
        mean, raw = self.linear(hidden).chunk(2, dim=-1)
        return NormalPosterior(mean, soft_limit(raw, -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT))
