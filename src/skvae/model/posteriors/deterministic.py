"""A posterior that is a point: the plain autoencoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from skvae.model.posteriors.base import Posterior, PosteriorDistribution


class PointPosterior(PosteriorDistribution):
    """All mass on one point per row.

    Parameters
    ----------
    mean : Tensor [B, D]
    """

    has_density: ClassVar[bool] = False

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def rsample(self, eps: Tensor) -> Tensor:
        """The point, once per draw, [S, B, D]; the noise is not used."""
        return self.mean.expand(len(eps), -1, -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """There is none.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError("posterior='deterministic' has no density q(z|x); use posterior='diagonal'")

    def detach(self) -> PointPosterior:
        return PointPosterior(self.mean.detach())


class Deterministic(Posterior):
    """No noise: z is a linear function of the encoder's output, as in a plain autoencoder.

    For comparison with the plain autoencoder. It goes with the objectives "rae" and ELBO(beta=0). Nothing ties
    the latents of rows to the prior; new rows come from a density fitted to them after training (Ghosh et al. 2020,
    section 4). There is no density q(z|x), so
    `score_samples` and `elbo` have no answer and say so. `transform`, `reconstruct` and `inverse_transform` work as
    ever, and `impute` decodes the latents of what is seen.
    """

    alias = "deterministic"
    has_density: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()

    def bind(self, n_hidden: int, latent_dim: int) -> Deterministic:
        self.linear = nn.Linear(n_hidden, latent_dim)
        return self

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> PointPosterior:
        return PointPosterior(self.linear(hidden))
