"""Normal posteriors: independent dimensions, or a full covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skvae.model.likelihoods.base import soft_limit
from skvae.model.posteriors.base import Posterior, PosteriorDistribution

_LOG_2PI = math.log(2 * math.pi)
# σ of a latent lies between e^-6 and e^6.
LOG_SCALE_LIMIT = 6.0


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) of `z` [..., D], [...]."""
    return -0.5 * (z.square() + _LOG_2PI).sum(-1)


class NormalFamily(PosteriorDistribution):
    """Normal distributions, one per row, z = μ + L ε with L lower triangular.

    Attributes
    ----------
    mean : Tensor [B, D]
        μ.
    log_scale : Tensor [B, D]
        log L_jj: of the standard deviation of z_j given z_1 … z_{j−1}.
    """

    log_scale: Tensor

    @property
    def variance(self) -> Tensor:
        """Marginal variance of each dimension, [B, D]."""
        raise NotImplementedError

    def tensors(self) -> tuple[Tensor, ...]:
        """What the distributions are made from, each [B, …]."""
        raise NotImplementedError

    def rows(self, index: Tensor) -> Self:
        """The distributions of the rows at `index` [n], repeated where it repeats."""
        return type(self)(*(tensor.index_select(0, index) for tensor in self.tensors()))

    @classmethod
    def joined(cls, pieces: Sequence[Self]) -> Self:
        """The distributions of the rows of all pieces, one after another."""
        return cls(*(torch.cat(parts) for parts in zip(*(piece.tensors() for piece in pieces), strict=True)))

    def detach(self) -> Self:
        return type(self)(*(tensor.detach() for tensor in self.tensors()))

    def log_prob_by_row(self, z: Tensor) -> Tensor:
        """Log density of every latent `z` [..., D] under the distribution of every row, [..., B].

        By one product of matrices, so that no tensor has both axes and D.
        """
        raise NotImplementedError


class NormalPosterior(NormalFamily):
    """N(μ, diag σ²) for each row.

    Parameters
    ----------
    mean, log_scale : Tensor [B, D]
        μ and log σ.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.mean, self.log_scale = mean, log_scale
        self.scale = torch.exp(log_scale)

    @property
    def variance(self) -> Tensor:
        return self.scale.square()

    def rsample(self, eps: Tensor) -> Tensor:
        """z = μ + σ ε for `eps` [S, B, D] or [S, 1, D] (noise shared by all rows); [S, B, D]."""
        return torch.addcmul(self.mean, self.scale, eps)

    def log_prob(self, z: Tensor) -> Tensor:
        standardised = (z - self.mean) / self.scale
        return -(0.5 * standardised.square() + self.log_scale + 0.5 * _LOG_2PI).sum(-1)

    def log_prob_by_row(self, z: Tensor) -> Tensor:
        mean, log_scale, wide = _wide(self.mean), _wide(self.log_scale), _wide(z)
        precision = torch.exp(-2 * log_scale)
        return _from_natural(wide.square(), wide, precision, precision * mean, mean, log_scale).to(z.dtype)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.mean, self.log_scale


class FullNormalPosterior(NormalFamily):
    """N(μ, L Lᵀ) for each row.

    Parameters
    ----------
    mean, log_scale : Tensor [B, D]
        μ, and the logarithm of the diagonal of L.
    scale_tril : Tensor [B, D, D]
        L, lower triangular.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor, scale_tril: Tensor) -> None:
        self.mean, self.log_scale, self.scale_tril = mean, log_scale, scale_tril

    @classmethod
    def of_factor(cls, mean: Tensor, log_scale: Tensor, below: Tensor, place: Tensor) -> FullNormalPosterior:
        """From what is `below` [B, D (D − 1) / 2] the diagonal of L, and the `place` of each in L read row by row."""
        n, d = mean.shape
        strict = below.new_zeros(n, d * d).index_copy(1, place, below).unflatten(1, (d, d))
        return cls(mean, log_scale, strict + torch.diag_embed(log_scale.exp()))

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1)

    def rsample(self, eps: Tensor) -> Tensor:
        """z = μ + L ε for `eps` [S, B, D] or [S, 1, D] (noise shared by all rows); [S, B, D]."""
        return self.mean + torch.einsum("bij,sbj->sbi", self.scale_tril, eps)

    def log_prob(self, z: Tensor) -> Tensor:
        distance = (z - self.mean).permute(1, 2, 0)  # [B, D, S]: one triangular system per row, not per draw
        eps = torch.linalg.solve_triangular(self.scale_tril, distance, upper=False)
        return -0.5 * eps.square().sum(1).T - (self.log_scale + 0.5 * _LOG_2PI).sum(-1)

    def log_prob_by_row(self, z: Tensor) -> Tensor:
        mean, log_scale, wide = _wide(self.mean), _wide(self.log_scale), _wide(z)
        n, d = mean.shape
        identity = torch.eye(d, dtype=wide.dtype, device=z.device).expand(n, -1, -1)
        inverse = torch.linalg.solve_triangular(_wide(self.scale_tril), identity, upper=False)
        precision = inverse.mT @ inverse  # [B, D, D]
        i, j = torch.tril_indices(d, d, device=z.device)
        twice = torch.where(i == j, 1.0, 2.0)  # each product of two dimensions stands for both orders
        slope = torch.einsum("bij,bj->bi", precision, mean)
        products = wide.index_select(-1, i) * wide.index_select(-1, j)
        weight = twice * precision.flatten(1).index_select(1, i * d + j)
        return _from_natural(products, wide, weight, slope, mean, log_scale).to(z.dtype)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.mean, self.log_scale, self.scale_tril


