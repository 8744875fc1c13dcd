"""What a model does with its latents: what each of them carries, and where the posteriors land together."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.inference.log_likelihood import rows_at_once
from skvae.model.posteriors import NormalFamily, PosteriorDistribution
from skvae.model.priors import Prior, kl_divergence
from skvae.model.vae import LatentVariableModel

# Pairs of a latent and a posterior compared at once, at most, where that takes a flow.
_MAX_PAIRS = 2**14


class Units(NamedTuple):
    """What each latent carries, over rows.

    Attributes
    ----------
    variance : Tensor [D]
        Of the posterior mean.
    kl : Tensor [D] or None
        Mean KL(q(z_j|x) ‖ p(z_j)), nats; None for a posterior without density.
    exact : bool
        Whether that is the closed form. Else both are taken for normal distributions of the same mean and
        variance: exact for a unit whose posterior is the prior, which has none.
    """

    variance: Tensor
    kl: Tensor | None
    exact: bool


@torch.no_grad()
def units(model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor, prior_eps: Tensor) -> Units:
    """Look at each latent by itself.

    Parameters
    ----------
    eps : Tensor [K, D]
        Noise for the moments of posteriors that are not normal, the same for all rows.
    prior_eps : Tensor [L, D]
        Noise for the moments of the prior.
    """
    of_prior = prior.sample(prior_eps)
    centre, width = of_prior.mean(0), of_prior.var(0, correction=0)
    means, kls, exact = [], [], False
    for piece in rows.chunks(rows_at_once(model, len(eps))):
        posterior = model.encode(piece)
        means.append(posterior.mean)
        if not posterior.has_density:
            continue
        kl = kl_divergence(posterior, prior)
        exact = kl is not None
        if kl is None:
            mean, variance = _moments(posterior, eps)
            ratio = variance / width
            kl = 0.5 * ((mean - centre).square() / width + ratio - 1 - ratio.log())
        kls.append(kl)
    spread = torch.cat(means).var(0, correction=0)
    return Units(spread, torch.cat(kls).mean(0) if kls else None, exact)


def _moments(posterior: PosteriorDistribution, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every latent of every row, [B, D]."""
    if isinstance(posterior, NormalFamily):
        return posterior.mean, posterior.variance
    z = posterior.rsample(eps.unsqueeze(1))  # [K, B, D]
    return z.mean(0), z.var(0)


class AggregatePosterior(NamedTuple):
    """How far q(z), the mean of q(z|x) over rows, is from p(z); nats.

    Attributes
    ----------
    gap : float
        KL(q(z) ‖ p(z)) with q(z) the mixture of the posteriors of the rows given (Hoffman & Johnson 2016): what
        sampling from the prior costs. No more than log n nats can be told of x by n rows, so where the latents
        carry more than that, it is too large by the rest.
    at_least : float
        A lower bound in expectation, 0 or more.
    information : float
        The mutual information of x and z that belongs to `gap`: mean KL minus gap.
    """

    gap: float
    at_least: float
    information: float


@torch.no_grad()
def aggregate_posterior(model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor) -> AggregatePosterior:
    """Compare the posteriors of `rows`, taken together, with the prior.

    With z_i ~ q(z|x_i), log q(z_i) is estimated by the mixture of all n posteriors, which overestimates the
    divergence, and by the n − 1 others, which underestimates it, because the logarithm is concave (Poole et al.
    2019, section 2). Where posteriors are too narrow for the latter, another lower bound may be higher: of all
    densities of covariance Σ, the normal has the largest entropy, so that KL(q ‖ p) ≥ −½ log |2πe Σ| − E_q[log p].

    Parameters
    ----------
    eps : Tensor [n, D]
        Standard normal noise, independent over rows.
    """
    n, latent_dim = eps.shape
    posterior = model.encode(rows)
    z = posterior.rsample(eps.unsqueeze(0)).squeeze(0)  # [n, D]
    log_q = _log_prob_by_row(posterior, z).double()  # [n, n]
    log_p = prior.log_prob(z.unsqueeze(0)).squeeze(0).double()  # [n]
    aggregate = log_q.logsumexp(1) - math.log(n)
    gap = (aggregate - log_p).mean()
    information = (log_q.diagonal() - aggregate).mean()
    bounds = [torch.zeros_like(gap)]
    if n > 1:
        others = log_q.clone().fill_diagonal_(-math.inf)
        bounds.append((others.logsumexp(1) - math.log(n - 1) - log_p).mean())
    if n > 2 * latent_dim:
        log_det = torch.logdet(2 * math.pi * math.e * z.double().T.cov().reshape(latent_dim, latent_dim))
        # An estimated covariance has too small a determinant, by this in expectation.
        excess = latent_dim * (latent_dim + 1) / (2 * n)
        bounds.append(-0.5 * (log_det + excess) - log_p.mean())
    at_least = torch.stack([torch.nan_to_num(bound, nan=0.0) for bound in bounds]).max()
    return AggregatePosterior(gap.item(), at_least.item(), information.item())


def _log_prob_by_row(posterior: PosteriorDistribution, z: Tensor) -> Tensor:
    """Log density of every latent `z` [n, D] under the posterior of every row, [n, B]."""
    if isinstance(posterior, NormalFamily):
        return posterior.log_prob_by_row(z)
    n_rows = len(posterior.mean)
    pieces = z.split(max(1, _MAX_PAIRS // n_rows))
    return torch.cat([posterior.log_prob(piece.unsqueeze(1).expand(-1, n_rows, -1)) for piece in pieces])
