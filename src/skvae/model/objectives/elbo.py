"""The evidence lower bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.model.checks import check, check_share, check_weight, check_whole, is_number
from skvae.model.objectives.base import Losses, Objective, mean_over_draws
from skvae.model.vae import Terms


class ELBO(Objective):
    r"""The evidence lower bound (Kingma & Welling 2014, equation 3).

    .. math::
        \mathcal{L}(x) = E_{q(z|x)}[\log p(x|z)] - \beta \, KL(q(z|x) \,\|\, p(z))

    summed over columns, averaged over draws; the loss is its negative. The reported bound always has β = 1
    and no free bits.

    Of a posterior without a density only −log p(z) is left of the KL; with β = 0 that is the plain autoencoder.
    What is then reported, log p(x|z) + log p(z), or log p(x|z) for β = 0, bounds nothing.

    Parameters
    ----------
    beta : float
        Weight of the KL term (Higgins et al. 2017); other than 1, the loss is no longer a bound.
    free_bits : float
        Nats per latent dimension below which the KL is not penalised (Kingma et al. 2016, section 4): with
        open_j = (batch mean of KL_j > λ), row i pays Σ_j [open_j KL_ij + (1 − open_j) λ]. Needs a closed-form
        KL.
    warm_up : float
        Share of the planned steps over which the KL weight grows linearly from 0 (Sønderby et al. 2016).
    kl : {"auto", "closed", "monte-carlo"}
        "auto": closed form where one exists.
    n_draws : int
        Draws of z per row.
    """

    alias = "elbo"

    def __init__(
        self,
        beta: float = 1.0,
        free_bits: float = 0.0,
        warm_up: float = 0.0,
        kl: str = "auto",
        n_draws: int = 1,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.free_bits = free_bits
        self.warm_up = warm_up
        self.kl = kl
        self.n_draws = n_draws

    def check(self) -> None:
        """Refuse parameters that are out of range or contradict each other."""
        check(self, "kl", lambda v: v in ("auto", "closed", "monte-carlo"), "'auto', 'closed' or 'monte-carlo'")
        check_weight(self, "beta")
        check(self, "free_bits", lambda v: is_number(v) and 0 <= v < math.inf, "a number of nats ≥ 0")
        check_share(self, "warm_up")
        check_whole(self, "n_draws", 1)
        if self.free_bits and self.kl == "monte-carlo":
            raise ValueError("ELBO: free_bits needs the KL per dimension; use kl='auto' or 'closed'")

    def forward(self, terms: Terms) -> Losses:
        log_p_x = mean_over_draws(terms.log_p.total(without="z"))  # [B]
        if self.beta == 0 and "z" not in terms.log_q:
            return Losses(loss=-log_p_x, bound=log_p_x.detach(), named={"log_p_x": log_p_x})
        by_dimension = None if self.kl == "monte-carlo" else terms.kl  # [B, D]
        if by_dimension is None and (self.kl == "closed" or self.free_bits):
            raise ValueError(
                f"no closed-form KL from {type(terms.posterior).__name__} to {type(terms.prior).__name__}; "
                "set kl='monte-carlo' and free_bits=0"
            )
        kl = divergence(terms, by_dimension)
        penalty = kl
        if self.free_bits and by_dimension is not None:
            is_open = by_dimension.detach().mean(0) > self.free_bits  # [D]
            penalty = torch.where(is_open, by_dimension, self.free_bits).sum(-1)
        if self.warm_up:
            penalty = penalty * torch.clamp(torch.as_tensor(terms.progress) / self.warm_up, max=1.0)
        loss = (penalty if self.beta == 1.0 else self.beta * penalty) - log_p_x
        bound = (log_p_x - kl).detach()
        return Losses(loss=loss, bound=bound, named={"log_p_x": log_p_x, "kl": kl})


def divergence(terms: Terms, by_dimension: Tensor | None) -> Tensor:
    """KL(q(z|x) ‖ p(z)) of each row [B]: the sum of the closed form, or the mean over the draws if that is None.

    Of a posterior without a density, −log p(z).
    """
    if by_dimension is not None:
        return by_dimension.sum(-1)
    return mean_over_draws(terms.log_q.total() - terms.log_p["z"])
