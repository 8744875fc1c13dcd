"""The KL term taken apart: mutual information, total correlation, and what is left by dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.checks import check, check_weight
from skvae.model.objectives.base import Penalty, mean_over_draws
from skvae.model.objectives.sums import Regulariser
from skvae.model.posteriors import NormalFamily
from skvae.model.vae import LatentVariableModel, Terms

# Densities of single dimensions held at once, at most.
_MAX_ELEMENTS = 2**24


class BetaTCVAE(Regulariser):
    r"""β-TCVAE: the three parts of the KL term, each with a weight (Chen, Li, Grosse & Duvenaud 2018).

    .. math::
        E_x\,KL(q(z|x)\,\|\,p(z)) = \underbrace{I_q(x; z)}_{\alpha}
        + \underbrace{KL\big(q(z)\,\big\|\,\textstyle\prod_j q(z_j)\big)}_{\beta}
        + \underbrace{\textstyle\sum_j KL(q(z_j)\,\|\,p(z_j))}_{\gamma},
        \qquad q(z) = E_x[q(z|x)]

    The objective that it is added to holds them with weight 1 already; the penalty is α − 1, β − 1 and γ − 1 times
    the parts, so that with α = β = γ = 1 there is none. The last part, with a prior whose dimensions are not
    independent, is what the other two leave of the KL.

    q(z) is a mean over all N training rows, of which a step sees B. "minibatch-weighted" (the paper's section 3.1)
    gives every row of the batch the weight 1 / (N B); the total correlation is then off by a large constant, and
    tells only by its changes. "minibatch-stratified" (the paper's appendix C) gives the row that z was drawn from
    1 / N and each of the others (N − 1) / (N (B − 1)), the average of the paper's weights over the order of the
    rows, which makes q(z) unbiased, and exact for a batch of all rows.

    Compares the rows of a batch, with their weights: its value depends on which rows come together.

    Parameters
    ----------
    alpha, beta, gamma : float
        Weights of the mutual information of rows and latents, of the total correlation of the latents, and of
        the divergence of each latent from the prior.
    estimator : {"minibatch-weighted", "minibatch-stratified"}
    """

    alias = "beta-tcvae"

    def __init__(
        self, alpha: float = 1.0, beta: float = 6.0, gamma: float = 1.0, estimator: str = "minibatch-weighted"
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.estimator = estimator
        self.n_rows = 0

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        for name in ("alpha", "beta", "gamma"):
            check_weight(self, name)
        estimators = ("minibatch-weighted", "minibatch-stratified")
        check(self, "estimator", lambda v: v in estimators, f"one of {estimators}")

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Remember how many rows there are.

        Raises
        ------
        ValueError
            If the model's posterior is not normal: the densities of single dimensions are needed.
        """
        if not model.posterior.is_normal:
            raise ValueError(
                f"objective={self!r} needs the density of each dimension of z, and posterior={model.posterior!r} has "
                "none; use posterior='diagonal' or 'full', or objective='factor-vae'"
            )
        self.n_rows = len(rows)

    def penalty(self, terms: Terms) -> Penalty:
        self._needs_rows(terms, 2, "compares the rows of a batch")
        log_q_z, log_q_z_j = self._aggregate(terms)
        log_q_zx, log_p_z = terms.log_q.total(), terms.log_p["z"]
        named = {
            "mutual_information": mean_over_draws(log_q_zx - log_q_z),
            "total_correlation": mean_over_draws(log_q_z - log_q_z_j),
            "dimension_wise_kl": mean_over_draws(log_q_z_j - log_p_z),
        }
        weighted = [
            (weight - 1) * part
            for weight, part in zip((self.alpha, self.beta, self.gamma), named.values(), strict=True)
            if weight != 1
        ]
        return Penalty(loss=sum(weighted, torch.zeros_like(log_p_z[0])), named=named)

    def _aggregate(self, terms: Terms) -> tuple[Tensor, Tensor]:
        """log q(z) and Σ_j log q(z_j) of each draw, [S, B]."""
        q = terms.posterior
        assert isinstance(q, NormalFamily)
        n_rows, n_dims = q.mean.shape
        log_weights = self.log_weights(n_rows, terms.weight, q.mean).repeat(len(terms.z), 1)  # [S B, B]
        scale = q.variance.sqrt()
        constant = -scale.log() - 0.5 * math.log(2 * math.pi)
        joint, marginal = [], []
        size = max(1, _MAX_ELEMENTS // (n_rows * n_dims))
        for z, log_w in zip(terms.z.flatten(0, 1).split(size), log_weights.split(size), strict=True):
            joint.append((q.log_prob_by_row(z) + log_w).logsumexp(1))
            standardised = (z.unsqueeze(1) - q.mean) / scale  # [n, B, D]
            by_dimension = constant - 0.5 * standardised.square()
            marginal.append((by_dimension + log_w.unsqueeze(2)).logsumexp(1).sum(1))
        shape = terms.z.shape[:2]
        return torch.cat(joint).view(shape), torch.cat(marginal).view(shape)

    def log_weights(self, n: int, weight: Tensor | None, like: Tensor) -> Tensor:
        """log of the share in q(z) that each of `n` rows stands for, by the row that z was drawn from, [n, n].

        Parameters
        ----------
        weight : Tensor [n] or None
            Of the rows, with mean 1 over the training rows.
        """
        w = like.new_ones(n) if weight is None else weight
        n_rows = max(self.n_rows, n)
        if self.estimator == "minibatch-weighted":
            return (w / (n_rows * w.sum())).log().expand(n, -1)
        itself = torch.eye(n, dtype=w.dtype, device=w.device)
        own = w / n_rows
        others = (1 - itself) * w
        left = (1 - own) / others.sum(1).clamp(min=torch.finfo(w.dtype).tiny)
        return (itself * own + others * left.unsqueeze(1)).log()
