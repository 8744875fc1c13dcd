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
# Rows that are drawn for a latent, if masks are to be weighed: of a pool, and of what is chosen from it.
_MASKED_IN_POOL, _MASKED = 8, 32
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


@dataclass(frozen=True)
class Wanted:
    """What is asked of a row.

    Parameters
    ----------
    conditions : dict of column position to Condition
        All of them hold at once, independent given z; what they are about is not missing.
    absent : tuple of int
        Columns that are missing.
    """

    conditions: dict[int, Condition]
    absent: tuple[int, ...] = ()

    def masks(self, n_columns: int, like: Tensor) -> Tensor:
        """As `Missingness.log_masks` takes them, [C]."""
        missing = like.new_full((n_columns,), math.nan)
        missing[list(self.conditions)] = 0.0
        missing[list(self.absent)] = 1.0
        return missing


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
    absent: tuple[int, ...] = (),
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

    Where the model says why entries are missing, p(conditions|z) counts that those of `conditions` are there and
    those of `absent` are not: it is multiplied by the average of p(mask|x) over 8 rows drawn given z and the
    conditions, which is unbiased, as importance weights may be (Andrieu & Roberts 2009). For each chosen latent 32
    rows are drawn, and one of them is taken by its p(mask|x). Other columns then get holes as in any new row.

    Parameters
    ----------
    conditions : dict of column position to Condition
        All of them hold at once, independent given z.
    n_samples : int
    draw : bool
        Whether other columns are drawn from p(x|z), or set to its mean or mode, without holes.
    absent : tuple of int
        Positions of columns that are to be missing.

    Returns
    -------
    ConditionalSample
        Of columns with conditions, entries that meet them; NaN where one is missing.

    Raises
    ------
    Impossible
        If all weights vanish.
    """
    n_pool = max(_MIN_POOL, _POOL_PER_ROW * n_samples)
    wanted = Wanted(conditions, absent)
    guided = bool(conditions) and model.posterior.has_density
    n_guides = _N_GUIDES if model.posterior.is_normal else _N_COSTLY_GUIDES
    per_guide = -(-n_pool // (2 * n_guides))
    n_first = per_guide * n_guides if guided else n_pool  # half of a pool
    z, log_w = _weighed(model, wanted, n_first, stream)
    if guided:
        pool: list[Tensor] = []
        weights: list[Tensor] = []
        for _ in range(_MAX_ROUNDS):
            like = z[_resample(log_w, n_guides, stream)] if log_w.max() > -math.inf else z[:n_guides]
            guides = _guides(model, conditions, like, stream)
            eps = torch.randn((per_guide, n_guides, model.latent_dim), generator=stream, device=stream.device)
            fresh, log_fresh = (z, log_w) if not pool else _weighed(model, wanted, n_first, stream)
            proposed = guides.rsample(eps).flatten(0, 1)
            both = torch.cat([fresh, proposed])
            log_both = torch.cat([log_fresh, _log_wanted(model, wanted, proposed, stream)])
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
    pieces = [_rows(model, wanted, piece, stream, draw) for piece in z[chosen].split(_ROWS_AT_ONCE)]
    return ConditionalSample(torch.cat(pieces), report)


def _weighed(model: LatentVariableModel, wanted: Wanted, n: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents [n, D] drawn from p(z), and log p(wanted | z), [n]."""
    eps = torch.randn((n, model.density.n_noise), generator=stream, device=stream.device)
    z = torch.cat([model.density.sample(piece) for piece in eps.split(_ROWS_AT_ONCE)])
    return z, _log_wanted(model, wanted, z, stream)


