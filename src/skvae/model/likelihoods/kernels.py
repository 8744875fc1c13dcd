"""Distributions about given values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.model.likelihoods.base import Distribution

# How far from a value of positive probability another may lie that is meant to be it: rounding errors of float32.
_TOLERANCE = 1e-6


class Kernels(Distribution):
    """Normals about values, or, where a value has a probability of its own, that value alone.

    Parameters
    ----------
    values : Tensor [K, B, C]
    width : Tensor [C]
        σ of the normals, > 0, in standardised units.
    log_unit : Tensor [C]
        As that of a density.
    like : Distribution
        Of the same columns; it says which values have a probability.
    """

    log_unit: Tensor

    def __init__(self, values: Tensor, width: Tensor, log_unit: Tensor, like: Distribution) -> None:
        self.values, self.width, self.log_unit, self.like = values, width, log_unit, like
        self.is_point = like.has_mass(values)
        self.tolerance = _TOLERANCE * values.abs().clamp(min=1.0)

    def has_mass(self, values: Tensor) -> Tensor:
        return self.like.has_mass(values)

    def log_prob(self, values: Tensor) -> Tensor:
        gap = values - self.values
        density = -0.5 * (gap / self.width).square() - self.width.log() - 0.5 * math.log(2 * math.pi) - self.log_unit
        mass = torch.where(gap.abs() <= self.tolerance, 0.0, -torch.inf)
        # Where the value has a probability, a density adds nothing to it.
        return torch.where(self.is_point, mass, torch.where(self.has_mass(values), -torch.inf, density))

    @property
    def mean(self) -> Tensor:
        return self.values

    def cdf(self, values: Tensor) -> Tensor:
        gap = values - self.values
        return torch.where(
            self.is_point, (gap >= -self.tolerance).to(gap.dtype), torch.special.ndtr(gap / self.width)
        )

    def icdf(self, u: Tensor) -> Tensor:
        return torch.where(self.is_point, self.values, self.values + self.width * torch.special.ndtri(u))
