r"""Why entries are missing: the factor p(mask | x), beside p(x|z)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model.component import Component
from skvae.model.likelihoods import Distribution
from skvae.model.likelihoods.base import N_NODES
from skvae.model.likelihoods.table import TableDistribution

# Of the probit approximation to the mean of a logistic function of a normal variable.
_PROBIT = math.pi / 8


class Missingness(Component):
    """What is said of the mask of missing entries.

    Attributes
    ----------
    width : int
        Numbers held per draw and row while the factor is computed.
    """

    width: int = 0

    def bind(self, columns: Sequence[Column]) -> Self:
        return self

    def factors(self, distribution: TableDistribution, batch: Batch) -> dict[str, Any]:
        """Makers of further factors of `Terms.log_p`, each [S, B], for p(x|z) of the rows of a batch."""
        return {}

    def given_mask(self, distribution: TableDistribution, batch: Batch) -> TableDistribution:
        """p(x|z, mask) of the entries that are not seen, from p(x|z)."""
        return distribution

    def with_holes(self, values: Tensor, stream: torch.Generator) -> Tensor:
        """New rows [n, C] with holes drawn into them, NaN."""
        return values

    def log_masks(self, values: Tensor, missing: Tensor) -> Tensor | None:
        """log p(m | x) of the masks of some columns, [...], given all entries x of the rows; None if it says nothing.

        Parameters
        ----------
        values : Tensor [..., C]
            What stands there, or would.
        missing : Tensor [C]
            Of each column 1 if it is missing, 0 if it is not, NaN if that is left open.
        """
        return None


class Ignorable(Missingness):
    """Nothing is said of the mask: right where missing entries are as others are, given those that are there.

    Rubin (1976), missing at random.
    """

    alias = "ignore"

    def __init__(self) -> None:
        super().__init__()


class SelfMasking(Missingness):
    r"""An entry is missing with a probability that depends on itself (Ipsen, Mattei & Frellsen 2021, not-MIWAE).

    .. math:: p(m_c = 1 \mid x) = \sigma(w_c \tilde x_c + b_c)

    for the columns that had missing entries at fit. :math:`\tilde x` is standardised: numbers as they are in a batch,
    codes of two or of ordered levels by their mean and deviation; levels without order have a learned number each.

    Entries that are not seen are integrated out given z, column by column, which is exact where they have levels
    (all are summed up), and a Gauss–Legendre sum over quantiles of p(x_c|z) where they are numbers. Entries hidden
    by training were there, and count as not missing.
    """

    alias = "self-masking"
    offset: Tensor
    scale: Tensor
    modelled: Tensor
    with_scores: Tensor

    def __init__(self) -> None:
        super().__init__()

    def bind(self, columns: Sequence[Column]) -> Self:
        n = len(columns)
        named = torch.tensor([column.kind == Kind.CATEGORICAL for column in columns])
        share = torch.tensor([column.missing for column in columns])
        offset = torch.tensor([column.offset if column.is_discrete else 0.0 for column in columns])
        scale = torch.tensor([column.scale if column.is_discrete else 1.0 for column in columns])
        self.has_any = bool((share > 0).any())
        self.has_scores = bool(named.any())
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("modelled", share > 0, persistent=False)
        self.register_buffer("with_scores", named, persistent=False)
        n_levels = max([column.cardinality for column in columns if column.kind == Kind.CATEGORICAL], default=1)
        self.width = n * max(N_NODES, *(column.cardinality for column in columns)) if self.has_any else 0
        self.intercept = nn.Parameter(torch.logit(share.clamp(1e-3, 1 - 1e-3)))
        self.slope = nn.Parameter(torch.zeros(n))
        codes = torch.arange(n_levels).unsqueeze(1)
        self.scores = nn.Parameter((codes - offset) / scale)  # [L, C]
        return self

    def factors(self, distribution: TableDistribution, batch: Batch) -> dict[str, Any]:
        return {"mask": lambda: self._log_prob(distribution, batch).sum(-1)} if self.has_any else {}

    def given_mask(self, distribution: TableDistribution, batch: Batch) -> TableDistribution:
        if not self.has_any:
            return distribution
        intercept, slope = self._of_own(distribution, batch)
        sign = self._sign(batch)
        entries = self._facts(intercept, slope, sign, self.modelled)
        parts = []
        for part, at in zip(distribution.parts, distribution.positions, strict=True):
            parts.append(part.tilted(_LogProb(*(x[..., at] for x in entries))))
        return TableDistribution(parts, distribution.positions, distribution.order)

    def with_holes(self, values: Tensor, stream: torch.Generator) -> Tensor:
        if not self.has_any:
            return values
        u = torch.rand(values.shape, generator=stream, device=values.device)
        holes = (u < torch.sigmoid(self._logits(self._standardised(values)))) & self.modelled
        return values.masked_fill(holes, torch.nan)

    def log_masks(self, values: Tensor, missing: Tensor) -> Tensor | None:
        asked = self.modelled & ~missing.isnan()
        if not asked.any():
            return None
        logits = self._logits(self._standardised(values))
        return F.logsigmoid(torch.where(missing == 1.0, logits, -logits)).masked_fill(~asked, 0.0).sum(-1)

    def _logits(self, x: Tensor) -> Tensor:
        """Log-odds of being missing [..., C] of whole rows of standardised entries."""
        return self.intercept + self.slope * x

    def _of_own(self, distribution: TableDistribution, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-odds of being missing as a linear function of the entry itself: intercept and slope, [..., C]."""
        return self.intercept, self.slope

    def _standardised(self, values: Tensor) -> Tensor:
        """x̃ of entries [..., C]."""
        return _standardised(values, self.offset, self.scale, self._scores, self.with_scores)

    @property
    def _scores(self) -> Tensor:
        """Of levels without order [L, C], or nothing [0, C]."""
        return self.scores if self.has_scores else self.scores[:0]

    def _sign(self, batch: Batch) -> Tensor:
        """1 where an entry is missing, −1 where the row has it, [B, C]."""
        if batch.observed is None:
            return -torch.ones_like(batch.values)
        return 1.0 - 2.0 * batch.observed.to(batch.values.dtype)

    def _facts(self, *first: Tensor) -> list[Tensor]:
        """What the columns of a part need, with columns in the last axis."""
        return [*first, self.offset, self.scale, self._scores, self.with_scores]

    def _log_prob(self, distribution: TableDistribution, batch: Batch) -> Tensor:
        """log p(m_c | z, entries seen) [S, B, C], 0 for columns that are not modelled."""
        sign = self._sign(batch)
        intercept, slope = self._of_own(distribution, batch)
        shown = F.logsigmoid(sign * (intercept + slope * self._standardised(batch.values)))
        n_draws = distribution.parts[0].mean.shape[0]
        if batch.mask is None:
            return (shown * self.modelled).expand(n_draws, -1, -1)

        def averaged(part: Distribution, *entries: Tensor) -> Tensor:
            values, log_weights = part.nodes()  # [N, S, B, C]
            return (log_weights + _LogProb(*entries)(values)).logsumexp(0)

        hidden = distribution._join(averaged, *self._facts(intercept, slope, sign, self.modelled))
        return torch.where(batch.mask, shown, hidden) * self.modelled


