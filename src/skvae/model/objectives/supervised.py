"""The objective of a model with targets."""

from __future__ import annotations

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.objectives.base import Losses, Objective
from skvae.model.vae import LatentVariableModel, Terms


class Supervised(Objective):
    r"""The bound on log p(x, y), and α times what is wanted of it: log q(y|x).

    .. math::
        J = \sum_{labelled} -L(x, y) + \sum_{unlabelled} \Big[\sum_y q(y|x) (-L(x, y)) + H(q(y|x))\Big]
            + \alpha \, \frac{n}{n_{labelled}} \sum_{labelled} \log q(y|x)

    with L the loss of `objective` (Kingma, Rezende, Mohamed & Welling 2014, equations 6 to 9). Without the last term
    q(y|x) would not learn from labelled rows. α is counted per labelled row, so that it means the same whatever
    their share. Where the model has p(y|z) and no q(y|x), that stands in its place.

    Monitored is log q(y|x); of labels, at the temperature that suits the held-out ones best. Too much confidence is
    mended after training (Guo, Pleiss, Sun & Weinberger 2017), and few labels are learned with too much of it long
    before new ones are predicted worse.

    Parameters
    ----------
    objective : Objective
    weight : float
        α.
    """

    monitor = "log_p_y"

    def __init__(self, objective: Objective, weight: float = 1.0) -> None:
        super().__init__()
        self.objective = objective
        self.weight = weight
        self._scale = weight

    @property
    def n_draws(self) -> int:  # type: ignore[override]
        return self.objective.n_draws

    @property
    def n_prior_draws(self) -> int:  # type: ignore[override]
        return self.objective.n_prior_draws

    @property
    def warm_up(self) -> float:  # type: ignore[override]
        return self.objective.warm_up

    @property
    def has_partners(self) -> bool:  # type: ignore[override]
        return self.objective.has_partners

    def partners(self, rows: Tensor, stream: torch.Generator) -> Tensor:
        return self.objective.partners(rows, stream)

    def partners_of_others(self, model: LatentVariableModel, rows: Batch, stream: torch.Generator) -> Tensor:
        return self.objective.partners_of_others(model, rows, stream)

    def check(self) -> None:
        self.objective.check()

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        self.objective.prepare(model, rows)
        self.player = self.objective.player
        assert rows.target is not None
        labelled = (~rows.target.isnan()).float().mean(1)
        share = labelled.mean() if rows.weight is None else (labelled * rows.weight).sum() / rows.weight.sum()
        self._scale = self.weight / max(float(share), 1e-6)

    def judge(self, means: dict[str, float]) -> float:
        """The mean log q(y|x), of labels at the best of the temperatures recorded."""
        return max(value for name, value in means.items() if name.startswith(self.monitor))

    def forward(self, terms: Terms) -> Losses:
        losses, found = self.objective(terms), terms.supervision
        assert found is not None

        def per_row(value: Tensor) -> Tensor:
            return found.per_row(value)

        loss, bound = per_row(losses.loss) - self._scale * found.log_p_y, per_row(losses.bound)
        if found.entropy is not None:
            loss, bound = loss - found.entropy, bound + found.entropy.detach()
        named = {name: per_row(value) for name, value in losses.named.items()} | {"log_p_y": found.log_p_y}
        named |= {f"{self.monitor}_at_{temperature}": value for temperature, value in found.tempered.items()}
        return Losses(loss, bound, named, None if losses.player is None else per_row(losses.player))
