"""Distributions made wider or narrower about a centre."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.model.likelihoods.base import Distribution

# How far below a point of the grid a value may lie, in steps, that is meant to be it.
_ALLOWANCE = 0.01


class Stretched(Distribution):
    """The distribution of c + s (x − c).

    On a grid, x stands for its cell, over which it is spread evenly before it is stretched; the result is rounded to
    the grid again. Neighbouring cells thereby mix, and what was all but impossible beside something possible is no
    longer.

    Parameters
    ----------
    core : Distribution
        Of x.
    centre : Tensor [B, C]
        c.
    factor : Tensor [C]
        s > 0.
    cell : Tensor [C]
        Distance between neighbouring points of the grid, in standardised units; 0 for a density.
    origin : Tensor [C]
        A point of the grid.
    """

    def __init__(self, core: Distribution, centre: Tensor, factor: Tensor, cell: Tensor, origin: Tensor) -> None:
        self.core, self._about, self.factor, self.origin = core, centre, factor, origin
        self.has_grid = cell > 0
        self.cell = torch.where(self.has_grid, cell, 1.0)

    def log_prob(self, values: Tensor) -> Tensor:
        density = self.core.log_prob(self._compressed(values)) - self.factor.log()
        if not bool(self.has_grid.any()):
            return density
        # The cell of the value, compressed, covers parts of a few cells: all of those between its ends.
        lower, upper = (self._compressed(values + end * self.cell) for end in (-0.5, 0.5))
        first = torch.round((lower - values) / self.cell)
        masses = []
        for k in range(math.ceil(1 / float(self.factor.min())) + 1):
            middle = values + (first + k) * self.cell
            covered = torch.minimum(upper, middle + 0.5 * self.cell) - torch.maximum(lower, middle - 0.5 * self.cell)
            masses.append(self.core.log_prob(middle) + (covered / self.cell).clamp(min=0.0).log())
        return torch.where(self.has_grid, torch.stack(masses).logsumexp(0), density)

    def has_mass(self, values: Tensor) -> Tensor:
        return self.has_grid | self.core.has_mass(self._compressed(values))

    @property
    def mean(self) -> Tensor:
        return self._about + self.factor * (self.core.mean - self._about)

    def cdf(self, values: Tensor) -> Tensor:
        steps = torch.floor((values - self.origin) / self.cell + _ALLOWANCE)
        inner = self._compressed(torch.where(self.has_grid, self.origin + (steps + 0.5) * self.cell, values))
        point = self._nearest(inner)
        share = ((inner - point) / self.cell + 0.5).clamp(0.0, 1.0)
        between = torch.lerp(self.core.cdf(point - self.cell), self.core.cdf(point), share)
        return torch.where(self.has_grid, between, self.core.cdf(inner))

    def icdf(self, u: Tensor) -> Tensor:
        x = self.core.icdf(u)
        below = self.core.cdf(x - self.cell)
        share = ((u - below) / (self.core.cdf(x) - below).clamp(min=1e-30)).clamp(0.0, 1.0)
        x = torch.where(self.has_grid, x + (share - 0.5) * self.cell, x)
        stretched = self._about + self.factor * (x - self._about)
        return torch.where(self.has_grid, self._nearest(stretched), stretched)

    def _compressed(self, values: Tensor) -> Tensor:
        return self._about + (values - self._about) / self.factor

    def _nearest(self, values: Tensor) -> Tensor:
        """The point of the grid in whose cell they are."""
        return self.origin + torch.round((values - self.origin) / self.cell) * self.cell
