"""The KL minimised under a constraint on the reconstruction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.checks import check, check_share, is_number
from skvae.model.objectives.base import Losses, Objective, mean_over_draws
from skvae.model.objectives.elbo import divergence
from skvae.model.vae import LatentVariableModel, Terms

# The multiplier lies between e^-10 and e^10.
_LOG_LIMIT = 10.0


class GECO(Objective):
    r"""Generalised ELBO with constrained optimisation (Rezende & Viola 2018, algorithm 1).

    .. math:: \min_{\theta, \phi} \max_\lambda\; KL(q(z|x)\,\|\,p(z)) + \lambda\, n_x\, C,
        \qquad C = t - E_{q(z|x)}\Big[\frac{\log p(x|z)}{n_x}\Big] + \frac{\log p_0(x)}{n_x}

    Instead of a weight β = 1/λ of the KL, what a reconstruction has to be worth is chosen: t nats for each of the
    n_x entries that a row has, above log p₀, the untrained decoder's density at z = 0, which predicts all rows
    alike. λ starts at 1 and is multiplied by exp(rate · C) after each step, C being a moving average over the
    steps; a target out of reach drives it to its limit e¹⁰. λ is kept with the weights of the best epoch, but
    what is reported and monitored is the ELBO.

    Parameters
    ----------
    target : float
        t, in nats per entry. At 0.5 the squared error of normal columns falls to about 1/e of their variance.
    rate : float
        Of the change of log λ, per step and nat. With a fast one λ swings around its value.
    momentum : float
        Share of the old value in the moving average.
    """

    alias = "geco"
    log_multiplier: Tensor
    constraint: Tensor
    baseline: Tensor

    def __init__(self, target: float = 0.5, rate: float = 0.02, momentum: float = 0.9) -> None:
        super().__init__()
        self.target = target
        self.rate = rate
        self.momentum = momentum
        for name in ("log_multiplier", "constraint", "baseline"):
            self.register_buffer(name, torch.zeros(()))

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check(self, "target", lambda v: is_number(v) and math.isfinite(v), "a finite number of nats per entry")
        check(self, "rate", lambda v: is_number(v) and 0 < v < math.inf, "a finite number > 0")
        check_share(self, "momentum")

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Score the rows by the untrained decoder at z = 0."""
        total, count = 0.0, 0.0
        for piece in rows.chunks(4096):
            origin = model.decode(piece.values.new_zeros(1, len(piece), model.latent_dim))
            log_p = origin.log_prob(piece.values).squeeze(0)
            mask = torch.ones_like(log_p) if piece.mask is None else piece.mask.to(log_p.dtype)
            total += float((log_p * mask).sum())
            count += float(mask.sum())
        self.baseline.fill_(total / count)

    def forward(self, terms: Terms) -> Losses:
        log_p_x = mean_over_draws(terms.log_p.total(without="z"))  # [B]
        kl = divergence(terms, terms.kl)
        multiplier = self.log_multiplier.exp()
        loss = kl - multiplier * log_p_x
        if loss.requires_grad:
            self._adapt(log_p_x.detach(), terms)
        named = {"log_p_x": log_p_x, "kl": kl, "multiplier": multiplier.expand_as(kl)}
        return Losses(loss=loss, bound=(log_p_x - kl).detach(), named=named)

    @torch.no_grad()
    def _adapt(self, log_p_x: Tensor, terms: Terms) -> None:
        """Move the multiplier by the constraint of this batch."""
        mask, weight = terms.batch.mask, terms.weight
        n = torch.full_like(log_p_x, terms.batch.values.shape[1]) if mask is None else mask.sum(1).to(log_p_x.dtype)
        if weight is not None:
            log_p_x, n = weight * log_p_x, weight * n
        worth = log_p_x.sum() / n.sum().clamp(min=1) - self.baseline
        # A step that is not finite changes nothing.
        constraint = torch.nan_to_num(self.target - worth, nan=0.0, posinf=0.0, neginf=0.0)
        self.constraint.lerp_(constraint, 1 - self.momentum)
        self.log_multiplier.add_(self.rate * self.constraint).clamp_(-_LOG_LIMIT, _LOG_LIMIT)
