"""Disentangled inferred prior: uncorrelated latents."""

from __future__ import annotations

import torch
from torch import Tensor

from skvae.model.checks import check, check_weight
from skvae.model.objectives.base import Penalty
from skvae.model.objectives.sums import Regulariser
from skvae.model.posteriors import NormalPosterior
from skvae.model.vae import Terms


class DIPVAE(Regulariser):
    r"""Draws the covariance V of the latents towards the identity (Kumar, Sattigeri & Balakrishnan 2018).

    .. math:: \lambda_{od} \sum_{i \ne j} V_{ij}^2 + \lambda_d \sum_i (V_{ii} - 1)^2

    Variant "i" takes the covariance of the posterior means, Cov[μ(x)] (equation 6), variant "ii" that of the
    latents, Cov[μ(x)] + E[Cov(z|x)] (equation 7), which is estimated from the draws unless the posterior is a
    diagonal normal.

    A statistic of the batch, with the rows' weights; every row gets the same value.

    Parameters
    ----------
    lambda_od : float
        λ_od, of the covariances.
    lambda_d : float
        λ_d, of the variances. The paper has λ_d = 10 λ_od for "i" and λ_d = λ_od for "ii".
    variant : {"i", "ii"}
    """

    alias = "dip-vae"

    def __init__(self, lambda_od: float = 10.0, lambda_d: float = 10.0, variant: str = "ii") -> None:
        super().__init__()
        self.lambda_od = lambda_od
        self.lambda_d = lambda_d
        self.variant = variant

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check_weight(self, "lambda_od")
        check_weight(self, "lambda_d")
        check(self, "variant", lambda v: v in ("i", "ii"), "'i' or 'ii'")

    def penalty(self, terms: Terms) -> Penalty:
        self._needs_rows(terms, 2, "compares the rows of a batch")
        covariance = self._covariance(terms)
        variance = covariance.diagonal()
        off_diagonal = covariance.square().sum() - variance.square().sum()
        penalty = self.lambda_od * off_diagonal + self.lambda_d * (variance - 1).square().sum()
        by_row = penalty.expand(terms.z.shape[1])
        return Penalty(loss=by_row, named={"dip": by_row})

    def _covariance(self, terms: Terms) -> Tensor:
        """V [D, D], over the rows of the batch."""
        q, z = terms.posterior, terms.z
        weight = torch.ones_like(z[0, :, 0]) if terms.weight is None else terms.weight
        share = (weight / weight.sum()).unsqueeze(-1)  # [B, 1]
        is_closed = isinstance(q, NormalPosterior)
        points = q.mean.unsqueeze(0) if self.variant == "i" or is_closed else z  # [S, B, D]
        centred = points - (share * points).sum(1).mean(0)
        covariance = ((share * centred).mT @ centred).mean(0)
        if self.variant == "ii" and isinstance(q, NormalPosterior):
            covariance = covariance + torch.diag((share * q.variance).sum(0))
        return covariance
