"""What likelihoods and their distributions have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from skvae.data.columns import Column, Kind, names_of
from skvae.model.component import Component


class Distribution:
    """p(x | z) of several columns of one kind, as encoded by a Schema.

    Shapes: S draws of z, B rows, C columns. Subclasses implement the five methods below.
    """

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
        raise NotImplementedError

    def cdf(self, values: Tensor) -> Tensor:
        """P(x ≤ value), [S, B, C]."""
        raise NotImplementedError

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile at `u` [S, B, C]; for u uniform on (0, 1), a draw."""
        raise NotImplementedError


class Likelihood(Component):
    """Maps the decoder's output to a Distribution.

    Attributes
    ----------
    kinds : frozenset of Kind
        Kinds of column it can score.
    n_params : int
        Number of decoder outputs it consumes, known once bound.
    """

    kinds: frozenset[Kind]
    n_params: int

    def bind(self, columns: Sequence[Column]) -> Self:
        raise NotImplementedError

    def forward(self, params: Tensor) -> Distribution:
        """Distribution for `params` [S, B, n_params]."""
        raise NotImplementedError

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