class DiagonalNormal(Posterior):
    """A normal posterior with independent dimensions (Kingma & Welling 2014, equation 9)."""

    alias = "diagonal"
    is_normal: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()

    def bind(self, n_hidden: int, latent_dim: int) -> DiagonalNormal:
        self.linear = nn.Linear(n_hidden, 2 * latent_dim)
        return self

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> NormalPosterior:
        mean, raw = self.linear(hidden).chunk(2, dim=-1)
        return NormalPosterior(mean, soft_limit(raw, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT))


class FullNormal(Posterior):
    """A normal posterior with a full covariance L Lᵀ (Kingma & Welling 2019, section 2.5.1).

    The encoder gives μ, the logarithm of the diagonal of the Cholesky factor L, and what is below it:
    D (D + 3) / 2 numbers per row.
    """

    alias = "full"
    is_normal: ClassVar[bool] = True
    below: Tensor

    def __init__(self) -> None:
        super().__init__()

    def bind(self, n_hidden: int, latent_dim: int) -> FullNormal:
        i, j = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("below", i * latent_dim + j, persistent=False)
        self._sizes = [latent_dim, latent_dim, len(i)]
        self.linear = nn.Linear(n_hidden, sum(self._sizes))
        return self

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> FullNormalPosterior:
        mean, raw, below = self.linear(hidden).split(self._sizes, dim=-1)
        log_scale = soft_limit(raw, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        return FullNormalPosterior.of_factor(mean, log_scale, below, self.below)


def _from_natural(
    squares: Tensor, z: Tensor, weight: Tensor, slope: Tensor, mean: Tensor, log_scale: Tensor
) -> Tensor:
    """−½ zᵀ P z + zᵀ P μ + constant of every latent and row, [..., B].

    Parameters
    ----------
    squares, z : Tensor [..., n], [..., D]
        Products of the latent's dimensions, and the latent.
    weight, slope : Tensor [B, n], [B, D]
        What the products count for in zᵀ P z, and P μ.
    """
    constant = -0.5 * (slope * mean).sum(-1) - (log_scale + 0.5 * _LOG_2PI).sum(-1)
    return linear(torch.cat([squares, z], -1), torch.cat([-0.5 * weight, slope], -1), constant)


def _wide(x: Tensor) -> Tensor:
    """In double precision: with narrow normals far from 0, the terms of a multiplied-out square cancel."""
    return x if x.device.type == "mps" else x.double()  # which has no doubles
