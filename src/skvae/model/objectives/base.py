"""What objectives have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.model.component import Component
from skvae.model.vae import LatentVariableModel, Terms


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
    player : Module or None
        A second player, which the model's optimiser leaves alone: it makes its own step on
        `Losses.player` after each of the model's.
    """

    n_draws: int = 1
    n_prior_draws: int = 0
    warm_up: float = 0.0
    player: nn.Module | None = None

    def check(self) -> None:
        """Refuse parameters that are out of range or contradict each other; before any training."""

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Look at the model and its training rows, once, before training starts."""

    def forward(self, terms: Terms) -> Losses:
        raise NotImplementedError


def mean_over_draws(x: Tensor) -> Tensor:
    """Mean of [S, B] over S; with one draw, for free."""
    return x.squeeze(0) if len(x) == 1 else x.mean(0)