class LinearMasking(SelfMasking):
    r"""An entry is missing with a probability that depends on all of the row (Ipsen et al. 2021).

    .. math:: p(m_c = 1 \mid x) = \sigma\bigl(\textstyle\sum_j W_{cj} \tilde x_j + b_c\bigr)

    As `SelfMasking`, whose sums over an entry itself it has too. What the other entries that are not seen contribute
    is taken for normal, with its mean and variance given z, and integrated by the probit approximation (MacKay 1992),
    and the masks of the columns for independent given z and the entries seen. Both are exact where no other entry is
    missing, and where W is diagonal.
    """

    alias = "linear"
    off_diagonal: Tensor

    def bind(self, columns: Sequence[Column]) -> Self:
        super().bind(columns)
        self.width *= 2
        n = len(columns)
        self.others = nn.Parameter(torch.zeros(n, n))  # the diagonal, which is `slope`, is not used
        self.register_buffer("off_diagonal", 1.0 - torch.eye(n), persistent=False)
        return self

    @property
    def _others(self) -> Tensor:
        return self.others * self.off_diagonal

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x) + x @ self._others.T

    def _of_own(self, distribution: TableDistribution, batch: Batch) -> tuple[Tensor, Tensor]:
        x = self._standardised(batch.values)
        if batch.mask is None:
            return self.intercept + x @ self._others.T, self.slope

        def moments(part: Distribution, *entries: Tensor) -> Tensor:
            values, log_weights = part.nodes()
            x, weights = _standardised(values, *entries), log_weights.exp()
            mean = (weights * x).sum(0)
            return torch.stack([mean, (weights * (x - mean).square()).sum(0)])

        mean, variance = distribution._join(moments, *self._facts())  # [S, B, C] each
        mean = torch.where(batch.mask, x, mean)
        variance = variance.masked_fill(batch.mask, 0.0)
        shrunk = torch.rsqrt(1 + _PROBIT * (variance @ self._others.square().T))
        return (self.intercept + mean @ self._others.T) * shrunk, self.slope * shrunk


class _LogProb:
    """log p(m_c | x_c) of entries of some columns, where the log-odds are linear in the entry; 0 if not modelled."""

    def __init__(self, intercept: Tensor, slope: Tensor, sign: Tensor, modelled: Tensor, *encoding: Any) -> None:
        self.intercept, self.slope, self.sign, self.modelled = intercept, slope, sign, modelled
        self.encoding = encoding

    def __call__(self, values: Tensor) -> Tensor:
        logits = self.intercept + self.slope * _standardised(values, *self.encoding)
        return F.logsigmoid(self.sign * logits) * self.modelled


def _standardised(values: Tensor, offset: Tensor, scale: Tensor, scores: Tensor, with_scores: Tensor) -> Tensor:
    """x̃ of entries [..., C] of columns of which all else is given in a last axis."""
    x = (values - offset) / scale
    if len(scores) == 0:
        return x
    n_levels, n_columns = scores.shape
    code = values.long().clamp(0, n_levels - 1)
    own = scores[code, torch.arange(n_columns, device=values.device)]
    return torch.where(with_scores, own, x)
