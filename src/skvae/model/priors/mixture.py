"""Mixtures of normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from skvae.model.checks import check, check_whole, is_number
from skvae.model.likelihoods.base import soft_limit
from skvae.model.posteriors.normal import LOG_SCALE_LIMIT, FullNormalPosterior, NormalFamily, NormalPosterior
from skvae.model.priors.base import Prior


class Mixture(Prior):
    """p(z) = Σ_k w_k p_k(z) with normal components.

    One number of the noise of a draw chooses its component.
    """

    def components(self) -> NormalFamily:
        """The K components."""
        raise NotImplementedError

    def log_weights(self) -> Tensor:
        """log w_k, [K]."""
        raise NotImplementedError

    @property
    def n_noise(self) -> int:
        return self.latent_dim + 1

    def log_joint(self, z: Tensor) -> Tensor:
        """log w_k p_k(z) of `z` [..., D], [..., K]; its softmax says how likely each component made z."""
        return self.components().log_prob_by_row(z) + self.log_weights()

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.log_joint(z).logsumexp(-1)

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        noise = eps.flatten(0, -2)  # [n, D + 1]
        cumulative = self.log_weights().detach().exp().cumsum(0)  # [K]
        u = torch.special.ndtr(noise[:, -1]) * cumulative[-1]
        chosen = torch.searchsorted(cumulative, u.contiguous())
        z = self.components().rows(chosen).rsample(noise[:, :-1].unsqueeze(0)).squeeze(0)
        return z.unflatten(0, eps.shape[:-1])


class GaussianMixture(Mixture):
    """A mixture of normals with learned weights, means and covariances.

    With it the model is a deep clustering (Jiang, Zheng, Tan, Tang & Zhou 2017; Dilokthanakul et al. 2016);
    components are summed inside `log_prob`, never drawn in training. They start apart, at draws from N(0, ½ I)
    with variance ½, so that together they are about as wide as the standard normal.

    Parameters
    ----------
    n_components : int
    covariance : {"diagonal", "full"}
        Independent dimensions within a component, or a covariance L Lᵀ of its own.
    min_scale : float
        The smallest σ of a component.
    """

    alias = "mixture"
    below: Tensor

    def __init__(
        self,
        n_components: int = 10,
        covariance: str = "diagonal",
        min_scale: float = math.exp(-LOG_SCALE_LIMIT),
    ) -> None:
        super().__init__()
        self.n_components = n_components
        self.covariance = covariance
        self.min_scale = min_scale

    def bind(self, latent_dim: int, n_context: int = 0) -> GaussianMixture:
        check_whole(self, "n_components", 1)
        check(self, "covariance", lambda v: v in ("diagonal", "full"), "'diagonal' or 'full'")
        check(self, "min_scale", lambda v: is_number(v) and 0 < v < 1, "a number in (0, 1)")
        super().bind(latent_dim, n_context)
        n_squares = latent_dim if self.covariance == "diagonal" else latent_dim * (latent_dim + 1) // 2
        self.width = 2 * max(self.n_components, n_squares + latent_dim)  # in double precision
        self.means = nn.Parameter(math.sqrt(0.5) * torch.randn(self.n_components, latent_dim))
        self.raw_log_scales = nn.Parameter(torch.full((self.n_components, latent_dim), 0.5 * math.log(0.5)))
        self.logits = nn.Parameter(torch.zeros(self.n_components))
        if self.covariance == "full":
            i, j = torch.tril_indices(latent_dim, latent_dim, offset=-1)
            self.register_buffer("below", i * latent_dim + j, persistent=False)
            self.raw_below = nn.Parameter(torch.zeros(self.n_components, len(i)))
        return self

    def components(self) -> NormalFamily:
        log_scale = soft_limit(self.raw_log_scales, math.log(self.min_scale), LOG_SCALE_LIMIT)
        if self.covariance == "diagonal":
            return NormalPosterior(self.means, log_scale)
        return FullNormalPosterior.of_factor(self.means, log_scale, self.raw_below, self.below)

    def log_weights(self) -> Tensor:
        return self.logits.log_softmax(0)

    @torch.no_grad()
    def place(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        """Set the components to those of another fit.

        Parameters
        ----------
        weights : Tensor [K]
        means : Tensor [K, D]
        factors : Tensor [K, D] or [K, D, D]
            Standard deviations of independent dimensions, or lower triangular factors L of the covariances.
        """
        full = self.covariance == "full"
        scales = factors.diagonal(dim1=1, dim2=2) if full else factors
        lower, upper = math.log(self.min_scale), LOG_SCALE_LIMIT
        centre, half = (upper + lower) / 2, (upper - lower) / 2
        share = ((scales.log() - centre) / half).clamp(-1 + 1e-6, 1 - 1e-6)
        self.logits.copy_(weights.clamp(min=1e-6).log())
        self.means.copy_(means)
        self.raw_log_scales.copy_(half * torch.atanh(share) + centre)  # undoes `soft_limit`
        if full:
            self.raw_below.copy_(factors.flatten(1)[:, self.below])
