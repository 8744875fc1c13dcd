"""The evidence lower bound."""

from __future__ import annotations

import torch

from skvae.model.objectives.base import Losses, Objective, mean_over_draws
from skvae.model.vae import Terms


class ELBO(Objective):
    r"""The evidence lower bound (Kingma & Welling 2014, equation 3).

    .. math::
        \mathcal{L}(x) = E_{q(z|x)}[\log p(x|z)] - \beta \, KL(q(z|x) \,\|\, p(z))

    summed over columns, averaged over draws; the loss is its negative. The reported bound always has β = 1
    and no free bits.

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
        if self.kl not in ("auto", "closed", "monte-carlo"):
            raise ValueError(f"ELBO(kl={self.kl!r}): expected 'auto', 'closed' or 'monte-carlo'")
        if not (isinstance(self.beta, (int, float)) and self.beta >= 0):
            raise ValueError(f"ELBO(beta={self.beta!r}): expected a number ≥ 0")
        if not (isinstance(self.free_bits, (int, float)) and self.free_bits >= 0):
            raise ValueError(f"ELBO(free_bits={self.free_bits!r}): expected a number of nats ≥ 0")
        if not (isinstance(self.warm_up, (int, float)) and 0 <= self.warm_up < 1):
            raise ValueError(f"ELBO(warm_up={self.warm_up!r}): expected a share of training in [0, 1)")
        if not (isinstance(self.n_draws, int) and self.n_draws >= 1):
            raise ValueError(f"ELBO(n_draws={self.n_draws!r}): expected a whole number ≥ 1")
        if self.free_bits and self.kl == "monte-carlo":
            raise ValueError("ELBO: free_bits needs the KL per dimension; use kl='auto' or 'closed'")

    def forward(self, terms: Terms) -> Losses:
        log_p_x = mean_over_draws(terms.log_p["x"])  # [B]
        by_dimension = None if self.kl == "monte-carlo" else terms.kl  # [B, D]
        if by_dimension is not None:
            kl = by_dimension.sum(-1)
        elif self.kl == "closed" or self.free_bits:
            raise ValueError(
                f"no closed-form KL from {type(terms.posterior).__name__} to {type(terms.prior).__name__}; "
                "set kl='monte-carlo' and free_bits=0"
            )
        else:
            kl = mean_over_draws(terms.log_q.total() - terms.log_p["z"])
        penalty = kl
        if self.free_bits and by_dimension is not None:
            is_open = by_dimension.detach().mean(0) > self.free_bits  # [D]
            penalty = torch.where(is_open, by_dimension, self.free_bits).sum(-1)
        if self.warm_up:
            penalty = penalty * torch.clamp(torch.as_tensor(terms.progress) / self.warm_up, max=1.0)
        loss = (penalty if self.beta == 1.0 else self.beta * penalty) - log_p_x
        bound = (log_p_x - kl).detach()
        return Losses(loss=loss, bound=bound, named={"log_p_x": log_p_x, "kl": kl})
