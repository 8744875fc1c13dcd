"""Normal priors, and their divergences from normal posteriors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.model.likelihoods.base import soft_limit
from skvae.model.posteriors.normal import (
    LOG_SCALE_LIMIT,
    FullNormalPosterior,
    NormalFamily,
    NormalPosterior,
    standard_normal_log_prob,
)
from skvae.model.priors.base import Prior, register_kl

if TYPE_CHECKING:
    from skvae.model.heads import Head

# Quantiles of y over which it is averaged out.
_N_GRID = 64


class StandardNormal(Prior):
    """N(0, I)."""

    alias = "normal"

    def __init__(self) -> None:
        super().__init__()

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return standard_normal_log_prob(z)

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        return eps


class ConditionalNormal(Prior):
    """N(W c + b, diag σ²) given a context c, N(0, I) at first.

    The linear prior of a conditional VAE (Sohn, Lee & Yan 2015, where it is a network).
    """

    alias = "conditional"

    def __init__(self) -> None:
        super().__init__()

    def bind(self, latent_dim: int, n_context: int = 0) -> ConditionalNormal:
        if n_context == 0:
            raise ValueError(
                "prior='conditional' depends on a context, and this model has none; use prior='normal', or an "
                "estimator that is fitted with y"
            )
        super().bind(latent_dim, n_context)
        self.linear = nn.Linear(n_context, latent_dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.raw_log_scale = nn.Parameter(torch.zeros(latent_dim))
        return self

    def at(self, context: Tensor | None) -> NormalPosterior:
        """The distribution given each row of `context` [..., n_context]."""
        if context is None:
            raise ValueError("prior='conditional' needs the context of each row; pass context")
        log_scale = soft_limit(self.raw_log_scale, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        return NormalPosterior(self.linear(context), log_scale)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.at(context).log_prob(z)

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        return self.at(context).rsample(eps)


class DirectedNormal(Prior):
    """N(Σ_t u_t y_t + b, σ² I) given standardised targets y [..., T], each u_t of length 1.

    The prior of Zhao, Adeli, Honnorat, Leng & Pohl (2019, section 2.1), for any number of targets. Without a
    context y is averaged out, over evenly spaced quantiles of its own distribution.

    Attributes
    ----------
    marginal : Head
        p(y).
    """

    marginal: Head

    def __init__(self) -> None:
        super().__init__()

    @property
    def n_noise(self) -> int:
        return self.latent_dim + self.raw_direction.shape[0]

    @property
    def width(self) -> int:  # type: ignore[override]
        return 2 * _N_GRID

    def bind(self, latent_dim: int, n_context: int = 0) -> DirectedNormal:
        super().bind(latent_dim, n_context)
        self.raw_direction = nn.Parameter(torch.randn(n_context, latent_dim))
        self.centre = nn.Parameter(torch.zeros(latent_dim))
        self.raw_log_scale = nn.Parameter(torch.zeros(1))
        engine = torch.quasirandom.SobolEngine(n_context)
        u = (engine.draw(_N_GRID) + 0.5 / _N_GRID).clamp(max=1 - 0.5 / _N_GRID)
        self.register_buffer("grid", u.unsqueeze(0), persistent=False)  # [1, M, T]
        return self

    @property
    def direction(self) -> Tensor:
        """u, [T, D]."""
        return F.normalize(self.raw_direction, dim=1)

    def at(self, context: Tensor) -> NormalPosterior:
        """The distribution given each row of `context` [..., T]."""
        log_scale = soft_limit(self.raw_log_scale, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        mean = context @ self.direction + self.centre
        return NormalPosterior(mean, log_scale.expand(mean.shape[-1]))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        if context is not None:
            return self.at(context).log_prob(z)
        y = self.marginal(self.grid).icdf(self.grid)[0]  # [M, T]
        of_each = self.at(y)
        wide = NormalPosterior(of_each.mean, of_each.log_scale.expand_as(of_each.mean))
        return wide.log_prob_by_row(z).logsumexp(-1) - math.log(_N_GRID)

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        noise, for_target = eps.split([self.latent_dim, self.raw_direction.shape[0]], dim=-1)
        if context is None:
            u = torch.special.ndtr(for_target).clamp(1e-6, 1 - 1e-6)
            flat = u.flatten(0, -2).unsqueeze(0)
            context = self.marginal(flat).icdf(flat).reshape(u.shape)
        return self.at(context).rsample(noise)


@register_kl(NormalPosterior, StandardNormal)
def _kl_diagonal_standard(q: NormalPosterior, prior: StandardNormal, context: Tensor | None) -> Tensor:
    """½ (μ² + σ² − 1) − log σ (Kingma & Welling 2014, appendix B)."""
    mean_part = torch.addcmul(-0.5 - q.log_scale, q.mean, q.mean, value=0.5)
    return torch.addcmul(mean_part, q.scale, q.scale, value=0.5)


@register_kl(FullNormalPosterior, StandardNormal)
def _kl_full_standard(q: FullNormalPosterior, prior: StandardNormal, context: Tensor | None) -> Tensor:
    """½ (μ_j² + Σ_k L_jk² − 1) − log L_jj.

    The chain rule over dimensions: z_j given z_1 … z_{j−1} is normal with deviation L_jj about a mean whose
    square is μ_j² + Σ_{k<j} L_jk² on average.
    """
    return 0.5 * (q.mean.square() + q.variance - 1) - q.log_scale


@register_kl(NormalPosterior, ConditionalNormal)
@register_kl(FullNormalPosterior, ConditionalNormal)
@register_kl(NormalPosterior, DirectedNormal)
@register_kl(FullNormalPosterior, DirectedNormal)
def _kl_conditional(
    q: NormalFamily, prior: ConditionalNormal | DirectedNormal, context: Tensor | None
) -> Tensor | None:
    """The same in units of the prior's σ, about its mean."""
    if context is None and isinstance(prior, DirectedNormal):
        return None  # a mixture
    p = prior.at(context)  # type: ignore[arg-type]
    return 0.5 * (((q.mean - p.mean).square() + q.variance) / p.variance - 1) + p.log_scale - q.log_scale
