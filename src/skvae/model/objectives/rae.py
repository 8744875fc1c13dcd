"""Regularised autoencoders."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.model.checks import check, check_weight
from skvae.model.objectives.base import Losses, Objective, mean_over_draws
from skvae.model.vae import LatentVariableModel, Terms


class RAE(Objective):
    r"""Regularised autoencoder, for the deterministic posterior (Ghosh et al. 2020, section 3).

    .. math:: -\log p(x|z) + \frac{\beta}{2} \|z\|^2 + w\, R

    with z the encoder's output. R is the squared norm of the decoder's weights ("l2"), or that of the derivative
    of its output by z, ‖∂E[x|z]/∂z‖² summed over columns, in the units in which they are encoded
    ("gradient-penalty"). The latter is estimated without bias as ‖∂(sᵀE[x|z])/∂z‖² with random signs s, one vector
    for each batch, and left out of what validation records, where nothing is differentiated.

    There is no density q(z|x), and so no bound on log p(x): what is reported and monitored in its place is
    log p(x|z) − (β/2) ‖z‖², for comparison of epochs only.

    Parameters
    ----------
    beta : float
        β: with 1, that of a standard normal prior at its most likely z.
    regularisation : {"l2", "gradient-penalty"}
    weight : float
        w, in nats per row.
    """

    alias = "rae"

    def __init__(self, beta: float = 1.0, regularisation: str = "l2", weight: float = 1e-3) -> None:
        super().__init__()
        self.beta = beta
        self.regularisation = regularisation
        self.weight = weight

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check_weight(self, "beta")
        check_weight(self, "weight")
        known = ("l2", "gradient-penalty")
        check(self, "regularisation", lambda v: v in known, f"one of {known}")

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Remember the decoder's weights.

        Raises
        ------
        ValueError
            If the model's posterior is not deterministic.
        """
        if model.posterior.has_density:
            raise ValueError(
                f"objective={self!r} is for autoencoders, and posterior={model.posterior!r} draws z at random; use "
                "posterior='deterministic', or objective='elbo'"
            )
        # In a tuple: they are parameters of the model and not of this module.
        self._decoder: tuple[nn.Parameter, ...] = (*model.decoder.parameters(), *model.output.parameters())
        if self.regularisation == "gradient-penalty":
            self.n_prior_draws = math.ceil(model.n_columns / model.latent_dim)  # noise enough for the signs

    def forward(self, terms: Terms) -> Losses:
        log_p_x = mean_over_draws(terms.log_p.total(without="z"))  # [B]
        size = mean_over_draws(terms.z.square().sum(-1))
        bound = log_p_x - 0.5 * self.beta * size
        named = {"log_p_x": log_p_x, "squared_norm": size}
        loss = -bound
        if self.regularisation == "l2":
            weights = torch.stack([p.square().sum() for p in self._decoder]).sum()
            loss = loss + self.weight * weights
        elif terms.z.requires_grad:
            named["gradient_penalty"] = _squared_derivative(terms)
            loss = loss + self.weight * named["gradient_penalty"]
        return Losses(loss=loss, bound=bound.detach(), named=named)


def _squared_derivative(terms: Terms) -> Tensor:
    """Estimate of ‖∂E[x|z]/∂z‖² of each row, [B] (Hutchinson 1990)."""
    assert terms.prior_eps is not None
    mean = terms.distribution.mean  # [S, B, C]
    signs = torch.sign(terms.prior_eps.flatten()[: mean.shape[-1]])
    (derivative,) = torch.autograd.grad((mean * signs).sum(), terms.z, create_graph=True)  # [S, B, D]
    return mean_over_draws(derivative.square().sum(-1))
