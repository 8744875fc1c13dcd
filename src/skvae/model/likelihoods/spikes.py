"""Columns in which some values repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from skvae.data.columns import NUMERIC, Column, Kind
from skvae.model.component import resolve
from skvae.model.likelihoods.base import Distribution, Likelihood
from skvae.model.likelihoods.columnwise import look_up, search
from skvae.model.likelihoods.continuous import default_gaussian, standardised

# How far from a spike an entry may lie that is meant to be it, relative to its size: rounding errors of float32.
_TOLERANCE = 1e-6
# Stands where a column has fewer spikes than others: farther out than any standardised value may lie.
_NOWHERE = 1e9


class SpikedColumns(Distribution):
    """Σ_k w_k 1[x = v_k] + w_rest p_rest(x).

    Parameters
    ----------
    logits : Tensor [S, B, C, K + 1]
        Those of the spikes, −∞ where a column has fewer than K, and that of the rest.
    rest : Distribution
    spikes : Tensor [C, K]
        v_k in standardised units, increasing.
    tolerance : Tensor [C, K]
        How far from a spike an entry may lie that is one.
    """

    def __init__(self, logits: Tensor, rest: Distribution, spikes: Tensor, tolerance: Tensor) -> None:
        self.logits, self.rest, self.spikes, self.tolerance = logits, rest, spikes, tolerance
        self.log_unit = rest.log_unit

    def _nearest_spike(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Number of the spike nearest to each of `values` [..., C], and whether it is that."""
        left, right = self.spikes[:, :-1], self.spikes[:, 1:]
        # Below the right one even where the two are neighbours in float32.
        middles = torch.minimum(0.5 * (left + right), torch.nextafter(right, left))
        nearest = search(middles, values)
        return nearest, (values - look_up(self.spikes, nearest)).abs() <= look_up(self.tolerance, nearest)

    def has_mass(self, values: Tensor) -> Tensor:
        return super().has_mass(values) | self._nearest_spike(values)[1]

    def log_prob(self, values: Tensor) -> Tensor:
        nearest, is_spike = self._nearest_spike(values)  # [B, C]
        total = self.logits.logsumexp(-1)
        rest = self.rest.log_prob(values) + self.logits[..., -1]
        at = nearest.expand(total.shape).unsqueeze(-1)
        spike = torch.where(is_spike, self.logits.gather(-1, at).squeeze(-1), -torch.inf)
        if self.log_unit is None:
            return torch.logaddexp(spike, rest) - total
        return torch.where(is_spike, spike, rest) - total

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        if self.log_unit is None:
            return self.log_prob(values)
        above = self.spikes > (values - half).unsqueeze(-1)
        inside = above & (self.spikes <= (values + half).unsqueeze(-1))  # [B, C, K]
        log_share = self.logits.log_softmax(-1)
        rest = log_share[..., -1] + self.rest.log_cell_prob(values, half)
        inside_share = log_share[..., :-1].masked_fill(~inside, -torch.inf)
        return torch.cat([inside_share, rest.unsqueeze(-1)], dim=-1).logsumexp(-1)

    @cached_property
    def _share(self) -> Tensor:
        return self.logits.softmax(-1)

    @cached_property
    def _cumulative(self) -> Tensor:
        """Share of the first 0 … K spikes, [S, B, C, K + 1]."""
        below = self._share[..., :-1].cumsum(-1)
        return torch.cat([torch.zeros_like(below[..., :1]), below], dim=-1)

    def _share_of_first(self, n: Tensor) -> Tensor:
        """Share of the first `n` [..., C] spikes, [S, B, C]."""
        n = n.expand(self.logits.shape[:-1])
        return self._cumulative.gather(-1, n.unsqueeze(-1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        of_spikes = (self._share[..., :-1] * self.spikes).sum(-1)
        return torch.addcmul(of_spikes, self._share[..., -1], self.rest.mean)

    def cdf(self, values: Tensor) -> Tensor:
        n_below = search(self.spikes - self.tolerance, values, right=True)
        return torch.addcmul(self._share_of_first(n_below), self._share[..., -1], self.rest.cdf(values))

    def icdf(self, u: Tensor) -> Tensor:
        # The number n of spikes v with P(x ≤ v) < u, by halving; the quantile lies above them and not above the
        # next. Between the two only the rest gains probability.
        n_spikes = self.spikes.shape[-1]
        n, beyond = torch.zeros_like(u, dtype=torch.int64), torch.full_like(u, n_spikes, dtype=torch.int64)
        for _ in range(n_spikes.bit_length()):
            middle = (n + beyond) // 2
            spike = look_up(self.spikes, middle.clamp(max=n_spikes - 1))
            is_below = self._share_of_first((middle + 1).clamp(max=n_spikes))
            is_below = torch.addcmul(is_below, self._share[..., -1], self.rest.cdf(spike)) < u
            is_below &= middle < beyond
            n, beyond = torch.where(is_below, middle + 1, n), torch.where(is_below, beyond, middle)
        of_rest = ((u - self._share_of_first(n)) / self._share[..., -1].clamp(min=1e-30)).clamp(
            2.0**-25, 1 - 2.0**-24
        )
        next_spike = torch.where(n < n_spikes, look_up(self.spikes, n.clamp(max=n_spikes - 1)), _NOWHERE)
        return torch.minimum(self.rest.icdf(of_rest), next_spike)


class Spikes(Likelihood):
    """Repeated values with a probability each, and another likelihood for the rest.

    The shares of a column's spikes (`Column.spikes`, found at fit) and of the rest are predicted per entry. If the
    rest is a mass (rounded whole numbers, counts), an entry equal to a spike has the sum of both probabilities. If
    it is a density, the distribution's is one with respect to length plus the counting of spikes, and an entry
    equal to a spike scores its share alone, in no unit. One spike at 0 is the zero-inflated case (Lambert 1992).
    A column without spikes is scored by the rest.

    Parameters
    ----------
    rest : "auto", str or Likelihood
        "auto": Gaussian with a predicted deviation, rounded for whole numbers.
    """

    alias = "spikes"
    padding: Tensor
    spikes: Tensor
    tolerance: Tensor

    def __init__(self, rest: Any = "auto") -> None:
        super().__init__()
        self.rest = rest

    def _rest(self, kind: Kind) -> Likelihood:
        if isinstance(self.rest, str) and self.rest == "auto":
            return default_gaussian(kind)
        return resolve(Likelihood, self.rest, "rest")

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        return frozenset(kind for kind in NUMERIC if kind in self._rest(kind).kinds)

    def check(self, columns: Sequence[Column]) -> None:
        if not self.kinds:
            raise ValueError(f"Spikes(rest={self.rest!r}): expected a likelihood of numeric columns")
        super().check(columns)
        for column in columns:
            self._rest(column.kind).check([_without_spike_at_end(column)])

    def groups(self, columns: Sequence[Column]) -> list[list[int]]:
        """Columns with the same rest and numbers of spikes between the same powers of two."""
        alike: dict[tuple[str, int], list[int]] = {}
        for position, column in enumerate(columns):
            alike.setdefault((repr(self._rest(column.kind)), len(column.spikes).bit_length()), []).append(position)
        groups = []
        for members in alike.values():
            chosen = [columns[j] for j in members]
            groups += [[members[j] for j in group] for group in self._rest(chosen[0].kind).groups(chosen)]
        return groups

    def bind(self, columns: Sequence[Column]) -> Spikes:
        self.part = self._rest(columns[0].kind).bind(columns)
        n_spikes = torch.tensor([len(column.spikes) for column in columns])
        self.shape = (len(columns), int(n_spikes.max()) + 1)
        self.n_params = self.part.n_params
        if self.shape[1] == 1:
            return self
        self.n_params += self.shape[0] * self.shape[1]
        most = self.shape[1] - 1
        ordered = [sorted(column.spikes) + [0.0] * (most - len(column.spikes)) for column in columns]
        is_padding = torch.arange(most) >= n_spikes.unsqueeze(1)
        spikes = standardised(ordered, columns).masked_fill(is_padding, _NOWHERE)
        gap = torch.diff(spikes, prepend=spikes[:, :1] - torch.inf, append=spikes[:, -1:] + torch.inf)
        near = 0.25 * torch.minimum(gap[:, 1:], gap[:, :-1])  # what lies halfway between two is neither
        tolerance = torch.minimum(near, _TOLERANCE * spikes.abs().clamp(min=1.0))
        padding = torch.zeros(self.shape)
        padding[:, :-1].masked_fill_(is_padding, -torch.inf)
        self.register_buffer("padding", padding, persistent=False)
        self.register_buffer("spikes", spikes.float(), persistent=False)
        self.register_buffer("tolerance", tolerance.float(), persistent=False)
        return self

    def arranged(self, params: Tensor) -> Tensor:
        if self.shape[1] == 1:
            return self.part.arranged(params)
        raw = params[..., -self.shape[1] :, :].transpose(-1, -2).flatten(-2)
        return torch.cat([self.part.arranged(params[..., : -self.shape[1], :]), raw], dim=-1)

    def forward(self, params: Tensor) -> Distribution:
        if self.shape[1] == 1:
            return self.part(params)
        rest, raw = params.split([self.part.n_params, self.padding.numel()], dim=-1)
        return SpikedColumns(
            raw.unflatten(-1, self.shape) + self.padding, self.part(rest), self.spikes, self.tolerance
        )


def _without_spike_at_end(column: Column) -> Column:
    """The column as its rest may see it: the smallest value is none of the rest's if it is a spike."""
    if column.lower not in column.spikes:
        return column
    return replace(column, lower=min((v for v in column.quantiles if v > column.lower), default=column.upper))
