"""A prior of any shape, by a flow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from skvae.model.flows import Flow, check_flow
from skvae.model.posteriors.normal import standard_normal_log_prob
from skvae.model.priors.base import Prior


class FlowPrior(Prior):
    """The density of latents that an autoregressive flow maps to N(0, I), from which it starts.

    p(z) = N(T(z); 0, I) |det ∂T/∂z| (Papamakarios, Pavlakou & Murray 2017; as a prior, Chen et al. 2017): the
    density takes one pass, draws take `passes` of them. T depends on the context, where there is one.

    Needs zuko: `pip install scikit-vae[flows]`.

    Parameters
    ----------
    n_transforms : int
        Length of the chain of maps.
    hidden_sizes : sequence of int
        Widths of the hidden layers of each map's network.
    transform : {"affine", "spline"}
        What is done to one dimension given those before it: scale and shift, or a monotone rational-quadratic
        spline on [−5, 5] (Durkan, Bekasov, Murray & Papamakarios 2019), which takes several times as long and
        can make several modes of one dimension. A single latent stays normal under affine maps.
    passes : int or None
        Passes that a draw takes. None: one per latent dimension, each of which sees all before it; 2: coupling
        layers, of which one half sees the other.
    """

    alias = "flow"

    def __init__(
        self,
        n_transforms: int = 3,
        hidden_sizes: Sequence[int] = (64, 64),
        transform: str = "affine",
        passes: int | None = None,
    ) -> None:
        super().__init__()
        self.n_transforms = n_transforms
        self.hidden_sizes = hidden_sizes
        self.transform = transform
        self.passes = passes

    def bind(self, latent_dim: int, n_context: int = 0) -> FlowPrior:
        check_flow(self)
        super().bind(latent_dim, n_context)
        self.flow = Flow(latent_dim, n_context, self.n_transforms, self.hidden_sizes, self.transform, self.passes)
        self.width = self.flow.width
        return self

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        eps, log_det = self.flow(z, context)
        return standard_normal_log_prob(eps) + log_det

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        return self.flow(eps, context, inverse=True)[0]
