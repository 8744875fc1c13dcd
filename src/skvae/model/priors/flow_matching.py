"""A prior of any shape, by a flow in continuous time that is learned without being run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.model.checks import check_whole
from skvae.model.posteriors.normal import standard_normal_log_prob
from skvae.model.priors.base import ScaledPrior

# Waves by which the network is told the time.
_N_WAVES = 8


class FlowMatchingPrior(ScaledPrior):
    r"""The latents to which a learned velocity carries standard normal noise in unit time.

    .. math:: \frac{dx}{dt} = v(x, t), \quad x(0) \sim N(0, I), \quad z = x(1), \qquad
        \log p(z) = \log N(x(0); 0, I) - \int_0^1 \operatorname{tr} \frac{\partial v}{\partial x} \, dt

    (Chen, Rubanova, Bettencourt & Duvenaud 2018, equation 8). Fitted to latents by conditional flow matching along
    straight lines, E ‖v((1 − t) ε + t z, t) − (z − ε)‖² (Lipman, Chen, Ben-Hamu, Nickel & Le 2023, equation 23 with
    σ_min = 0), which takes one pass of the network for a step. A draw takes 4 `n_steps` passes (Runge & Kutta), and
    a density D times as many, as the trace is exact: for generating, rather than for scoring many rows.

    Parameters
    ----------
    hidden_size : int
        Hidden units of each layer.
    n_blocks : int
        Residual blocks, of two layers each.
    n_steps : int
        Steps from noise to latents.
    """

    alias = "flow-matching"
    fitting_steps = 4.0  # each is quick, and tells little

    def __init__(self, hidden_size: int = 128, n_blocks: int = 2, n_steps: int = 16) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.n_blocks = n_blocks
        self.n_steps = n_steps

    def bind(self, latent_dim: int, n_context: int = 0) -> FlowMatchingPrior:
        for name in ("hidden_size", "n_steps"):
            check_whole(self, name, 1)
        check_whole(self, "n_blocks", 0)
        super().bind(latent_dim, n_context)
        self.width = latent_dim * self.hidden_size
        self.first = nn.Linear(latent_dim, self.hidden_size)
        self.time = nn.Linear(2 * _N_WAVES, self.hidden_size, bias=False)
        self.context = nn.Linear(n_context, self.hidden_size, bias=False) if n_context else None
        self.layers = nn.ModuleList(nn.Linear(self.hidden_size, self.hidden_size) for _ in range(2 * self.n_blocks))
        self.last = nn.Linear(self.hidden_size, latent_dim)
        with torch.no_grad():  # nothing moves at first
            self.last.weight.zero_()
            self.last.bias.zero_()
        return self

    def fitting_loss(self, z: Tensor, stream: torch.Generator) -> Tensor:
        """Squared error of the velocity on the lines between noise and latents [n, D], [n]."""
        x = (z - self.centre) / self.unit
        eps = torch.randn(x.shape, generator=stream, device=x.device, dtype=x.dtype)
        # Evenly spread over the rows, which leaves less to chance.
        start = torch.rand((), generator=stream, device=x.device, dtype=x.dtype)
        t = ((torch.arange(len(x), device=x.device, dtype=x.dtype) / len(x) + start) % 1.0).unsqueeze(-1)
        velocity = self._hidden(torch.lerp(eps, x, t), t, None)[1]
        return (velocity - (x - eps)).square().sum(-1)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x = (z - self.centre) / self.unit
        moved, divergence = self._carried(x, context, backwards=True)
        return standard_normal_log_prob(moved) + divergence - self.unit.log().sum()

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        return self.centre + self.unit * self._carried(eps, context)[0]

    def _carried(self, x: Tensor, context: Tensor | None, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """Where x [..., D] is carried from t = 0 to 1, or from 1 to 0, and then the integral of the trace as well."""
        step = (-1.0 if backwards else 1.0) / self.n_steps
        total = torch.zeros_like(x[..., 0])
        for k in range(self.n_steps):
            t = k * step + (1.0 if backwards else 0.0)
            v1, d1 = self._velocity(x, t, context, backwards)
            v2, d2 = self._velocity(x + 0.5 * step * v1, t + 0.5 * step, context, backwards)
            v3, d3 = self._velocity(x + 0.5 * step * v2, t + 0.5 * step, context, backwards)
            v4, d4 = self._velocity(x + step * v3, t + step, context, backwards)
            x = x + step / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
            total = total + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return x, total

    def _velocity(self, x: Tensor, t: float, context: Tensor | None, with_trace: bool) -> tuple[Tensor, Tensor]:
        """v(x, t) [..., D], and the trace of its Jacobian [...], 0 if that is not wanted."""
        slopes, velocity = self._hidden(x, x.new_full((1,), t), context)
        if not with_trace:
            return velocity, velocity.new_zeros(())
        tangents = self.first.weight.T.expand(*x.shape[:-1], -1, -1)  # [..., D, H], one for each latent
        for (one, two), (outer, inner) in zip(self._blocks, slopes[:-1], strict=True):
            through = F.linear(outer.unsqueeze(-2) * tangents, one.weight)
            tangents = tangents + F.linear(inner.unsqueeze(-2) * through, two.weight)
        weight = slopes[-1][0].unsqueeze(-2) * self.last.weight  # [..., D, H]
        return velocity, (tangents * weight).sum((-1, -2))

    def _hidden(self, x: Tensor, t: Tensor, context: Tensor | None) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """Derivatives of all activations, those of each block and of the last layer, and the velocity."""
        angle = math.pi * t * torch.arange(1, _N_WAVES + 1, device=x.device, dtype=x.dtype)
        hidden = self.first(x) + self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context)
        slopes: list[tuple[Tensor, ...]] = []
        for one, two in self._blocks:
            inner = one(F.silu(hidden))
            slopes.append((_slope(hidden), _slope(inner)))
            hidden = hidden + two(F.silu(inner))
        slopes.append((_slope(hidden),))
        return slopes, self.last(F.silu(hidden))

    @property
    def _blocks(self) -> list[tuple[Any, Any]]:
        """The two layers of each block."""
        return list(zip(self.layers[::2], self.layers[1::2], strict=True))


def _slope(x: Tensor) -> Tensor:
    """The derivative of silu."""
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))
