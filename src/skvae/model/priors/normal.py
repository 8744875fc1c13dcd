"""Normal priors, and their divergences from normal posteriors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skvae.model.likelihoods.base import soft_limit
from skvae.model.posteriors.normal import (
    LOG_SCALE_LIMIT,
    FullNormalPosterior,
    NormalFamily,
    NormalPosterior,
    standard_normal_log_prob,
)
from skvae.model.priors.base import Prior, register_kl


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
def _kl_conditional(q: NormalFamily, prior: ConditionalNormal, context: Tensor | None) -> Tensor:
    """The same in units of the prior's σ, about its mean."""
    p = prior.at(context)
    return 0.5 * (((q.mean - p.mean).square() + q.variance) / p.variance - 1) + p.log_scale - q.log_scale
