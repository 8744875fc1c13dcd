"""Total correlation, estimated by a discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.data.batch import Batch
from skvae.model.checks import check_sizes, check_weight
from skvae.model.networks import MLP
from skvae.model.objectives.base import Penalty, mean_over_draws
from skvae.model.objectives.sums import Regulariser
from skvae.model.vae import LatentVariableModel, Terms


class FactorVAE(Regulariser):
    r"""FactorVAE: penalises the total correlation of the latents (Kim & Mnih 2018, equation 2).

    .. math:: \gamma\, KL\big(q(z)\,\big\|\,\textstyle\prod_j q(z_j)\big) \approx \gamma\, E_{q(z)}[d(z)]

    d is the second player, a network that learns to tell draws from q(z) from such whose dimensions come from
    different rows; at its best it is log q(z) / Π_j q(z_j). The rows of a training batch are in random order, so
    that moving dimension j on by j rows makes the latter (the paper's algorithm 1 draws permutations).

    Parameters
    ----------
    gamma : float
        γ; around 10 in the paper.
    hidden_sizes : sequence of int
        Widths of the discriminator's hidden layers.
    """

    alias = "factor-vae"

    def __init__(self, gamma: float = 10.0, hidden_sizes: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.gamma = gamma
        self.hidden_sizes = hidden_sizes

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check_weight(self, "gamma")
        check_sizes(self, "hidden_sizes")

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Make the discriminator, from torch's global stream."""
        body = MLP(self.hidden_sizes, activation="leaky_relu").bind(model.latent_dim)
        self.player = nn.Sequential(body, nn.Linear(body.n_out, 1)).to(rows.values.device)

    def penalty(self, terms: Terms) -> Penalty:
        z = terms.z
        total_correlation = mean_over_draws(self._logit(z))
        named = {"total_correlation": total_correlation}
        player = None
        if z.requires_grad:
            self._needs_rows(terms, max(2, z.shape[2]), "takes each dimension from another row")
            drawn = z.detach()
            told_apart = F.softplus(-self._logit(drawn)) + F.softplus(self._logit(permuted(drawn)))
            player = 0.5 * mean_over_draws(told_apart)
            named["discriminator"] = player
            if terms.weight is not None:
                player = player * terms.weight
        return Penalty(loss=self.gamma * total_correlation, named=named, player=player)

    def _logit(self, z: Tensor) -> Tensor:
        assert self.player is not None
        return self.player(z.flatten(0, 1)).view(z.shape[:2])


def permuted(z: Tensor) -> Tensor:
    """Rows [S, B, D] whose dimension j comes from j rows further on, so that no two come from the same one."""
    _, n, d = z.shape
    rows = (torch.arange(n, device=z.device).unsqueeze(1) + torch.arange(d, device=z.device)) % n  # [B, D]
    return z.gather(1, rows.expand_as(z))
