"""Rows that meet conditions on some of their columns: p(x | conditions), without rejection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.likelihoods import Distribution
from skvae.model.likelihoods.table import TableDistribution
from skvae.model.posteriors import PosteriorDistribution
from skvae.model.posteriors.normal import NormalFamily
from skvae.model.vae import LatentVariableModel
from skvae.training.randomness import open_uniform

# Latents of a pool, at least and for each row wanted, and rounds in which it may grow.
_MIN_POOL, _POOL_PER_ROW, _MAX_ROUNDS = 4_096, 10, 4
# Effective size of the pool, for each row wanted, at which it has grown enough: rows that share latents vary less.
_EFFECTIVE_PER_ROW = 4
# Rows whose posteriors make up the proposal; of posteriors that are not normal, fewer.
_N_GUIDES, _N_COSTLY_GUIDES = 64, 8
_ROWS_AT_ONCE = 8192


class Entry:
    """One column of p(x|z), given each of M latents.

    Parameters
    ----------
    distribution : Distribution
        Of M draws of z for a single row.
    column : int
    n_columns : int
    """

    def __init__(self, distribution: Distribution, column: int, n_columns: int, like: Tensor) -> None:
        self._part, self._position, self._n_columns = distribution, column, n_columns
        if isinstance(distribution, TableDistribution):
            self._part, self._position, self._n_columns = distribution.part_of(column)
        self._like = like

    def log_prob(self, value: float) -> Tensor:
        """Log mass or density of a value, [M]."""
        return self._part.log_prob(self._row(value))[:, 0, self._position]

    def cdf(self, value: float) -> Tensor:
        """P(x ≤ value), [M]."""
        if math.isinf(value):
            return self._like.new_full(self._like.shape[:1], float(value > 0))
        return self._part.cdf(self._row(value))[:, 0, self._position]

    def _row(self, value: float) -> Tensor:
        row = self._like.new_zeros((1, self._n_columns))
        row[0, self._position] = value
        return row


@dataclass(frozen=True)
class OneOf:
    """The entry is one of these values.

    Parameters
    ----------
    values : tuple of float
        As encoded by the Schema: codes, or standardised numbers.
    """

    values: tuple[float, ...]

    def log_weights(self, entry: Entry) -> Tensor:
        """Log mass or density of each value, [M, K]."""
        return torch.stack([entry.log_prob(value) for value in self.values], dim=1)

    def log_prob(self, entry: Entry) -> Tensor:
        """Log of their summed mass, or density, [M]."""
        return self.log_weights(entry).logsumexp(1)


@dataclass(frozen=True)
class Between:
    """The entry lies in an interval.

    Parameters
    ----------
    low, high : float
        Standardised numbers; what is beyond `low` and up to `high` counts. ±∞ for no bound.
    """

    low: float
    high: float

    def log_prob(self, entry: Entry) -> Tensor:
        """Log of its probability, a difference of cdfs, [M]."""
        return (entry.cdf(self.high) - entry.cdf(self.low)).clamp(min=0.0).log()


Condition = OneOf | Between


@dataclass(frozen=True)
class SamplingReport:
    """How well the latents of conditional samples are spread.

    Attributes
    ----------
    n_samples : int
    n_proposed : int
        Latents that were proposed and weighed.
    effective_size : float
        Effective sample size of the weights, between 1 and `n_proposed`: as many independent draws from
        p(z | conditions) would tell as much (Kong 1992).
    distinct_share : float
        Share of the samples whose latent is none of an earlier one; what is drawn given the latent differs anyway.
    log_probability : float
        Log of the probability of the conditions under the model, in nats; a density for a value of a continuous
        column, in the units of the data.
    """

    n_samples: int
    n_proposed: int
    effective_size: float
    distinct_share: float
    log_probability: float


class ConditionalSample(NamedTuple):
    """Encoded rows [n, C], and what is to be said about them."""

    values: Tensor
    report: SamplingReport


class Impossible(Exception):
    """No latent gives the conditions any probability."""


@torch.no_grad()
def sample_given(
    model: LatentVariableModel,
    conditions: dict[int, Condition],
    n_samples: int,
    stream: torch.Generator,
    *,
    draw: bool = True,
) -> ConditionalSample:
    r"""Draw rows from p(x | conditions) by importance resampling of latents (Rubin 1988).

    The pool of latents comes in equal parts from p(z) and from the posteriors of a few dozen guides, rows of which
    nothing is seen but entries that meet the conditions. Its weights are those of the mixture of both (the balance
    heuristic, Veach & Guibas 1995; Owen & Zhou 2000),

    .. math:: w(z) = \frac{p(\text{conditions}|z)\,p(z)}{\tfrac12 p(z) + \tfrac12 \bar q(z)}
                   \le 2\, p(\text{conditions}|z),

    with the mean q̄ of the guides' posteriors; a poor guide costs latents, and no more. The first guides are drawn
    given latents from p(z). As long as the effective size of the pool is below four times the number of rows, it
    grows, with guides drawn given its latents. A posterior without a density proposes nothing.

    Parameters
    ----------
    conditions : dict of column position to Condition
        All of them hold at once, independent given z.
    n_samples : int
    draw : bool
        Whether other columns are drawn from p(x|z), or set to its mean or mode.

    Returns
    -------
    ConditionalSample
        Of columns with conditions, entries that meet them.

    Raises
    ------
    Impossible
        If all weights vanish.
    """
    n_pool = max(_MIN_POOL, _POOL_PER_ROW * n_samples)
    guided = bool(conditions) and model.posterior.has_density
    n_guides = _N_GUIDES if model.posterior.is_normal else _N_COSTLY_GUIDES
    per_guide = -(-n_pool // (2 * n_guides))
    n_first = per_guide * n_guides if guided else n_pool  # half of a pool
    z, log_w = _weighed(model, conditions, n_first, stream)
    if guided:
        pool: list[Tensor] = []
        weights: list[Tensor] = []
        for _ in range(_MAX_ROUNDS):
            like = z[_resample(log_w, n_guides, stream)] if log_w.max() > -math.inf else z[:n_guides]
            guides = _guides(model, conditions, like, stream)
            eps = torch.randn((per_guide, n_guides, model.latent_dim), generator=stream, device=stream.device)
            fresh, log_fresh = (z, log_w) if not pool else _weighed(model, conditions, n_first, stream)
            proposed = guides.rsample(eps).flatten(0, 1)
            both = torch.cat([fresh, proposed])
            log_both = torch.cat([log_fresh, _log_conditions(model, conditions, proposed)])
            pool.append(both)
            weights.append(log_both + _log_balance(model, guides, n_guides, both))
            z, log_w = torch.cat(pool), torch.cat(weights)
            if _effective_size(log_w) >= _EFFECTIVE_PER_ROW * n_samples:
                break
    if not log_w.max() > -math.inf:
        raise Impossible
    chosen = _resample(log_w, n_samples, stream)
    report = SamplingReport(
        n_samples=n_samples,
        n_proposed=len(z),
        effective_size=_effective_size(log_w),
        distinct_share=len(chosen.unique()) / n_samples,
        log_probability=float(log_w.double().logsumexp(0)) - math.log(len(z)),
    )
    pieces = [_entries(model, conditions, piece, stream, draw) for piece in z[chosen].split(_ROWS_AT_ONCE)]
    return ConditionalSample(torch.cat(pieces), report)


def _weighed(
    model: LatentVariableModel, conditions: dict[int, Condition], n: int, stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents [n, D] drawn from p(z), and log p(conditions | z), [n]."""
    eps = torch.randn((n, model.density.n_noise), generator=stream, device=stream.device)
    z = torch.cat([model.density.sample(piece) for piece in eps.split(_ROWS_AT_ONCE)])
    return z, _log_conditions(model, conditions, z)


