"""The importance-weighted bound."""

from __future__ import annotations

import math

import torch

from skvae.data.batch import Batch
from skvae.model.checks import check, check_whole
from skvae.model.objectives.base import Losses, Objective, mean_over_draws
from skvae.model.vae import LatentVariableModel, Terms


class IWAE(Objective):
    r"""The importance-weighted bound (Burda, Grosse & Salakhutdinov 2016, equation 8).

    .. math::
        \mathcal{L}_K(x) = E_{z_1 \dots z_K \sim q(z|x)} \log \frac1K \sum_k w_k,
        \qquad w_k = \frac{p(x|z_k)\,p(z_k)}{q(z_k|x)}

    With K = 1 it is the ELBO; it grows with K towards log p(x), and the posterior matters less. The loss is its
    negative, whatever the gradient.

    Parameters
    ----------
    n_draws : int
        K.
    gradient : {"plain", "dreg"}
        "plain" differentiates the bound. "dreg" is the doubly reparametrised gradient of Tucker, Lawson, Gu &
        Maddison (2018): with w̃ the weights normalised over the draws, the posterior's parameters
        get Σ w̃² ∂log w/∂z ∂z/∂φ, which has the same expectation and less variance the larger K is; those of
        decoder and prior get Σ w̃ ∂log p(x, z)/∂θ as before. With K = 1 that is "sticking the landing" (Roeder,
        Wu & Duvenaud 2017), which with more draws would be biased.
    """

    alias = "iwae"

    def __init__(self, n_draws: int = 5, gradient: str = "plain") -> None:
        super().__init__()
        self.n_draws = n_draws
        self.gradient = gradient

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check_whole(self, "n_draws", 1)
        expected = "'plain' or 'dreg' (which with n_draws=1 is STL, sticking the landing)"
        check(self, "gradient", lambda v: v in ("plain", "dreg"), expected)

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        self._needs_density(model)

    def forward(self, terms: Terms) -> Losses:
        doubly = self.gradient == "dreg" and terms.z.requires_grad
        log_q = (terms.log_q_detached if doubly else terms.log_q).total()
        log_w = terms.log_p.total() - log_q  # [K, B]
        loss = math.log(len(log_w)) - log_w.logsumexp(0)
        bound = -loss.detach()
        weights = log_w.detach().softmax(0)
        if doubly:
            surrogate = -(weights * log_w).sum(0)  # [B]
            (path,) = torch.autograd.grad(surrogate.sum(), terms.z, retain_graph=True)  # −w̃ ∂log w/∂z, [K, B, D]
            surrogate = surrogate + ((weights - 1).unsqueeze(-1) * path * terms.z).sum(-1).sum(0)
            loss = surrogate - (surrogate.detach() + bound)
        named = {
            "log_p_x": mean_over_draws(terms.log_p.total(without="z")),
            "kl": mean_over_draws(log_q - terms.log_p["z"]),
            "effective_draws": 1 / weights.square().sum(0),
        }
        return Losses(loss=loss, bound=bound, named=named)
