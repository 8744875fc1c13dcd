"""What likelihoods and their distributions have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from skvae.data.columns import Column, Kind, names_of
from skvae.model.component import Component

# Nodes in (-1, 1) and the logs of their weights.
_GAUSS_LEGENDRE = [(float(x), float(np.log(w))) for x, w in zip(*np.polynomial.legendre.leggauss(8), strict=True)]
_QUANTILE_NODES = [(0.5 * (1 + x), w - math.log(2)) for x, w in _GAUSS_LEGENDRE]
N_NODES = len(_QUANTILE_NODES)
# A difference of two cdfs in float32 is good to 1e-4 of itself from here on.
_MIN_MASS = 1e-3


class Distribution:
    """p(x | z) of several columns of one kind, as encoded by a Schema.

    Shapes: S draws of z, B rows, C columns. Subclasses implement `log_prob`, `mean`, `cdf` and `icdf`, those of
    discrete kinds `centre` too.

    Attributes
    ----------
    log_unit : Tensor [C] or None
        Of a density: log of the columns' standard deviations in the data's units, which is the log-Jacobian of
        the standardisation. None for a mass.
    """

    log_unit: Tensor | None = None

    def log_prob(self, values: Tensor) -> Tensor:
        """Log density or mass of `values` [B, C], in nats and the units of the data, [S, B, C]."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Expected value (of the code, for discrete kinds), [S, B, C]."""
        raise NotImplementedError

    def centre(self, weights: Tensor) -> Tensor:
        """Mean (numeric kinds) or mode (discrete kinds) of the mixture over draws, [B, C].

        Parameters
        ----------
        weights : Tensor [S, B]
            Summing to 1 over the draws.
        """
        return (weights.unsqueeze(-1) * self.mean).sum(0)

    def cdf(self, values: Tensor) -> Tensor:
        """P(x ≤ value), [S, B, C]."""
        raise NotImplementedError

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile at `u` [S, B, C]; for u uniform on (0, 1), a draw."""
        raise NotImplementedError

    def has_mass(self, values: Tensor) -> Tensor:
        """Whether `values` [..., C] have a probability, so that `log_prob` is its log and not that of a density."""
        return torch.full_like(values, self.log_unit is None, dtype=torch.bool)

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        """log P(value − half < x ≤ value + half), [S, B, C]; of a mass, that of the value.

        The probability of what a rounded entry stands for: by it densities and masses can be compared.

        Parameters
        ----------
        values : Tensor [B, C]
        half : Tensor [C]
            Half the width of the columns' cells, in standardised units, > 0.
        """
        if self.log_unit is None:
            return self.log_prob(values)
        mass = self.cdf(values + half) - self.cdf(values - half)
        # Where float32 leaves too few digits of that difference, the density is smooth over the cell, and its
        # integral is a Gauss–Legendre sum.
        terms = [weight + self.log_prob(values + node * half) for node, weight in _GAUSS_LEGENDRE]
        integral = torch.stack(terms).logsumexp(0) + (self.log_unit + half.log())
        return torch.where(mass > _MIN_MASS, mass.clamp(min=_MIN_MASS).log(), integral)

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Values and log-weights, [N, S, B, C] each, whose weighted sum of f(x) is the expected f(x).

        Of levels, all of them, and so exactly. Of numbers, quantiles at the nodes of a Gauss–Legendre rule; gradients
        go through the weights, by the likelihood ratio p(x)/p(x) (Mohamed et al. 2020, section 4).
        """
        with torch.no_grad():
            like = self.mean
            values = [self.icdf(torch.full_like(like, level)) for level, _ in _QUANTILE_NODES]
        log_p = torch.stack([self.log_prob(x) for x in values])
        log_w = torch.tensor([w for _, w in _QUANTILE_NODES], dtype=like.dtype, device=like.device)
        log_weights = (log_w.view(-1, 1, 1, 1) + log_p - log_p.detach()).log_softmax(0)
        return torch.stack(values), log_weights

    def tilted(self, log_g: Callable[[Tensor], Tensor]) -> Distribution:
        """p(x) g(x), renormalised, for log g of values [..., B, C]."""
        from skvae.model.likelihoods.tilted import Tilted

        return Tilted(self, log_g)


class Likelihood(Component):
    """Maps the decoder's output to a Distribution.

    Attributes
    ----------
    kinds : frozenset of Kind
        Kinds of column it can score.
    n_params : int
        Number of decoder outputs it consumes, known once bound.
    pools : bool
        Whether columns that are bound together share parameters.
    draws_values : bool
        Whether what training scores is drawn anew at each step (see `observe`).
    recounts : bool
        Whether values may count as others (see `counted`).
    """

    kinds: frozenset[Kind]
    n_params: int
    pools: bool = False
    draws_values: bool = False
    recounts: bool = False

    def bind(self, columns: Sequence[Column]) -> Self:
        raise NotImplementedError

    def forward(self, params: Tensor) -> Distribution:
        """Distribution for `params` [S, B, n_params]."""
        raise NotImplementedError

    def arranged(self, params: Tensor) -> Tensor:
        """The same numbers in the order of `forward`, [..., n_params], for a decoder with an equal share per column.

        Parameters
        ----------
        params : Tensor [..., n_params / C, C]
        """
        return params.flatten(-2)

    def observe(self, values: Tensor, u: Tensor) -> Tensor:
        """What a training step takes as data for `values` [B, C], drawn with `u` uniform on (0, 1)."""
        return values

    def counted(self, values: Tensor) -> Tensor:
        """The values [B, C] as the likelihood counts them, which the encoder is to see: itself, or the nearest of
        those that it can score."""
        return values

    def groups(self, columns: Sequence[Column]) -> list[list[int]]:
        """Positions of columns that are computed together; all of them unless overridden."""
        return [list(range(len(columns)))]

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse columns that it cannot score."""
        refused = [column for column in columns if column.kind not in self.kinds]
        if refused:
            raise ValueError(
                f"likelihood {self!r} cannot score column {names_of(refused)} ({refused[0].kind}); it scores "
                f"{', '.join(sorted(self.kinds))} columns: use likelihood='auto' or change column_kinds"
            )


def bisect(cdf: Callable[[Tensor], Tensor], u: Tensor, lower: Tensor, upper: Tensor, steps: int = 30) -> Tensor:
    """Where `cdf` reaches `u`, between `lower` and `upper`, by halving the interval `steps` times.

    For distributions whose quantiles have no closed form; all shapes alike, up to broadcasting.
    """
    for _ in range(steps):
        middle = 0.5 * (lower + upper)
        below = cdf(middle) < u
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return 0.5 * (lower + upper)


def soft_limit(x: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    """Keep x within (lower, upper) by a smooth map, so that the gradient never vanishes abruptly.

    A hyperbolic tangent about the centre of the interval, where it is the identity to first order.
    """
    centre, half = (upper + lower) / 2, (upper - lower) / 2
    if isinstance(centre, float) and centre == 0.0:
        return half * torch.tanh(x / half)
    return half * torch.tanh((x - centre) / half) + centre
