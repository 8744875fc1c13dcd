"""What posteriors have in common."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from skvae.model.component import Component


class PosteriorDistribution:
    """q(z|x) of B rows: what a `Posterior` answers.

    Attributes
    ----------
    has_density : bool
        Whether `log_prob` exists. Where it does not, `Terms` has no factor log q(z|x), and neither log p(x)
        nor a bound on it can be estimated.
    mean : Tensor [B, D]
        The latents that stand for each row, the same at every call.
    """

    has_density: ClassVar[bool] = True
    mean: Tensor

    def rsample(self, eps: Tensor) -> Tensor:
        """Latents [S, B, D] from standard normal noise `eps` [S, B, D], or [S, 1, D] shared by all rows."""
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of `z` [S, B, D], [S, B]."""
        raise NotImplementedError

    def detach(self) -> Self:
        """The same distribution, with parameters that carry no gradient: log q(z) depends on z alone."""
        raise NotImplementedError


class Posterior(Component):
    """Maps the encoder's output to a distribution over z.

    Attributes
    ----------
    has_density, is_normal : bool
        Whether what `forward` returns has a density, and belongs to the `NormalFamily`.
    width : int
        Numbers held for each draw besides the latent itself; bounds how many are made at once.
    """

    has_density: ClassVar[bool] = True
    is_normal: ClassVar[bool] = False
    width: int = 0

    def bind(self, n_hidden: int, latent_dim: int) -> Self:
        raise NotImplementedError

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> PosteriorDistribution:
        """Posterior of each row from `hidden` [B, n_hidden]."""
        raise NotImplementedError
