"""Distributions weighed by a function of the entry: p(x) g(x), renormalised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skvae.model.likelihoods.base import Distribution

# The probabilities between which g is taken for constant: those of a normal variable's values at even distances, so
# that the tails are followed too. The first and the last cell reach to the ends.
_N_CELLS = 32
_EDGES = torch.special.ndtr(torch.linspace(-4, 4, _N_CELLS + 1, dtype=torch.float64))
_EDGES[0], _EDGES[-1] = 0.0, 1.0
_MIDDLES = torch.special.ndtr(torch.linspace(-4, 4, 2 * _N_CELLS + 1, dtype=torch.float64)[1::2])


class Tilted(Distribution):
    """p(x) g(x) / E[g], for numbers: g is followed over the quantiles of p, in 32 cells.

    Parameters
    ----------
    core : Distribution
        p.
    log_g : callable
        log g of values [..., B, C], broadcastable to [S, B, C], finite.
    """

    def __init__(self, core: Distribution, log_g: Callable[[Tensor], Tensor]) -> None:
        self.core, self.log_g = core, log_g
        self.log_unit = core.log_unit
        like = core.mean
        self._edges = _EDGES.to(like)
        nodes = [core.icdf(torch.full_like(like, float(level))) for level in _MIDDLES]
        self._nodes = torch.stack(nodes, dim=-1)  # [S, B, C, N]
        log_weight = torch.stack([log_g(x) for x in nodes], dim=-1) + self._edges.diff().log()
        self._log_mean = log_weight.logsumexp(-1)
        self._weight = log_weight.softmax(-1)
        below = self._weight.cumsum(-1)
        self._cumulative = torch.cat([torch.zeros_like(below[..., :1]), below / below[..., -1:]], dim=-1)

    def log_prob(self, values: Tensor) -> Tensor:
        return self.core.log_prob(values) + self.log_g(values) - self._log_mean

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        return self.core.log_cell_prob(values, half) + self.log_g(values) - self._log_mean

    @property
    def mean(self) -> Tensor:
        return (self._weight * self._nodes).sum(-1)

    def cdf(self, values: Tensor) -> Tensor:
        level = self.core.cdf(values)
        cell = torch.searchsorted(self._edges[1:-1], level.contiguous()).unsqueeze(-1)
        return self._between(level, cell, self._edges, self._cumulative)

    def icdf(self, u: Tensor) -> Tensor:
        cell = (self._cumulative[..., 1:-1] < u.unsqueeze(-1)).sum(-1, keepdim=True)
        level = self._between(u, cell, self._cumulative, self._edges)
        return self.core.icdf(level.clamp(2.0**-25, 1 - 2.0**-24))

    @staticmethod
    def _between(level: Tensor, cell: Tensor, edges: Tensor, onto: Tensor) -> Tensor:
        """Where `level` [S, B, C] lies in its cell of `edges` [..., N + 1], in that of `onto`."""

        def at(ends: Tensor, k: Tensor) -> Tensor:
            return ends.expand(*level.shape, -1).gather(-1, k).squeeze(-1)

        low, high = at(edges, cell), at(edges, cell + 1)
        share = ((level - low) / (high - low).clamp(min=1e-30)).clamp(0.0, 1.0)
        return torch.lerp(at(onto, cell), at(onto, cell + 1), share)
