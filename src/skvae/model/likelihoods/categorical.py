"""Likelihoods of columns with levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from skvae.data.columns import DISCRETE, Column, Kind
from skvae.model.likelihoods.base import Distribution, Likelihood


class BernoulliColumns(Distribution):
    """Codes 0 and 1, with `logits` [S, B, C]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, values: Tensor) -> Tensor:
        return values * self.logits - F.softplus(self.logits)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def centre(self, weights: Tensor) -> Tensor:
        return ((weights.unsqueeze(-1) * self.mean).sum(0) > 0.5).to(self.logits.dtype)

    def cdf(self, values: Tensor) -> Tensor:
        above_zero = torch.where(values < 1, torch.sigmoid(-self.logits), 1.0)
        return torch.where(values < 0, 0.0, above_zero)

    def icdf(self, u: Tensor) -> Tensor:
        return (u > torch.sigmoid(-self.logits)).to(u.dtype)


class Bernoulli(Likelihood):
    """Columns with two levels."""

    alias = "bernoulli"
    kinds = frozenset({Kind.BINARY})

    def __init__(self) -> None:
        super().__init__()

    def bind(self, columns: Sequence[Column]) -> Bernoulli:
        self.n_params = len(columns)
        return self

    def forward(self, params: Tensor) -> BernoulliColumns:
        return BernoulliColumns(params)


class CategoricalColumns(Distribution):
    """Codes 0 … K_c − 1 of columns that share a table of `logits` [S, B, C, K], −inf where K_c < K."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, values: Tensor) -> Tensor:
        code = values.long().expand(self.logits.shape[:-1]).unsqueeze(-1)
        return self.logits.gather(-1, code).squeeze(-1) - self.logits.logsumexp(-1)

    @property
    def probs(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        return self.probs @ torch.arange(self.logits.shape[-1], dtype=self.logits.dtype, device=self.logits.device)

    def centre(self, weights: Tensor) -> Tensor:
        return torch.einsum("sb,sbck->bck", weights, self.probs).argmax(-1).to(self.logits.dtype)

    def cdf(self, values: Tensor) -> Tensor:
        code = values.long().clamp(0, self.logits.shape[-1] - 1).expand(self.logits.shape[:-1]).unsqueeze(-1)
        cumulative = self.probs.cumsum(-1).gather(-1, code).squeeze(-1)
        return torch.where(values < 0, 0.0, cumulative)

    def icdf(self, u: Tensor) -> Tensor:
        cumulative = self.probs.cumsum(-1)
        # Scaled to the total, so that rounding cannot lead past the last level.
        threshold = u.unsqueeze(-1) * cumulative[..., -1:]
        return (cumulative < threshold).sum(-1).to(u.dtype)


class Categorical(Likelihood):
    """Columns with named levels.

    Columns whose numbers of levels lie between the same powers of two are computed together, padded to the
    largest among them.
    """

    alias = "categorical"
    kinds = DISCRETE
    padding: Tensor

    def __init__(self) -> None:
        super().__init__()

    def groups(self, columns: Sequence[Column]) -> list[list[int]]:
        by_size: dict[int, list[int]] = {}
        for position, column in enumerate(columns):
            by_size.setdefault((column.cardinality - 1).bit_length(), []).append(position)
        return [by_size[size] for size in sorted(by_size)]

    def bind(self, columns: Sequence[Column]) -> Categorical:
        n_levels = torch.tensor([column.cardinality for column in columns])
        self.shape = (len(columns), int(n_levels.max()))
        self.n_params = self.shape[0] * self.shape[1]
        beyond = torch.arange(self.shape[1]) >= n_levels.unsqueeze(1)
        padding = torch.zeros(self.shape).masked_fill(beyond, -torch.inf)
        self.register_buffer("padding", padding, persistent=False)
        return self

    def forward(self, params: Tensor) -> CategoricalColumns:
        return CategoricalColumns(params.unflatten(-1, self.shape) + self.padding)
