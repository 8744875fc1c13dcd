"""A posterior of any shape, by a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from skvae.model.checks import check_whole
from skvae.model.flows import Flow, check_flow
from skvae.model.likelihoods.base import soft_limit
from skvae.model.posteriors.base import Posterior, PosteriorDistribution
from skvae.model.posteriors.normal import LOG_SCALE_LIMIT, standard_normal_log_prob


class TransformedPosterior(PosteriorDistribution):
    """z = μ + σ T(ε): noise that a flow bends, moved and scaled, for each row.

    Parameters
    ----------
    location, log_scale : Tensor [B, D]
        μ and log σ.
    flow : function (x, context, inverse=False) → (T(x) or its inverse, log |det|)
    context : Tensor [B, n_context]
        What the flow knows of each row.
    """

    def __init__(
        self, location: Tensor, log_scale: Tensor, flow: Callable[..., tuple[Tensor, Tensor]], context: Tensor
    ) -> None:
        self.location, self.log_scale, self.flow, self.context = location, log_scale, flow, context
        self.scale = torch.exp(log_scale)
        self._drawn: tuple[Tensor, Tensor] | None = None

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The image of ε = 0, [B, D]: not the expected value, which has no closed form."""
        origin = torch.zeros_like(self.location).unsqueeze(0)
        return torch.addcmul(self.location, self.scale, self.flow(origin, self.context)[0].squeeze(0))

    def rsample(self, eps: Tensor) -> Tensor:
        """Latents [S, B, D] from noise `eps` [S, B, D] or [S, 1, D], in one pass; their log q is kept."""
        eps = eps.expand(-1, len(self.location), -1)
        bent, log_det = self.flow(eps, self.context)
        z = torch.addcmul(self.location, self.scale, bent)
        self._drawn = z, standard_normal_log_prob(eps) - log_det - self.log_scale.sum(-1)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of `z` [S, B, D], [S, B]: known for what `rsample` gave last, by inversion for the rest."""
        if self._drawn is not None and z is self._drawn[0]:
            return self._drawn[1]
        eps, log_det = self.flow((z - self.location) / self.scale, self.context, inverse=True)
        return standard_normal_log_prob(eps) + log_det - self.log_scale.sum(-1)

    def detach(self) -> TransformedPosterior:
        """The same without gradients to the parameters.

        What was drawn is not passed on: its log q is a function of ε, whereas here the derivative by z is
        wanted, which takes the inverse.
        """
        return TransformedPosterior(
            self.location.detach(), self.log_scale.detach(), _frozen(self.flow), self.context.detach()
        )


class FlowPosterior(Posterior):
    """A posterior of any shape: a diagonal normal bent by an autoregressive flow.

    Inverse autoregressive flow (Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling 2016, section 3):
    z = μ + σ T(ε), with T a chain of autoregressive maps that depend on the row. Drawing, and log q of what was
    drawn, take one pass. The density of other latents takes `passes` of them, and so do objectives that detach
    the posterior's parameters (sticking the landing, doubly reparameterised gradients): give passes=2 with
    those. The flow starts as the identity, where the posterior is the diagonal normal. `transform` answers with
    the image of ε = 0, not with the expected value.

    Needs zuko: `pip install scikit-vae[flows]`.

    Parameters
    ----------
    n_transforms : int
        Length of the chain.
    hidden_sizes : sequence of int
        Widths of the hidden layers of each map's network.
    transform : {"affine", "spline"}
        What is done to one dimension given those before it: scale and shift, or a monotone rational-quadratic
        spline (Durkan, Bekasov, Murray & Papamakarios 2019). A single latent stays normal under affine maps.
    passes : int or None
        Passes that the inverse takes. None: one per latent dimension, each of which sees all before it; 2:
        coupling layers, of which one half sees the other.
    n_context : int
        Numbers by which the encoder tells the flow about the row.
    """

    alias = "flow"

    def __init__(
        self,
        n_transforms: int = 3,
        hidden_sizes: Sequence[int] = (64, 64),
        transform: str = "affine",
        passes: int | None = None,
        n_context: int = 32,
    ) -> None:
        super().__init__()
        self.n_transforms = n_transforms
        self.hidden_sizes = hidden_sizes
        self.transform = transform
        self.passes = passes
        self.n_context = n_context

    def bind(self, n_hidden: int, latent_dim: int) -> FlowPosterior:
        check_flow(self)
        check_whole(self, "n_context", 1)
        self._sizes = [latent_dim, latent_dim, self.n_context]
        self.linear = nn.Linear(n_hidden, sum(self._sizes))
        self.flow = Flow(
            latent_dim, self.n_context, self.n_transforms, self.hidden_sizes, self.transform, self.passes
        )
        self.width = self.flow.width
        return self

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> TransformedPosterior:
        location, raw, own = self.linear(hidden).split(self._sizes, dim=-1)
        return TransformedPosterior(location, soft_limit(raw, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT), self.flow, own)


def _frozen(flow: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The flow with its present parameters, which carry no gradient."""
    if not isinstance(flow, nn.Module):
        return flow
    parameters = {name: p.detach() for name, p in flow.named_parameters()}

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return functional_call(flow, parameters, args, kwargs)

    return call
