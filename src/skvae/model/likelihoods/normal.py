"""The normal distribution of columns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skvae.model.likelihoods.base import Distribution

_LOG_2PI = math.log(2 * math.pi)
_SQRT_HALF = math.sqrt(0.5)
# In σ: half the width below which a cell is narrow, and the distance from which on it is in the tail.
_NARROW, _TAIL = 0.01, 10.0


class Normal(Distribution):
    """N(μ, σ²) in standardised units; densities are given in the units of the data.

    Parameters
    ----------
    mean : Tensor [S, B, C]
    log_scale : Tensor, broadcastable to [S, B, C]
        log σ.
    log_unit : Tensor [C]
        Log of the columns' standard deviations in the data's units: the log-Jacobian of the standardisation.
    """

    log_unit: Tensor

    def __init__(self, mean: Tensor, log_scale: Tensor, log_unit: Tensor) -> None:
        self._mean, self.log_scale, self.log_unit = mean, log_scale, log_unit

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def scale(self) -> Tensor:
        return torch.exp(self.log_scale)

    def log_prob(self, values: Tensor) -> Tensor:
        # −log σ − c − ½ (x − μ)² / σ², in as few passes over [S, B, C] as that takes.
        constant = (-0.5 * _LOG_2PI - self.log_unit) - self.log_scale
        precision = torch.exp(-2.0 * self.log_scale)
        squared = F.mse_loss(self._mean, values.expand_as(self._mean), reduction="none")
        return torch.addcmul(constant, squared, precision, value=-0.5)

    def cdf(self, values: Tensor) -> Tensor:
        return torch.special.ndtr((values - self._mean) / self.scale)

    def icdf(self, u: Tensor) -> Tensor:
        return self._mean + self.scale * torch.special.ndtri(u)

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        scale = self.scale
        return _LogCellMass.apply((values - self._mean).abs() / scale, half / scale)[0]


class _LogCellMass(torch.autograd.Function):
    """log[Φ(t + h) − Φ(t − h)]: a cell of half width h whose middle lies t ≥ 0 from the mean, in σ.

    With p = φ(t − h) / mass and q = φ(t + h) / mass, the derivatives are q − p and q + p. They are written out
    because that of `log_ndtr` is lost in float32 in the tails, and because one node costs less than forty.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(distance: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = 2 * half.clamp(min=_NARROW)
        edge = distance - 0.5 * width  # the one nearer to the mean
        log_density = -0.5 * (edge.square() + _LOG_2PI)
        # The mass is a difference of cdfs up to where they underflow; farther out, it is φ(edge) times the
        # integral of an exponential decay over the cell.
        near = edge.clamp(max=_TAIL) * _SQRT_HALF
        mass = 0.5 * (torch.erfc(near) - torch.erfc(near + _SQRT_HALF * width))
        far = edge.clamp(min=_TAIL)
        rate = far + 1 / far
        integral = torch.expm1(-rate * width) / -rate
        in_tail = edge > _TAIL
        log_mass = torch.where(in_tail, log_density + integral.log(), mass.log())
        p = torch.where(in_tail, 1 / integral, log_density.exp() / mass)
        q = p * torch.exp(-distance * width)
        # In cells much narrower than σ the cdfs cancel; the midpoint rule errs by (t h)² / 6 nats, less than
        # 1e-4 of the value.
        midpoint = torch.log(2 * half) - 0.5 * (distance.square() + _LOG_2PI)
        is_narrow = half < _NARROW
        log_mass = torch.where(is_narrow, midpoint, log_mass)
        by_distance = torch.where(is_narrow, -distance, q - p)
        by_half = torch.where(is_narrow, 1 / half, q + p)
        return log_mass, by_distance, by_half

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        by_distance, by_half = ctx.saved_tensors
        return grad * by_distance, grad * by_half
