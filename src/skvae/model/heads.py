"""Heads: what is said of the targets y, given features or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skvae.data.columns import Column
from skvae.model.likelihoods import Distribution, Table
from skvae.model.networks import MLP


class Head(nn.Module):
    """p(y | features) of T targets: a small network and their likelihood.

    Parameters
    ----------
    n_in : int
        Number of features; with 0, the distribution is the same for all rows.
    targets : sequence of Column
    likelihood : Table
        Unbound; a copy is bound.
    hidden_sizes : sequence of int
        Widths of the hidden layers in front of the last linear one.
    """

    def __init__(self, n_in: int, targets: Sequence[Column], likelihood: Table, hidden_sizes: Sequence[int] = ()):
        super().__init__()
        self.likelihood = likelihood.fresh().bind(targets)
        self.body = MLP(hidden_sizes).bind(n_in)
        self.constant = nn.Parameter(torch.zeros(self.likelihood.n_params)) if n_in == 0 else None
        self.output = nn.Linear(self.body.n_out, self.likelihood.n_params) if n_in else None

    def forward(self, features: Tensor) -> Distribution:
        """Distribution [S, B, T] for features [S, B, n_in]; of these, only the number of rows counts with n_in 0."""
        if self.constant is not None:
            return self.likelihood(self.constant.expand(*features.shape[:2], -1))
        assert self.output is not None
        return self.likelihood(self.output(self.body(features)))


def label_log_probs(distribution: Distribution) -> Tensor:
    """log p(y = k) [S, B, K] of a single target with K levels."""
    (part,) = distribution.parts  # type: ignore[attr-defined]
    return part.logits.squeeze(-2).log_softmax(-1)


def reparametrised(distribution: Distribution, u: Tensor) -> Tensor:
    """A draw [S, B, T] by the quantiles at `u`, with the gradient that it has for the distribution's parameters.

    dy/dθ = −(∂F/∂θ)/p(y), F being the cdf (Figurnov, Mohamed & Mnih 2018, equation 6), so that any density with a
    differentiable cdf will do. Draws of targets that are counts or levels, or of several kinds at once, carry none.
    """
    with torch.no_grad():
        y = distribution.icdf(u)
    parts = getattr(distribution, "parts", [distribution])
    log_unit = parts[0].log_unit
    if len(parts) > 1 or log_unit is None:
        return y
    density = torch.exp(distribution.log_prob(y).detach() + log_unit)
    level = distribution.cdf(y)
    return y - (level - level.detach()) / density.clamp(min=1e-6)
