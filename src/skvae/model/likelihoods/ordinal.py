"""Ordered levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.data.columns import Column, Kind
from skvae.model.likelihoods.base import Distribution, Likelihood, soft_limit
from skvae.model.likelihoods.categorical import CategoricalColumns, code_values, groups_by_size
from skvae.model.likelihoods.columnwise import look_up

# The standard deviation of the standard logistic distribution.
_LOGISTIC_DEVIATION = math.pi / math.sqrt(3.0)
_LOG_STRETCH_LIMIT = 5.0
_LEAST = 1e-12  # probability of a level, where its logarithm is to be finite


class OrdinalColumns(Distribution):
    """Codes 0 … K_c − 1 with P(code ≤ k) = σ(θ_k − f).

    Parameters
    ----------
    location : Tensor [S, B, C]
        f.
    thresholds : Tensor [C, K + 1]
        −∞, θ_0 < θ_1 < …, and +∞ from a column's last level on.
    """

    def __init__(self, location: Tensor, thresholds: Tensor) -> None:
        self.location, self.thresholds = location, thresholds

    def log_prob(self, values: Tensor) -> Tensor:
        # σ(b) − σ(a) = σ(b) σ(−a) [1 − exp(a − b)], which loses no digits; a level at the end has an infinite
        # threshold and thereby one factor.
        code = values.long()
        below, above = look_up(self.thresholds, code), look_up(self.thresholds, code + 1)  # [B, C]
        width = torch.log(-torch.expm1(below - above))
        return width + F.logsigmoid(above - self.location) + F.logsigmoid(self.location - below)

    @property
    def _cumulative(self) -> Tensor:
        """P(code ≤ k) for k = 0 … K − 2, [S, B, C, K − 1]."""
        return torch.sigmoid(self.thresholds[:, 1:-1] - self.location.unsqueeze(-1))

    @property
    def mean(self) -> Tensor:
        return (1.0 - self._cumulative).sum(-1)

    def centre(self, weights: Tensor) -> Tensor:
        cumulative = torch.einsum("sb,sbck->bck", weights, self._cumulative)
        probs = F.pad(cumulative, (0, 1), value=1.0) - F.pad(cumulative, (1, 0))
        return probs.argmax(-1).to(self.location.dtype)

    def cdf(self, values: Tensor) -> Tensor:
        # Beyond the last level the threshold is +∞, below the first −∞.
        above = (torch.floor(values).long() + 1).clamp(0, self.thresholds.shape[1] - 1)
        return torch.sigmoid(look_up(self.thresholds, above) - self.location)

    def icdf(self, u: Tensor) -> Tensor:
        return (self._cumulative < u.unsqueeze(-1)).sum(-1).to(u.dtype)

    def nodes(self) -> tuple[Tensor, Tensor]:
        cumulative = self._cumulative
        probs = F.pad(cumulative, (0, 1), value=1.0) - F.pad(cumulative, (1, 0))
        log_p = probs.clamp(min=_LEAST).log().movedim(-1, 0)
        return code_values(log_p), log_p

    def tilted(self, log_g: Callable[[Tensor], Tensor]) -> Distribution:
        values, log_p = self.nodes()
        return CategoricalColumns((log_p + log_g(values)).movedim(0, -1))


class Ordinal(Likelihood):
    """Ordered levels, by a cumulative logit model (McCullagh 1980, equation 2.1).

    P(code ≤ k) = σ(θ_k − f): thresholds θ learned per column, one location f per entry. Where only the order
    of the levels matters, this takes one number per entry where `Categorical` takes one per level.
    """

    alias = "ordinal"
    kinds = frozenset({Kind.ORDINAL})
    padding: Tensor

    def __init__(self) -> None:
        super().__init__()

    def groups(self, columns: Sequence[Column]) -> list[list[int]]:
        return groups_by_size(columns)

    def bind(self, columns: Sequence[Column]) -> Ordinal:
        self.n_params = len(columns)
        n_levels = torch.tensor([column.cardinality for column in columns])
        n_thresholds = int(n_levels.max()) - 1
        # At the start, those of a logistic variable with the mean and the deviation of the codes.
        unit = torch.tensor([_LOGISTIC_DEVIATION / column.scale for column in columns])  # [C]
        centre = torch.tensor([column.offset for column in columns])
        self.first = nn.Parameter(((0.5 - centre) * unit).unsqueeze(-1))
        self.steps = nn.Parameter(_inverse_softplus(unit).unsqueeze(-1).repeat(1, n_thresholds - 1))
        # Of θ and f alike, which could grow without it, but each by itself and slowly.
        self.log_stretch = nn.Parameter(torch.zeros(len(columns)))
        beyond = torch.arange(n_thresholds) >= n_levels.unsqueeze(1) - 1
        padding = torch.zeros(len(columns), n_thresholds).masked_fill(beyond, torch.inf)
        self.register_buffer("padding", F.pad(padding, (1, 1), value=torch.inf), persistent=False)
        self.padding[:, 0] = -torch.inf
        return self

    def forward(self, params: Tensor) -> OrdinalColumns:
        steps = F.softplus(self.steps).cumsum(-1)
        stretch = torch.exp(soft_limit(self.log_stretch, -_LOG_STRETCH_LIMIT, _LOG_STRETCH_LIMIT))
        inner = torch.cat([self.first, self.first + steps], dim=-1) * stretch.unsqueeze(-1)  # [C, K − 1]
        return OrdinalColumns(params * stretch, F.pad(inner, (1, 1)) + self.padding)


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
