"""Continuous variables rounded to a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from skvae.model.likelihoods.base import Distribution


class Rounded(Distribution):
    """A continuous variable rounded to a grid: the probability of each cell of width `cell`.

    `mean` and `centre` are those of the variable before rounding.

    Parameters
    ----------
    core : Distribution
        The variable before rounding, a density.
    cell : Tensor [C]
        Distance between neighbouring values, in standardised units.
    origin : Tensor [C]
        A point of the grid, in standardised units.
    """

    def __init__(self, core: Distribution, cell: Tensor, origin: Tensor) -> None:
        self.core, self.cell, self.origin = core, cell, origin

    def log_prob(self, values: Tensor) -> Tensor:
        return self.core.log_cell_prob(values, 0.5 * self.cell)

    @property
    def mean(self) -> Tensor:
        return self.core.mean

    def cdf(self, values: Tensor) -> Tensor:
        # Rounded down to the grid, with some allowance for the inexactness of values that lie on it.
        steps = torch.floor((values - self.origin) / self.cell + 0.01)
        return self.core.cdf(self.origin + (steps + 0.5) * self.cell)

    def icdf(self, u: Tensor) -> Tensor:
        steps = torch.round((self.core.icdf(u) - self.origin) / self.cell)
        return self.origin + steps * self.cell