def _log_conditions(model: LatentVariableModel, conditions: dict[int, Condition], z: Tensor) -> Tensor:
    """log p(conditions | z) of latents [M, D], [M]."""
    answers = []
    for piece in z.split(_ROWS_AT_ONCE):
        distribution = model.decode(piece.unsqueeze(1))
        log_p = torch.zeros(len(piece), device=z.device)
        for column, condition in conditions.items():
            log_p = log_p + condition.log_prob(Entry(distribution, column, model.n_columns, piece))
        answers.append(log_p.masked_fill(log_p.isnan(), -math.inf))
    return torch.cat(answers)


def _guides(
    model: LatentVariableModel, conditions: dict[int, Condition], z: Tensor, stream: torch.Generator
) -> PosteriorDistribution:
    """Posteriors of rows of which nothing is seen but entries drawn given z and the conditions."""
    values = _entries(model, conditions, z, stream, draw=True)
    seen = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    seen[:, list(conditions)] = True
    return model.encode(Batch(torch.where(seen, values, 0.0), observed=seen))


def _log_balance(model: LatentVariableModel, guides: PosteriorDistribution, n_guides: int, z: Tensor) -> Tensor:
    """log p(z) − log[½ p(z) + ½ q̄(z)] of latents [M, D], [M]."""
    answers = []
    for piece in z.split(_ROWS_AT_ONCE):
        log_p = model.density.log_prob(piece.unsqueeze(0))[0]
        if isinstance(guides, NormalFamily):
            log_q = guides.log_prob_by_row(piece)
        else:
            log_q = guides.log_prob(piece.unsqueeze(1).expand(-1, n_guides, -1))
        log_q = log_q.logsumexp(1) - math.log(n_guides)
        answers.append(log_p - torch.logaddexp(log_p, log_q) + math.log(2.0))
    return torch.cat(answers)


