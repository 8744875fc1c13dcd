"""p(z): priors, and the Kullback–Leibler divergences known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.model.component import Component
from skvae.model.posteriors import NormalPosterior

_LOG_2PI = math.log(2 * math.pi)


class Prior(Component):
    """A distribution over z."""

    latent_dim: int

    def bind(self, latent_dim: int, n_context: int = 0) -> Self:
        self.latent_dim = latent_dim
        return self

    def attach(self, model: nn.Module) -> None:
        """Meet the finished model, whose encoder some priors share; the last chance to make parameters."""

    def prepare(self, rows: Batch) -> None:
        """Look at the training rows, once, before training starts."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log density of `z` [S, B, D], [S, B]."""
        raise NotImplementedError

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents [..., D] from standard normal noise `eps` [..., D]."""
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, I)."""

    alias = "normal"

    def __init__(self) -> None:
        super().__init__()

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -0.5 * (z.square() + _LOG_2PI).sum(-1)

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        return eps


ClosedForm = Callable[[Any, Any, Tensor | None], Tensor]
_CLOSED_FORMS: dict[tuple[type, type], ClosedForm] = {}


def register_kl(posterior: type, prior: type) -> Callable[[ClosedForm], ClosedForm]:
    """Declare a function (posterior, prior, context) → KL [B, D] for a pair of types."""

    def register(function: ClosedForm) -> ClosedForm:
        _CLOSED_FORMS[posterior, prior] = function
        return function

    return register


def kl_divergence(posterior: Any, prior: Prior, context: Tensor | None = None) -> Tensor | None:
    """KL(q(z|x) ‖ p(z)) per latent dimension [B, D], or None where no closed form is known."""
    function = _CLOSED_FORMS.get((type(posterior), type(prior)))
    return None if function is None else function(posterior, prior, context)


@register_kl(NormalPosterior, StandardNormal)
def _kl_normal_standard(q: NormalPosterior, prior: StandardNormal, context: Tensor | None) -> Tensor:
    """½ (μ² + σ² − 1) − log σ (Kingma & Welling 2014, appendix B)."""
    mean_part = torch.addcmul(-0.5 - q.log_scale, q.mean, q.mean, value=0.5)
    return torch.addcmul(mean_part, q.scale, q.scale, value=0.5)
