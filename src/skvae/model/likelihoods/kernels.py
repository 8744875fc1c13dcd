"""Distributions about given values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skvae.data.columns import Column, Kind
from skvae.model.likelihoods.base import Distribution

# How far from a value of positive probability another may lie that is meant to be it, relative to its size: rounding
# errors of float32; and how far below a point of a grid, in steps.
_TOLERANCE, _ALLOWANCE = 1e-6, 0.01


class Kernels(Distribution):
    """Normals about values, cut off where nothing was observed; of whole numbers, rounded to these.

    A value that has a probability without lying on a grid (a level, a repeated number) stands for itself alone.

    Parameters
    ----------
    values : Tensor [K, B, C]
        Standardised or encoded.
    width : Tensor [C]
        σ of the normals, > 0, in standardised units.
    columns : sequence of Column
    like : Distribution
        Of the same columns; it says which values have a probability.
    """

    log_unit: Tensor

    def __init__(self, values: Tensor, width: Tensor, columns: Sequence[Column], like: Distribution) -> None:
        def standardised(numbers: list[float]) -> Tensor:
            pairs = zip(numbers, columns, strict=True)
            return values.new_tensor([(number - column.offset) / column.scale for number, column in pairs])

        self.values, self.width, self.like = values, width, like
        self.log_unit = values.new_tensor([math.log(column.scale) for column in columns])
        steps = [column.resolution if column.kind == Kind.INTEGER else 0.0 for column in columns]
        cell = values.new_tensor([step / column.scale for step, column in zip(steps, columns, strict=True)])
        self.origin = standardised([column.lower for column in columns])
        upper = standardised([column.upper for column in columns])
        has_mass = like.has_mass(values)
        self.is_rounded = has_mass & (cell > 0)
        self.is_point = has_mass & ~self.is_rounded
        self.half = torch.where(self.is_rounded, 0.5 * cell, 0.0)
        self.cell = torch.where(cell > 0, cell, 1.0)
        varies = upper > self.origin
        self.lower = torch.where(varies, self.origin - self.half, -torch.inf)
        self.upper = torch.where(varies, upper + self.half, torch.inf)
        self._below = self._normal_cdf(self.lower)
        self._inside = (self._normal_cdf(self.upper) - self._below).clamp(min=1e-30)

    def _normal_cdf(self, values: Tensor) -> Tensor:
        return torch.special.ndtr((values - self.values) / self.width)

    def _cdf_within(self, values: Tensor) -> Tensor:
        return ((self._normal_cdf(values) - self._below) / self._inside).clamp(0.0, 1.0)

    def has_mass(self, values: Tensor) -> Tensor:
        return self.like.has_mass(values)

    def log_prob(self, values: Tensor) -> Tensor:
        gap = values - self.values
        scaled = gap / self.width
        log_density = -0.5 * scaled.square() - (self.width.log() + 0.5 * math.log(2 * math.pi) + self.log_unit)
        # Where a value has a probability, a density adds nothing to it.
        outside = (values < self.lower) | (values > self.upper) | self.has_mass(values)
        density = torch.where(outside, -torch.inf, log_density - self._inside.log())
        in_cell = (self._cdf_within(values + self.half) - self._cdf_within(values - self.half)).log()
        point = torch.where(gap.abs() <= _TOLERANCE * self.values.abs().clamp(min=1.0), 0.0, -torch.inf)
        return torch.where(self.is_point, point, torch.where(self.is_rounded, in_cell, density))

    @property
    def mean(self) -> Tensor:
        def log_density(bound: Tensor) -> Tensor:
            return -0.5 * ((bound - self.values) / self.width).square() - 0.5 * math.log(2 * math.pi)

        cut = (log_density(self.lower).exp() - log_density(self.upper).exp()) / self._inside
        return torch.where(self.is_point, self.values, self.values + self.width * cut)

    def cdf(self, values: Tensor) -> Tensor:
        steps = torch.floor((values - self.origin) / self.cell + _ALLOWANCE)
        end = torch.where(self.is_rounded, self.origin + (steps + 0.5) * self.cell, values)
        at_or_above = values - self.values >= -_TOLERANCE * self.values.abs().clamp(min=1.0)
        return torch.where(self.is_point, at_or_above.to(values.dtype), self._cdf_within(end))

    def icdf(self, u: Tensor) -> Tensor:
        level = (self._below + u * self._inside).clamp(1e-7, 1 - 1e-7)
        x = torch.maximum(
            torch.minimum(self.values + self.width * torch.special.ndtri(level), self.upper), self.lower
        )
        rounded = self.origin + torch.round((x - self.origin) / self.cell) * self.cell
        return torch.where(self.is_point, self.values, torch.where(self.is_rounded, rounded, x))