def _log_wanted(model: LatentVariableModel, wanted: Wanted, z: Tensor, stream: torch.Generator) -> Tensor:
    """log p(wanted | z) of latents [M, D], [M]; an estimate, where masks are weighed."""
    answers = []
    for piece in z.split(_ROWS_AT_ONCE):
        distribution = model.decode(piece.unsqueeze(1))
        log_p = torch.zeros(len(piece), device=z.device)
        for column, condition in wanted.conditions.items():
            log_p = log_p + condition.log_prob(Entry(distribution, column, model.n_columns, piece))
        log_mask = _masked(model, wanted, piece, stream, _MASKED_IN_POOL)[1]
        if log_mask is not None:
            log_p = log_p + log_mask.logsumexp(0) - math.log(_MASKED_IN_POOL)
        answers.append(log_p.masked_fill(log_p.isnan(), -math.inf))
    return torch.cat(answers)


def _guides(
    model: LatentVariableModel, conditions: dict[int, Condition], z: Tensor, stream: torch.Generator
) -> PosteriorDistribution:
    """Posteriors of rows of which nothing is seen but entries drawn given z and the conditions."""
    values = _entries(model, conditions, z, stream)
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


def _masked(
    model: LatentVariableModel, wanted: Wanted, z: Tensor, stream: torch.Generator, n_rows: int
) -> tuple[Tensor | None, Tensor | None]:
    """Rows [n_rows, M, C] for each of latents [M, D], within the conditions, and log p(mask | x) of what is asked of
    their masks, [n_rows, M]; None if the model says nothing of these."""
    missing = wanted.masks(model.n_columns, z)
    if model.missing.log_masks(torch.zeros_like(missing), missing) is None:
        return None, None
    values = _entries(model, wanted.conditions, z.repeat(n_rows, 1), stream).unflatten(0, (n_rows, len(z)))
    return values, model.missing.log_masks(values, missing)


def _rows(model: LatentVariableModel, wanted: Wanted, z: Tensor, stream: torch.Generator, draw: bool) -> Tensor:
    """Encoded rows [n, C] for latents [n, D], with holes."""
    several, log_mask = _masked(model, wanted, z, stream, _MASKED)
    if several is None or log_mask is None:
        values = _entries(model, wanted.conditions, z, stream)
    else:
        cumulative = log_mask.double().softmax(0).cumsum(0)  # [K, n]
        u = torch.rand(len(z), generator=stream, device=z.device).double()
        taken = (cumulative < u * cumulative[-1]).sum(0).clamp(max=len(cumulative) - 1)
        values = several[taken, torch.arange(len(z), device=z.device)]
    free = wanted.masks(model.n_columns, z).isnan()
    if draw:
        holed = model.missing.with_holes(values, stream)
    else:
        holed = model.decode(z.unsqueeze(0)).centre(torch.ones(1, len(z), device=z.device))
    values = torch.where(free, holed, values)
    values[:, list(wanted.absent)] = torch.nan
    return values


def _entries(
    model: LatentVariableModel, conditions: dict[int, Condition], z: Tensor, stream: torch.Generator
) -> Tensor:
    """Encoded rows [n, C] drawn for latents [n, D], within the conditions where there are any."""
    pieces = []
    for piece in z.split(_ROWS_AT_ONCE):
        u = open_uniform((len(piece), 1, model.n_columns), stream)
        distribution = model.decode(piece.unsqueeze(1))  # one row each: [n, 1, C]
        chosen = {}
        for column, condition in conditions.items():
            entry = Entry(distribution, column, model.n_columns, piece)
            if isinstance(condition, Between):
                inside = torch.lerp(entry.cdf(condition.low), entry.cdf(condition.high), u[:, 0, column])
                u[:, 0, column] = inside.clamp(2.0**-25, 1 - 2.0**-24)
            else:
                cumulative = condition.log_weights(entry).double().softmax(1).cumsum(1)
                at = (cumulative < u[:, :, column] * cumulative[:, -1:]).sum(1).clamp(max=len(condition.values) - 1)
                chosen[column] = torch.tensor(condition.values, device=z.device)[at]
        values = distribution.icdf(u)[:, 0]
        for column, its in chosen.items():
            values[:, column] = its.to(values.dtype)
        pieces.append(values)
    return torch.cat(pieces)


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
