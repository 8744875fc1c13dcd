"""q(z | x): approximate posteriors."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from skvae.model.component import Component
from skvae.model.likelihoods.base import soft_limit

_LOG_2PI = math.log(2 * math.pi)
# σ of a latent from e^-6 to e^6.
_LOG_VAR_LIMIT = 12.0


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
    mean, log_var : Tensor [B, D]
    """

    def __init__(self, mean: Tensor, log_var: Tensor) -> None:
        self.mean, self.log_var = mean, log_var

    def rsample(self, eps: Tensor) -> Tensor:
        """z = μ + σ ε for `eps` [S, B, D] or [S, 1, D] (noise shared by all rows); [S, B, D]."""
        return self.mean + torch.exp(0.5 * self.log_var) * eps

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of `z` [S, B, D], [S, B]."""
        squared = (z - self.mean).square() * torch.exp(-self.log_var)
        return -0.5 * (squared + self.log_var + _LOG_2PI).sum(-1)

    def detach(self) -> NormalPosterior:
        """The same with parameters that carry no gradient."""
        return NormalPosterior(self.mean.detach(), self.log_var.detach())


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
        return NormalPosterior(mean, soft_limit(raw, -_LOG_VAR_LIMIT, _LOG_VAR_LIMIT))
