"""How well a model explains each column, and whether its uncertainty can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.data.columns import Column
from skvae.inference.log_likelihood import rows_at_once
from skvae.model.priors import Prior
from skvae.model.vae import LatentVariableModel

# Likelihood parameters held at once, at most.
_MAX_ELEMENTS = 2**22
# Half the width of the interval within which an entry without rounding is located: it takes up repeated values.
_MIN_HALF = 1e-4


class Conditional(NamedTuple):
    """Every entry given the entries of its row that were not hidden together with it.

    Attributes
    ----------
    log_p : Tensor [n, C]
        log p(x_c | seen), in nats and the units of the data.
    pit : Tensor [n, C]
        Probability integral transform: uniform on (0, 1) over rows if the model is right.
    """

    log_p: Tensor
    pit: Tensor


@torch.no_grad()
def marginal_log_prob(model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor) -> Tensor:
    """log p(x_c) of every entry by itself, [n, C]: what the model says of a column without looking at others.

    The average of p(x_c|z) over draws from the prior, for noise `eps` [L, D], so that the density is of the same
    family as p(x_c|z). Its logarithm is estimated from below, by much for an entry where few draws are near.
    """
    params = model.output(model.decoder(prior.sample(eps)))  # [L, P]
    answers = []
    for piece in rows.chunks(max(1, _MAX_ELEMENTS // params.numel())):
        distribution = model.likelihood(params.unsqueeze(1).expand(-1, len(piece), -1))
        answers.append(distribution.log_prob(piece.values).logsumexp(0) - math.log(len(eps)))
    return torch.cat(answers)


def cell_halves(columns: Sequence[Column]) -> Tensor:
    """Half the width of what an entry stands for, in the units of a Batch, [C]."""
    halves = [0.5 if column.is_discrete else 0.5 * column.resolution / column.scale for column in columns]
    return torch.tensor(halves).clamp(min=_MIN_HALF)


@torch.no_grad()
def conditional_fit(
    model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor, halves: Tensor, stream: torch.Generator
) -> Conditional:
    """Hide a random half of the entries of each row, then the other half, and ask for what is hidden.

    p(x_c | seen) is the mixture of p(x_c|z) over draws from q(z|seen), importance weighted as for imputation. An
    entry is placed at random within the cell it was rounded to (Czado, Gneiting & Held 2009, section 2), a level
    within the jump of the cdf.

    Parameters
    ----------
    eps : Tensor [K, n, D]
        Standard normal noise. Independent over rows: errors common to all would look like miscalibration.
    halves : Tensor [C]
        See `cell_halves`.
    stream : torch.Generator
        For the halves and the places within cells.
    """
    shape = rows.values.shape
    draws = torch.rand((2, *shape), generator=stream, device=stream.device)
    first_half, place = draws[0] < 0.5, draws[1].to(rows.values.dtype)
    answers = []
    for hidden in (first_half, ~first_half):
        pieces = [
            _ask(model, prior, piece.hide(hidden[piece.index]), eps[:, piece.index], halves)
            for piece in rows.chunks(rows_at_once(model, len(eps), prior))
        ]
        answers.append([torch.cat(parts) for parts in zip(*pieces, strict=True)])
    first, second = answers
    log_p, below, above = (torch.where(first_half, one, other) for one, other in zip(first, second, strict=True))
    return Conditional(log_p, pit=torch.lerp(below, above, place).clamp(0.0, 1.0))


def _ask(
    model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor, halves: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log probability of every entry and the cdf on both sides of it, [B, C] each."""
    terms = model(rows, eps, prior=prior)
    log_w = (terms.log_p.total() - terms.log_q.total()).log_softmax(0).unsqueeze(-1)  # [K, B, 1]
    distribution = model.missing.given_mask(terms.distribution, rows)
    values, weight = rows.values, log_w.exp()
    log_p = (log_w + distribution.log_prob(values)).logsumexp(0)
    below = (weight * distribution.cdf(values - halves)).sum(0)
    above = (weight * distribution.cdf(values + halves)).sum(0)
    return log_p, below, above


class Uniformity(NamedTuple):
    """How far numbers in (0, 1) are from uniform, by column.

    Attributes
    ----------
    n : Tensor [C]
        How many there are.
    distance : Tensor [C]
        Kolmogorov–Smirnov: the largest difference between their cdf and the uniform one; NaN for none.
    coverage : Tensor [C]
        Share between 0.05 and 0.95.
    """

    n: Tensor
    distance: Tensor
    coverage: Tensor


def uniformity(pit: Tensor, observed: Tensor | None) -> Uniformity:
    """Test `pit` [n, C] where `observed` [n, C]."""
    u = pit.double() if observed is None else torch.where(observed, pit.double(), torch.nan)
    n = torch.full_like(u[0], len(u)) if observed is None else observed.sum(0)
    u = u.sort(0).values  # what is not observed comes last
    rank = torch.arange(len(u), dtype=u.dtype, device=u.device).unsqueeze(1)
    apart = torch.maximum((rank + 1) / n - u, u - rank / n)
    distance = torch.where(rank < n, apart, -torch.inf).amax(0)
    coverage = ((u > 0.05) & (u < 0.95)).sum(0) / n
    return Uniformity(n.long(), torch.where(n > 0, distance, torch.nan), coverage)


def critical_distance(n: Tensor, level: float) -> Tensor:
    """The Kolmogorov–Smirnov distance that n uniform numbers exceed with probability `level`.

    Stephens (1970): the asymptotic quantile, with his correction for small n.
    """
    root = torch.where(n > 0, n.double().sqrt(), torch.nan)
    return math.sqrt(-0.5 * math.log(level / 2)) / (root + 0.12 + 0.11 / root)
