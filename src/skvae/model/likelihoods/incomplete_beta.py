"""The regularised incomplete beta function and its inverse: cdf and quantiles of Beta and Student's t.

All is done for the logit s of a Beta(a, b) variable x = σ(s), whose density is smooth and log-concave whatever
a and b. Good for a and b between 0.1 and 10,000, to about 1e-6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# exp-sinh quadrature (Takahasi & Mori 1974) of the half-line: nodes exp(π/2 sinh t), for evenly spaced t.
_STEPS = torch.linspace(-3.0, 2.2, 40, dtype=torch.float64)
_NODES = torch.exp(0.5 * math.pi * torch.sinh(_STEPS))
_WEIGHTS = 0.5 * math.pi * torch.cosh(_STEPS) * _NODES * (_STEPS[1] - _STEPS[0])
_EXP_SINH = list(zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True))


def stirling_error(a: Tensor) -> Tensor:
    """log Γ(a) − [(a − ½) log a − a + ½ log 2π], which is small where the rest is large and cancels."""
    large = a.clamp(min=8.0)
    series = (1 / 12 - (1 / 360 - 1 / (1260 * large.square())) / large.square()) / large
    small = a.clamp(max=8.0)
    direct = torch.lgamma(small) - (small - 0.5) * small.log() + small - 0.5 * math.log(2 * math.pi)
    return torch.where(a > 8.0, series, direct)


def log_density(a: Tensor, b: Tensor, log_x: Tensor, log_rest: Tensor) -> Tensor:
    """log [x^a (1 − x)^b / B(a, b)] from log x and log(1 − x): the density of the logit.

    Written with the mean m = a / (a + b), so that no large terms cancel.
    """
    total = a + b
    kernel = a * (log_x - (a / total).log()) + b * (log_rest - (b / total).log())
    peak = 0.5 * (a * (b / total) / (2 * math.pi)).log()
    return kernel + peak + (stirling_error(total) - stirling_error(a) - stirling_error(b))


def log_cdf(a: Tensor, b: Tensor, log_x: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """log P(X ≤ x) and log P(X > x) of a Beta(a, b) variable, from log x and log(1 − x)."""
    x, rest = log_x.exp(), log_rest.exp()
    slope = a * rest - b * x  # of the log-density
    is_above = slope < 0  # the mode: integrate the density upwards, else downwards
    spread = 1 / (slope.abs() + torch.sqrt((a + b) * x * rest))
    edge, rate, minus_total = torch.where(is_above, rest, x), torch.where(is_above, b, a), -(a + b)
    integral = torch.zeros_like(spread)
    for node, weight in _EXP_SINH:
        step = -node * spread
        ratio = minus_total * torch.log1p(torch.expm1(step) * edge) + rate * step
        integral = torch.add(integral, ratio.exp(), alpha=weight)
    tail = ((integral * spread).log() + log_density(a, b, log_x, log_rest)).clamp(max=-1e-7)
    other = torch.log(-torch.expm1(tail))
    return torch.where(is_above, other, tail), torch.where(is_above, tail, other)


def icdf(a: Tensor, b: Tensor, lower: Tensor, upper: Tensor, steps: int = 8) -> Tensor:
    """The logit s with P(X ≤ σ(s)) = `lower` and P(X > σ(s)) = `upper`, which sum to 1; all of one shape.

    Newton's method on the smaller of the two probabilities, P: on log P, which is concave in s, while P is too
    small, and on log(−log P) while it is too large, so that the iterates approach from where they are and do
    not overshoot.
    """
    mirrored = upper < lower
    a, b = torch.where(mirrored, b, a), torch.where(mirrored, a, b)
    target = torch.minimum(lower, upper).log()
    s = a.log() - b.log()
    for _ in range(steps):
        log_x, log_rest = F.logsigmoid(s), F.logsigmoid(-s)
        log_p = log_cdf(a, b, log_x, log_rest)[0]
        missing = torch.where(log_p < target, target - log_p, log_p * torch.log(target / log_p))
        # The derivative of log P is the density over P.
        s = s + missing * torch.exp(log_p - log_density(a, b, log_x, log_rest))
    return torch.where(mirrored, -s, s)
