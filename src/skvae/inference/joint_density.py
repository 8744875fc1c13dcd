"""Training in which a density of the latents takes part, as the prior that it will be."""

from __future__ import annotations

from collections.abc import Sequence

from skvae.data.batch import Batch
from skvae.model.objectives import ELBO, Objective
from skvae.model.priors import Prior
from skvae.model.vae import LatentVariableModel
from skvae.training import Callback, History, Noise, Plan, fit

# Weight of the KL in the first part of training, shares of the planned epochs that both parts take (a step with the
# density takes twice as long), and the learning rate of the second, as a share of that of the first. Chosen on
# training rows of Adult held out for it.
OPENING_BETA = 0.2
SHARES = {"default": (0.5, 0.28), "high": (0.25, 0.15)}
JOINT_LEARNING_RATE = 0.5
# Rows and planned steps from which on it is done.
MIN_ROWS, MIN_STEPS = 2_000, 2_000


class Opening(ELBO):
    r"""The objective of the first part, before there is a density.

    .. math:: E_{q(z|x)}[\log p(x|z)] - \beta \, KL(q(z|x) \,\|\, p(z)), \qquad \beta < 1

    KL(q(z|x) ‖ p(z)), averaged over rows, is the information that z carries of x plus KL(q̄(z) ‖ p(z)), with the
    aggregated posterior q̄ (Hoffman & Johnson 2016). The second vanishes when a density fitted to q̄ becomes p(z): at
    β = 1 latents would be paid for too dearly, and left unused. The best epoch is that of the smallest loss, for what
    is maximised is no bound yet.
    """

    alias = ""

    def judge(self, means: dict[str, float]) -> float:
        return -means["loss"]


def train_with_density(
    model: LatentVariableModel,
    density: Prior,
    objective: Objective,
    train: Batch,
    validation: Batch | None,
    plan: Plan,
    noise: Noise,
    *,
    column_names: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train model and density together: the bound is that of a model whose prior the density is, and so learned.

    In place; the model's own prior is there again afterwards. A learned autoregressive prior is that of Chen et al.
    (2017): what the bound speaks of is then the very distribution that new rows come from.
    """
    of_training = model.prior
    model.prior = density.requires_grad_(True)
    try:
        return fit(
            model,
            objective,
            train,
            validation,
            plan,
            noise,
            column_names=column_names,
            callbacks=callbacks,
            anew=False,
        )[0]
    finally:
        density.requires_grad_(False).eval()
        model.prior = of_training