def _effective_size(log_w: Tensor) -> float:
    if not log_w.max() > -math.inf:
        return 0.0
    return float(1 / log_w.double().softmax(0).square().sum())


def _resample(log_w: Tensor, n: int, stream: torch.Generator) -> Tensor:
    """Positions [n] drawn with probabilities as their weights, one from each nth of the total, in random order."""
    cumulative = log_w.double().softmax(0).cumsum(0)
    u = (torch.arange(n, device=stream.device) + torch.rand(n, generator=stream, device=stream.device)) / n
    chosen = torch.searchsorted(cumulative, u.double() * cumulative[-1]).clamp(max=len(log_w) - 1)
    return chosen[torch.randperm(n, generator=stream, device=stream.device)]


def _entries(
    model: LatentVariableModel, conditions: dict[int, Condition], z: Tensor, stream: torch.Generator, draw: bool
) -> Tensor:
    """Encoded rows [n, C] for latents [n, D]; drawn within the conditions where there are any."""
    u = open_uniform((len(z), 1, model.n_columns), stream)
    distribution = model.decode(z.unsqueeze(1))  # one row each: [n, 1, C]
    chosen = {}
    for column, condition in conditions.items():
        entry = Entry(distribution, column, model.n_columns, z)
        if isinstance(condition, Between):
            inside = torch.lerp(entry.cdf(condition.low), entry.cdf(condition.high), u[:, 0, column])
            u[:, 0, column] = inside.clamp(2.0**-25, 1 - 2.0**-24)
        else:
            cumulative = condition.log_weights(entry).double().softmax(1).cumsum(1)
            at = (cumulative < u[:, :, column] * cumulative[:, -1:]).sum(1).clamp(max=len(condition.values) - 1)
            chosen[column] = torch.tensor(condition.values, device=z.device)[at]
    drawn = distribution.icdf(u)[:, 0]
    if draw:
        values = drawn
    else:
        values = model.decode(z.unsqueeze(0)).centre(torch.ones(1, len(z), device=z.device))
        for column, condition in conditions.items():
            if isinstance(condition, Between):
                values[:, column] = drawn[:, column]
    for column, its in chosen.items():
        values[:, column] = its.to(values.dtype)
    return values


def combined(reports: Sequence[SamplingReport]) -> SamplingReport:
    """The report of samples that were made piece by piece."""
    sizes = torch.tensor([report.n_samples for report in reports], dtype=torch.float64)
    share = sizes / sizes.sum()
    log_p = torch.tensor([report.log_probability for report in reports], dtype=torch.float64)
    return SamplingReport(
        n_samples=int(sizes.sum()),
        n_proposed=sum(report.n_proposed for report in reports),
        effective_size=sum(report.effective_size for report in reports),
        distinct_share=float(share @ torch.tensor([r.distinct_share for r in reports], dtype=torch.float64)),
        log_probability=float((log_p + share.log()).logsumexp(0)),
    )
