"""What objectives have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.model.component import Component
from skvae.model.vae import LatentVariableModel, Terms

if TYPE_CHECKING:
    from skvae.model.objectives.sums import Sum


@dataclass
class Penalty:
    """What a regulariser adds, per row.

    Attributes
    ----------
    loss : Tensor [B]
        Added to the loss.
    named : dict of str to Tensor [B]
        Pieces worth recording.
    player : Tensor [B] or None
        The loss of the regulariser's second player, on detached latents.
    """

    loss: Tensor
    named: dict[str, Tensor] = field(default_factory=dict)
    player: Tensor | None = None


@dataclass
class Losses:
    """The answer of an objective, per row.

    Attributes
    ----------
    loss : Tensor [B]
        What is differentiated.
    bound : Tensor [B]
        The unweighted lower bound on log p(x), in nats: what is reported and monitored.
    named : dict of str to Tensor [B]
        Pieces worth recording.
    player : Tensor [B] or None
        The loss of the objective's second player, on detached latents.
    """

    loss: Tensor
    bound: Tensor
    named: dict[str, Tensor] = field(default_factory=dict)
    player: Tensor | None = None

    def record(self) -> dict[str, Tensor]:
        """Everything by name, without gradients."""
        pieces = {"loss": self.loss, "bound": self.bound, **self.named}
        return {name: value.detach() for name, value in pieces.items()}

    def plus(self, penalty: Penalty, name: str) -> Losses:
        """With a penalty in the loss; its pieces keep their names, or take `name` in front if they are taken."""
        named = dict(self.named)
        for key, value in penalty.named.items():
            named[f"{name}_{key}" if key in named else key] = value
        players = [player for player in (self.player, penalty.player) if player is not None]
        return Losses(self.loss + penalty.loss, self.bound, named, sum(players[1:], players[0]) if players else None)


class Objective(Component):
    """Maps Terms to Losses.

    Attributes
    ----------
    n_draws : int
        Draws of z per row and step.
    n_prior_draws : int
        Rows of standard normal noise that it wants for draws from the prior (`Terms.prior_eps`).
    warm_up : float
        Share of training during which the objective is not yet what it will be; the best epoch is chosen
        after it.
    monitor : str
        The recorded piece whose mean over held-out rows chooses the best epoch; larger is better.
    has_partners : bool
        Whether every row of a step comes with a partner, another training row (`Terms.partners`).
    compares_latents : bool
        Whether it looks at the latents of all rows of a step together, each row once: of a row whose label is summed
        out there are as many as labels.
    player : Module or None
        A second player, which the model's optimiser leaves alone: it makes its own step on
        `Losses.player` after each of the model's.
    """

    n_draws: int = 1
    n_prior_draws: int = 0
    warm_up: float = 0.0
    monitor: str = "bound"
    has_partners: bool = False
    compares_latents: bool = False
    player: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.player = None

    def check(self) -> None:
        """Refuse parameters that are out of range or contradict each other; before any training."""

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Look at the model and its training rows, once, before training starts."""

    def partners(self, rows: Tensor, stream: torch.Generator) -> Tensor:
        """For the training rows of a step [B], the positions of others to be encoded with them [B]."""
        raise NotImplementedError

    def partners_of_others(self, model: LatentVariableModel, rows: Batch, stream: torch.Generator) -> Tensor:
        """For rows that are not trained on, the positions of training rows [n]."""
        raise NotImplementedError

    def judge(self, means: dict[str, float]) -> float:
        """How good an epoch is, given the means over held-out rows of all that was recorded."""
        return means[self.monitor]

    def forward(self, terms: Terms) -> Losses:
        raise NotImplementedError

    def __add__(self, other: Objective) -> Sum:
        from skvae.model.objectives.sums import add

        return add(self, other) if isinstance(other, Objective) else NotImplemented

    def _needs_density(self, model: LatentVariableModel) -> None:
        """Refuse a model whose posterior has no density."""
        if not model.posterior.has_density:
            raise ValueError(
                f"objective={self!r} needs the density q(z|x), and posterior={model.posterior!r} has none; use "
                "posterior='diagonal', or objective='rae'"
            )


def mean_over_draws(x: Tensor) -> Tensor:
    """Mean of [S, B] over S; with one draw, for free."""
    return x.squeeze(0) if len(x) == 1 else x.mean(0)
