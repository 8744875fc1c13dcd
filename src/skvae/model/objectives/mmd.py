"""Maximum mean discrepancy between the latents and the prior."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skvae.model.checks import check, check_weight, check_whole
from skvae.model.objectives.base import Penalty, mean_over_draws
from skvae.model.objectives.sums import Regulariser
from skvae.model.vae import Terms

# Of the bandwidth: together they notice both near and far differences.
_SCALES = (0.2, 1.0, 5.0)
# By name: k as a function of a squared distance over a squared bandwidth.
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "imq": lambda r: 1 / (1 + r),
    "rbf": lambda r: torch.exp(-r),
}


class MMD(Regulariser):
    r"""Squared maximum mean discrepancy between the latents of a batch and draws from the prior.

    .. math::
        \frac1{B(B-1)}\sum_{i \ne j} k(z_i, z_j) + \frac1{M(M-1)}\sum_{l \ne m} k(\tilde z_l, \tilde z_m)
        - \frac2{BM}\sum_{i,m} k(z_i, \tilde z_m), \qquad \tilde z \sim p(z)

    without bias (Gretton et al. 2012, equation 3), and so sometimes negative. It compares the latents of all rows
    together with the prior, which a KL does row by row.

    InfoVAE (Zhao, Song & Ermon 2019, equation 6) with its α and λ is `ELBO(beta=1 - α) + MMD(weight=α + λ - 1)`;
    α = 1 is the Wasserstein autoencoder with this penalty (Tolstikhin et al. 2018), whose posterior may also
    be deterministic. The kernels are means over three bandwidths c around the squared distance 2D that two draws
    from N(0, I) are expected to have, which is the paper's c; k(z, z) = 1.

    Compares the rows of a batch, with their weights: its value depends on which rows come together.

    Parameters
    ----------
    weight : float
        Nats per unit of MMD², which is below 2; hundreds are usual.
    kernel : {"imq", "rbf"}
        Inverse multiquadratic 1 / (1 + ‖z − z'‖² / c) or Gaussian exp(−‖z − z'‖² / c).
    n_prior_draws : int
        M.
    """

    alias = "mmd"

    def __init__(self, weight: float = 100.0, kernel: str = "imq", n_prior_draws: int = 256) -> None:
        super().__init__()
        self.weight = weight
        self.kernel = kernel
        self.n_prior_draws = n_prior_draws

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check_weight(self, "weight")
        check(self, "kernel", lambda v: v in KERNELS, f"one of {sorted(KERNELS)}")
        check_whole(self, "n_prior_draws", 2)

    def penalty(self, terms: Terms) -> Penalty:
        self._needs_rows(terms, 2, "compares the rows of a batch")
        assert terms.prior_eps is not None
        z, prior_z = terms.z, terms.prior.sample(terms.prior_eps[: self.n_prior_draws])  # [S, B, D], [M, D]
        weight = torch.ones_like(z[0, :, 0]) if terms.weight is None else terms.weight  # [B]
        one = torch.ones_like(prior_z[:, 0])
        among = _mean_of_others(self._kernel(z, z), weight)  # [S, B]
        among_prior = _mean_of_others(self._kernel(prior_z, prior_z), one).mean()
        across = self._kernel(z, prior_z).mean(-1)  # [S, B]
        mmd = mean_over_draws(among + among_prior - 2 * across)
        return Penalty(loss=self.weight * mmd, named={"mmd": mmd})

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """k for all pairs of `a` [..., n, D] and `b` [..., m, D], [..., n, m]."""
        products = a @ b.mT
        squared = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2 * products
        r = squared.clamp(min=0) / (2 * a.shape[-1])
        k = KERNELS[self.kernel]
        return torch.stack([k(r / scale) for scale in _SCALES]).mean(0)


def _mean_of_others(k: Tensor, weight: Tensor) -> Tensor:
    """For each i, the mean over j ≠ i of k_ij [..., n, n] with weights [n]; 0 if there is no other."""
    weights = weight.expand(len(weight), -1) * (1 - torch.eye(len(weight), dtype=k.dtype, device=k.device))
    return (k * weights).sum(-1) / weights.sum(-1).clamp(min=torch.finfo(k.dtype).tiny)
