"""The VampPrior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.model.checks import check_flag, check_whole
from skvae.model.posteriors.normal import NormalFamily
from skvae.model.priors.mixture import Mixture

if TYPE_CHECKING:
    from skvae.model.vae import LatentVariableModel


class VampPrior(Mixture):
    """The variational mixture of posteriors, p(z) = Σ_k w_k q(z|u_k) (Tomczak & Welling 2018, equation 9).

    The pseudo-inputs u_k are learned. They stand where encoded rows enter the encoder, after the embedding, so
    that columns of any kind can have them, and start at the mean of the training rows there plus noise of their
    standard deviation: none is a row. Encoder and posterior are those of the model, which is kept out of the
    reach of `parameters` and `state_dict`, lest it contain itself.

    Parameters
    ----------
    n_pseudo_inputs : int
        Number of components K.
    learn_weights : bool
        Whether the w_k are learned rather than 1/K.
    """

    alias = "vamp"
    logits: Tensor | None

    def __init__(self, n_pseudo_inputs: int = 500, learn_weights: bool = False) -> None:
        super().__init__()
        self.n_pseudo_inputs = n_pseudo_inputs
        self.learn_weights = learn_weights

    def bind(self, latent_dim: int, n_context: int = 0) -> VampPrior:
        check_whole(self, "n_pseudo_inputs", 1)
        check_flag(self, "learn_weights")
        if n_context:
            raise ValueError(
                "prior='vamp' has no pseudo-inputs for the context that this model's encoder takes; use "
                "prior='mixture', or 'conditional', which depends on it"
            )
        super().bind(latent_dim, n_context)
        self.width = 2 * max(self.n_pseudo_inputs, latent_dim**2)  # in double precision
        return self

    def attach(self, model: LatentVariableModel) -> None:
        """Make the pseudo-inputs.

        Raises
        ------
        ValueError
            If the density of the model's posterior is not a normal one.
        """
        if not model.posterior.is_normal:
            raise ValueError(
                f"prior='vamp' is a mixture of the densities of normal posteriors, and posterior={model.posterior!r} "
                "is none; use posterior='diagonal' or 'full', or prior='mixture'"
            )
        self._model = (model,)
        self.pseudo_inputs = nn.Parameter(torch.randn(self.n_pseudo_inputs, model.embedding.n_out))
        self.logits = nn.Parameter(torch.zeros(self.n_pseudo_inputs)) if self.learn_weights else None

    @torch.no_grad()
    def prepare(self, rows: Batch) -> None:
        """Put the pseudo-inputs where the training rows are."""
        mean = self._average(rows, torch.zeros_like(self.pseudo_inputs[0]))
        variance = self._average(rows, mean, power=2)
        self.pseudo_inputs.mul_(variance.sqrt()).add_(mean)

    def _average(self, rows: Batch, about: Tensor, power: int = 1) -> Tensor:
        """Mean over rows of (embedded row − about)^power, [n_features]."""
        embedding = self._model[0].embedding
        total = torch.zeros_like(self.pseudo_inputs[0])
        for piece in rows.chunks(8192):
            total += (embedding(piece.values, piece.mask) - about).pow(power).sum(0)
        return total / len(rows)

    def components(self) -> NormalFamily:
        model = self._model[0]
        return model.posterior(model.encoder(self.pseudo_inputs))

    def log_weights(self) -> Tensor:
        if self.logits is None:
            return self.pseudo_inputs.new_full((self.n_pseudo_inputs,), -math.log(self.n_pseudo_inputs))
        return self.logits.log_softmax(0)
