"""What priors have in common, and the table of closed-form divergences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.component import Component

if TYPE_CHECKING:
    from skvae.model.vae import LatentVariableModel


class Prior(Component):
    """A distribution over z.

    Attributes
    ----------
    n_noise : int
        Standard normal numbers that a draw takes.
    width : int
        Numbers held for each latent that is scored; bounds how many are scored at once.
    fitting_steps : float
        Steps that fitting to latents takes, as a multiple of what other priors take.
    """

    latent_dim: int
    width: int = 0
    fitting_steps: float = 1.0

    @property
    def n_noise(self) -> int:
        return self.latent_dim

    def bind(self, latent_dim: int, n_context: int = 0) -> Self:
        self.latent_dim = latent_dim
        return self

    def attach(self, model: LatentVariableModel) -> None:
        """Meet the finished model, whose encoder some priors share; the last chance to make parameters."""

    def prepare(self, rows: Batch) -> None:
        """Look at the training rows, once, before training starts."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log density of `z` [S, B, D], [S, B]."""
        raise NotImplementedError

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents [..., D] from standard normal noise `eps` [..., n_noise]."""
        raise NotImplementedError

    def look_at(self, z: Tensor) -> None:
        """Look at latents [n, D], once, before it is fitted to them."""

    def fitting_loss(self, z: Tensor, stream: torch.Generator) -> Tensor:
        """What is to be made small, in the mean, to fit it to latents [n, D], [n]."""
        return -self.log_prob(z.unsqueeze(0))[0]


class ScaledPrior(Prior):
    """A prior that takes the centre and the deviations of latents for its origin and its units."""

    centre: Tensor
    unit: Tensor

    def bind(self, latent_dim: int, n_context: int = 0) -> Self:
        super().bind(latent_dim, n_context)
        self.register_buffer("centre", torch.zeros(latent_dim))
        self.register_buffer("unit", torch.ones(latent_dim))
        return self

    @torch.no_grad()
    def look_at(self, z: Tensor) -> None:
        self.centre.copy_(z.mean(0))
        self.unit.copy_(z.std(0, correction=0).clamp(min=1e-6))


ClosedForm = Callable[[Any, Any, Tensor | None], Tensor | None]
_CLOSED_FORMS: dict[tuple[type, type], ClosedForm] = {}


def register_kl(posterior: type, prior: type) -> Callable[[ClosedForm], ClosedForm]:
    """Declare a function (posterior, prior, context) → KL [B, D] for a pair of types."""

    def register(function: ClosedForm) -> ClosedForm:
        _CLOSED_FORMS[posterior, prior] = function
        return function

    return register


def kl_divergence(posterior: Any, prior: Prior, context: Tensor | None = None) -> Tensor | None:
    """KL(q(z|x) ‖ p(z)) by latent dimension [B, D], or None where no closed form is known.

    The dimensions add up to the divergence. Where q has correlations, each is counted given those before it:
    E[KL(q(z_j | z_1 … z_{j−1}) ‖ p(z_j))].
    """
    function = _CLOSED_FORMS.get((type(posterior), type(prior)))
    return None if function is None else function(posterior, prior, context)
