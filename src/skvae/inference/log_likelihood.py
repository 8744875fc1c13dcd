"""log p(x) and its lower bound."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.priors import Prior, kl_divergence
from skvae.model.vae import LatentVariableModel

# Numbers held at once for all draws and rows, at most, by the part that holds most for each.
_MAX_ELEMENTS = 2**24


class LogLikelihood(NamedTuple):
    """An importance-sampling estimate per row.

    Attributes
    ----------
    log_p : Tensor [n]
        log p(x), nats.
    effective_draws : Tensor [n]
        Effective sample size of the importance weights, between 1 and the number of draws.
    """

    log_p: Tensor
    effective_draws: Tensor


def rows_at_once(model: LatentVariableModel, n_draws: int, prior: Prior | None = None) -> int:
    """How many rows fit when `n_draws` latents of each are drawn, decoded and scored by the prior."""
    prior = model.prior if prior is None else prior
    width = max(
        model.likelihood.n_params, model.decoder.n_out, model.posterior.width, prior.width, model.missing.width
    )
    return max(1, _MAX_ELEMENTS // (n_draws * width))


@torch.no_grad()
def log_likelihood(model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor) -> LogLikelihood:
    r"""Estimate log p(x) by importance sampling from the posterior (Burda et al. 2016, equation 8).

    .. math:: \log p(x) \approx \log \frac1K \sum_k \frac{p(x|z_k)\,p(z_k)}{q(z_k|x)}

    Parameters
    ----------
    eps : Tensor [K, D]
        Standard normal noise, the same for all rows, so that the answer for a row does not depend on its
        neighbours.

    Raises
    ------
    ValueError
        If the posterior has no density.
    """
    _check_density(model)
    log_p, effective = [], []
    for piece in rows.chunks(rows_at_once(model, len(eps), prior)):
        log_w = log_weights(model, prior, piece, eps)[1]  # [K, B]
        log_p.append(log_w.logsumexp(0) - math.log(len(eps)))
        effective.append(1 / log_w.softmax(0).square().sum(0))
    return LogLikelihood(torch.cat(log_p), torch.cat(effective))


def log_weights(model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Latents z [K, B, D] drawn from q(z|x) with shared noise `eps` [K, D], and log p(x, z)/q(z|x) [K, B].

    Of a posterior without a density all draws are alike, and so are their weights, log p(x, z).
    """
    terms = model(rows, eps.unsqueeze(1), prior=prior)
    return terms.z, terms.log_p.total() - terms.log_q.total()


@torch.no_grad()
def elbo(model: LatentVariableModel, rows: Batch, eps: Tensor, prior: Prior | None = None) -> Tensor:
    """The evidence lower bound of each row under a prior, by default that of training, [n].

    The KL term is exact where a closed form exists; the rest is averaged over the draws in `eps` [S, D],
    shared by all rows.

    Raises
    ------
    ValueError
        If the posterior has no density.
    """
    _check_density(model)
    bounds = []
    for piece in rows.chunks(rows_at_once(model, len(eps), prior)):
        terms = model(piece, eps.unsqueeze(1), prior=prior)
        kl = terms.kl
        if kl is None:
            bounds.append((terms.log_p.total() - terms.log_q.total()).mean(0))
        else:
            bounds.append(terms.log_p.total(without="z").mean(0) - kl.sum(-1))
    return torch.cat(bounds)


def _check_density(model: LatentVariableModel) -> None:
    if not model.posterior.has_density:
        raise ValueError(
            f"posterior={model.posterior.alias!r} has no density q(z|x), so that neither log p(x) nor a lower bound "
            "can be estimated; fit with posterior='diagonal'"
        )


@torch.no_grad()
def kl_per_dimension(model: LatentVariableModel, rows: Batch) -> Tensor | None:
    """Closed-form KL(q(z|x) ‖ p(z)) of each row and dimension, [n, D]; None where there is none."""
    pieces = [kl_divergence(model.encode(piece), model.prior) for piece in rows.chunks(8192)]
    return None if pieces[0] is None else torch.cat(pieces)  # type: ignore[arg-type]
