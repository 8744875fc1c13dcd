"""Terms of random rows, for tests of objectives: small, in double precision, with every axis of another length."""

import torch

from skvae.data.batch import Batch
from skvae.model import StandardNormal, Terms
from skvae.model.likelihoods.normal import Normal
from skvae.model.posteriors import FullNormalPosterior, NormalPosterior, PointPosterior

S, B, D, C = 3, 6, 4, 5
M = 7  # draws from the prior


def posterior_of(kind, mean, log_scale, below):
    if kind == "deterministic":
        return PointPosterior(mean)
    if kind == "full":
        return FullNormalPosterior(mean, log_scale, below.tril(-1) + torch.diag_embed(log_scale.exp()))
    return NormalPosterior(mean, log_scale)


def make_terms(
    n_draws=S,
    prior=None,
    progress=1.0,
    by_z=True,
    seed=0,
    requires_grad=False,
    posterior="diagonal",
    weight=None,
    masked=False,
):
    """Terms of random rows; the distribution of x depends on z, or (for tests of the KL alone) does not."""
    stream = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    mean, log_scale = 0.5 * randn(B, D), 0.3 * randn(B, D)
    matrix, values, below = randn(D, C), randn(B, C), 0.5 * randn(B, D, D)
    prior_eps = randn(M, D)
    # One draw more or less changes nothing above.
    eps = randn(n_draws, B, D)
    q = posterior_of(posterior, mean.requires_grad_(requires_grad), log_scale.requires_grad_(requires_grad), below)
    z = q.rsample(eps)
    x = (z if by_z else torch.zeros_like(z)) @ matrix
    distribution = Normal(x, torch.zeros(C, dtype=torch.float64), torch.zeros(C, dtype=torch.float64))
    prior = (prior or StandardNormal()).bind(D)
    observed = torch.arange(B * C).view(B, C) % 3 > 0 if masked else None
    weight = None if weight is None else torch.as_tensor(weight, dtype=torch.float64)
    batch = Batch(values, observed=observed, weight=weight)
    partners = torch.randn(B, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    terms = Terms(z, q, prior, distribution, batch, progress, prior_eps=prior_eps)
    terms.matrix, terms.partners = matrix, partners
    return terms


def rows_of(terms, rows):
    """The terms of some of the rows, a slice or an index."""
    rows = torch.arange(terms.z.shape[1])[rows]
    q = terms.posterior
    q = PointPosterior(q.mean[rows]) if isinstance(q, PointPosterior) else q.rows(rows)
    d = terms.distribution
    distribution = Normal(d.mean[:, rows], d.log_scale, d.log_unit)
    parts = [None if x is None else x[rows] for x in (terms.batch.observed, terms.batch.weight)]
    batch = Batch(terms.batch.values[rows], observed=parts[0], weight=parts[1])
    return Terms(terms.z[:, rows], q, terms.prior, distribution, batch, terms.progress, prior_eps=terms.prior_eps)


def kl_by_torch(terms):
    q = torch.distributions.Normal(terms.posterior.mean, terms.posterior.scale)
    return torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))  # [B, D]


def log_p_x(terms):
    return torch.distributions.Normal(terms.distribution.mean, 1.0).log_prob(terms.batch.values).sum(-1).mean(0)
