"""How well a fitted model uses its latents and how far it can be trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from skvae.data.batch import Batch
from skvae.inference.log_likelihood import elbo, kl_per_dimension, log_likelihood
from skvae.model.vae import LatentVariableModel

# Burda, Grosse & Salakhutdinov 2016, appendix C.
_ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class Diagnosis:
    """The answers of `diagnose`.

    Attributes
    ----------
    active_units : int
        Latents whose posterior mean varies over rows by more than 0.01 (Burda et al. 2016).
    latent_dim : int
    kl_per_unit : list of float
        Mean KL(q(z_j|x) ‖ p(z_j)) in nats, by latent.
    collapsed : bool
        Whether no latent is active: the decoder ignores z.
    elbo, log_p : float
        Means over the rows given, nats per row.
    inference_gap : float
        log p(x) − ELBO, nats per row: what the approximate posterior costs.
    overfitting_gap : float or None
        Training minus validation bound at the best epoch, nats per row; None without validation rows.
    advice : list of str
        What to change.
    """

    active_units: int
    latent_dim: int
    kl_per_unit: list[float]
    collapsed: bool
    elbo: float
    log_p: float
    inference_gap: float
    overfitting_gap: float | None
    advice: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        kl = "  ".join(f"{value:.2f}" for value in sorted(self.kl_per_unit, reverse=True))
        gap = "no validation rows" if self.overfitting_gap is None else f"{self.overfitting_gap:.3f} nats"
        lines = [
            f"active units     {self.active_units} of {self.latent_dim}",
            f"KL per unit      {kl} nats",
            f"ELBO             {self.elbo:.3f} nats per row",
            f"log p(x)         {self.log_p:.3f} nats per row",
            f"inference gap    {self.inference_gap:.3f} nats",
            f"overfitting gap  {gap}",
        ]
        return "\n".join(lines + [f"advice           {line}" for line in self.advice])


@torch.no_grad()
def diagnose(model: LatentVariableModel, rows: Batch, eps: torch.Tensor, overfitting_gap: float | None) -> Diagnosis:
    """Examine a model on `rows`, with noise `eps` [K, D] shared by them."""
    means = torch.cat([model.encode(piece).mean for piece in rows.chunks(8192)])
    active = int((means.var(0, correction=0) > _ACTIVE_VARIANCE).sum())
    kl = kl_per_dimension(model, rows)
    bound = elbo(model, rows, eps).double().mean().item()
    log_p = log_likelihood(model, model.prior, rows, eps).log_p.double().mean().item()
    latent_dim = means.shape[1]
    advice = []
    if active == 0:
        advice.append(
            "no latent is active (posterior collapse): set objective=ELBO(warm_up=0.5), a smaller beta or "
            "free_bits=0.1"
        )
    elif active == latent_dim and latent_dim > 1:
        advice.append(f"every latent is active: a latent_dim above {latent_dim} may explain more")
    elif active <= latent_dim // 2:
        advice.append(f"only {active} latents are active: latent_dim={max(1, active)} would do")
    if overfitting_gap is not None and overfitting_gap > 0.1 * max(1.0, abs(bound)):
        advice.append(
            "training rows are explained much better than validation rows: lower hidden_sizes or max_epochs"
        )
    return Diagnosis(
        active_units=active,
        latent_dim=latent_dim,
        kl_per_unit=[] if kl is None else kl.double().mean(0).tolist(),
        collapsed=active == 0,
        elbo=bound,
        log_p=log_p,
        inference_gap=log_p - bound,
        overfitting_gap=overfitting_gap,
        advice=advice,
    )
