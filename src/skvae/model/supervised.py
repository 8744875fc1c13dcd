"""Latent-variable models of rows x and targets y: the structures that join them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model.heads import Head, label_log_probs, reparametrised
from skvae.model.likelihoods import Distribution, Table
from skvae.model.likelihoods.table import TableDistribution
from skvae.model.posteriors import PosteriorDistribution
from skvae.model.priors import DirectedNormal, Prior
from skvae.model.vae import LatentVariableModel, Supervision, Terms

_HEAD_SIZES = (128,)
# Latents from which those that fit a target are chosen: at least, and per row wanted.
_MIN_POOL, _POOL_PER_ROW = 10_000, 10
# At which epochs are judged too: confidence that is too large is mended after training.
_TEMPERATURES = (1.5, 2.2, 3.3, 5.0)


class SupervisedModel(LatentVariableModel):
    """A latent-variable model with targets.

    A batch with a `target` [B, T] (standardised or codes, NaN where missing) gives terms with a `Supervision` and a
    factor "y"; one without is a question about x alone, as to any latent-variable model.

    Parameters
    ----------
    columns, targets : sequence of Column
        Those of x, and of y.
    target_likelihood : Table
        Of y.
    partly_labelled : bool
        Whether rows without a target are to be learned from.
    **parts
        Of `LatentVariableModel`.
    """

    structure: ClassVar[str]

    def __init__(
        self,
        columns: Sequence[Column],
        targets: Sequence[Column],
        *,
        target_likelihood: Table,
        partly_labelled: bool,
        **parts: Any,
    ) -> None:
        super().__init__(columns, **parts)
        self.partly_labelled = partly_labelled
        self._targets, self._target_likelihood = targets, target_likelihood

    def _head(self, n_in: int, hidden_sizes: Sequence[int] = ()) -> Head:
        return Head(n_in, self._targets, self._target_likelihood, hidden_sizes)

    def forward(
        self,
        batch: Batch,
        eps: Tensor,
        progress: Tensor | float = 1.0,
        context: Tensor | None = None,
        prior: Prior | None = None,
        prior_eps: Tensor | None = None,
    ) -> Terms:
        if batch.target is None:
            return super().forward(batch, eps, progress, context, prior, prior_eps)
        return self.with_targets(batch, batch.target, eps, prior, progress=progress, prior_eps=prior_eps)

    def with_targets(self, batch: Batch, target: Tensor, eps: Tensor, prior: Prior | None, **common: Any) -> Terms:
        """Terms of a batch with targets [B, T]; `common` goes to them as it is."""
        raise NotImplementedError

    def _tempered(self, distribution: Distribution, y: Tensor, known: Tensor) -> dict[float, Tensor]:
        """Of labels, outside training: log p(y|x) [B] at other temperatures."""
        if self.training or [target.kind for target in self._targets] != [Kind.CATEGORICAL]:
            return {}
        log_p = label_log_probs(distribution).logsumexp(0)  # [B, K], up to a constant
        return {
            temperature: (log_p / temperature).log_softmax(-1).gather(1, y.long()).squeeze(1) * known.squeeze(1)
            for temperature in _TEMPERATURES
        }

    def predictive(self, batch: Batch, eps: Tensor) -> Distribution:
        """p(y|x) as a mixture with equal shares, [M, B, T].

        Parameters
        ----------
        eps : Tensor [S, D]
            Noise for as many draws from q(z|x), if the structure needs them; the same for all rows.
        """
        raise NotImplementedError

    def latents_given(self, target: Tensor, stream: torch.Generator) -> Tensor:
        """Draws from p(z|y) for targets [n, T] without holes, [n, D]."""
        raise NotImplementedError


class JointModel(SupervisedModel):
    """p(z) p(x|z) p(y|z) with q(z|x): what predicts y is a latent that explains x."""

    structure = "joint"

    def __init__(self, columns: Sequence[Column], targets: Sequence[Column], **parts: Any) -> None:
        super().__init__(columns, targets, **parts)
        self.head = self._head(self.latent_dim, _HEAD_SIZES)

    def with_targets(self, batch: Batch, target: Tensor, eps: Tensor, prior: Prior | None, **common: Any) -> Terms:
        posterior = self.encode(batch)
        z = posterior.rsample(eps)
        y, known = _entries(target)
        of_target = self.head(z)
        log_p_y = (of_target.log_prob(y) * known).sum(-1)  # [S, B]
        mean = log_p_y.squeeze(0) if len(z) == 1 else log_p_y.logsumexp(0) - math.log(len(z))
        distribution = self.decode(z)
        return Terms(
            z,
            posterior,
            prior or self.prior,
            distribution,
            batch,
            **self.missing.factors(distribution, batch),
            **common,
            supervision=Supervision(mean, known.mean(-1), tempered=self._tempered(of_target, y, known)),
            y=lambda: log_p_y,
        )

    def predictive(self, batch: Batch, eps: Tensor) -> Distribution:
        return self.head(self.encode(batch).rsample(eps.unsqueeze(1)))

    def latents_given(self, target: Tensor, stream: torch.Generator) -> Tensor:
        """By sampling importance resampling from p(z), with weights p(y|z)."""
        n_pool = max(_MIN_POOL, _POOL_PER_ROW * len(target))
        pool = self.density.sample(
            torch.randn((n_pool, self.density.n_noise), generator=stream, device=target.device)
        )
        wanted, of_row = target.unique(dim=0, return_inverse=True)
        u = torch.rand(len(target), generator=stream, device=target.device)
        chosen = torch.empty_like(of_row)
        distribution = self.head(pool.unsqueeze(1))  # [M, 1, T]
        for k, piece in enumerate(wanted.split(1)):
            log_w = distribution.log_prob(piece).sum(-1).squeeze(1).double()  # [M]
            cumulative = log_w.softmax(0).cumsum(0)
            its = (of_row == k).nonzero().squeeze(1)
            chosen[its] = torch.searchsorted(cumulative, u[its] * cumulative[-1]).clamp(max=n_pool - 1)
        return pool[chosen]


class ConditionalPriorModel(SupervisedModel):
    """p(y) p(z|y) p(x|z) with q(z|x) and q(y|x) (Zhao, Adeli, Honnorat, Leng & Pohl 2019).

    z is normal about a line along which y grows (`DirectedNormal`). Encoder and q(y|x) share their network. Where y
    is missing, the bound is averaged over a draw from q(y|x), whose entropy is added.
    """

    structure = "prior"
    has_free_latents = False
    prior: DirectedNormal

    def __init__(self, columns: Sequence[Column], targets: Sequence[Column], **parts: Any) -> None:
        parts |= {"prior": DirectedNormal(), "n_context": _context(parts, prior=len(targets))}
        super().__init__(columns, targets, **parts)
        self.n_targets = len(targets)
        self.head = self._head(self.encoder.n_out)
        self.prior.marginal = self._head(0)

    @property
    def n_noise(self) -> int:
        return self.latent_dim + (self.n_targets if self.partly_labelled else 0)

    def with_targets(self, batch: Batch, target: Tensor, eps: Tensor, prior: Prior | None, **common: Any) -> Terms:
        hidden = self.hidden(batch)
        posterior = self.posterior(hidden)
        z = posterior.rsample(eps[..., : self.latent_dim])
        y, known = _entries(target)
        q = self.head(hidden.unsqueeze(0))  # [1, B, T]
        log_q_y = (q.log_prob(y) * known).sum(-1).squeeze(0)
        entropy = None
        if self.partly_labelled:
            u = torch.special.ndtr(eps[:1, :, self.latent_dim :]).clamp(1e-6, 1 - 1e-6)
            drawn = reparametrised(q, u)  # [1, B, T]
            entropy = -(q.log_prob(drawn) * (1 - known)).sum(-1).squeeze(0)
            y = torch.where(known > 0, y, drawn.squeeze(0))
        distribution = self.decode(z)
        return Terms(
            z,
            posterior,
            prior or self.prior,
            distribution,
            batch,
            **self.missing.factors(distribution, batch),
            context=y,
            **common,
            supervision=Supervision(log_q_y, known.mean(-1), entropy),
            y=lambda: self.prior.marginal(y.unsqueeze(0)).log_prob(y).sum(-1),
        )

    def predictive(self, batch: Batch, eps: Tensor) -> Distribution:
        return self.head(self.hidden(batch).unsqueeze(0))

    def latents_given(self, target: Tensor, stream: torch.Generator) -> Tensor:
        shape = len(target), self.prior.n_noise
        return self.prior.sample(torch.randn(shape, generator=stream, device=target.device), target)


class M2Model(SupervisedModel):
    """p(y) p(z) p(x|y, z) with q(y|x) and q(z|x, y) (Kingma, Rezende, Mohamed & Welling 2014, M2), for K labels.

    In training, missing labels are summed out: the K copies of a row are terms of their own. To questions about x
    alone the label is part of the latent, z and the one-hot y side by side, [D + K].
    """

    structure = "m2"
    has_free_latents = False
    n_labels: int
    prior: LabelledPrior

    def __init__(self, columns: Sequence[Column], targets: Sequence[Column], **parts: Any) -> None:
        (target,) = targets
        n_labels = target.cardinality
        parts["n_context"] = _context(parts, posterior=n_labels, decoder=n_labels)
        super().__init__(columns, targets, **parts)
        self.n_labels = n_labels
        self.head = self._head(self.encoder.n_out)
        self.prior = LabelledPrior(self.prior, self.n_labels)
        self.latent_dim += self.n_labels

    @property
    def n_noise(self) -> int:
        return self.latent_dim - self.n_labels

    def with_targets(self, batch: Batch, target: Tensor, eps: Tensor, prior: Prior | None, **common: Any) -> Terms:
        hidden = self.hidden(batch)
        of_target = self.head(hidden.unsqueeze(0))
        log_q = label_log_probs(of_target).squeeze(0)  # [B, K]
        code, known = _entries(target)
        labels = _one_hot(code.squeeze(1), self.n_labels).to(hidden.dtype)  # [B, K]
        log_q_y = (labels * log_q).sum(-1) * known.squeeze(1)
        q = log_q.exp()
        probs = torch.where(known > 0, labels, q)
        share = entropy = None
        if self.partly_labelled:
            share = probs.T  # [K, B]
            entropy = -(q * log_q).sum(-1) * (1 - known.squeeze(1))
            every = torch.eye(self.n_labels, dtype=hidden.dtype, device=hidden.device)
            labels = every.repeat_interleave(len(batch), dim=0)  # [K B, K]
            hidden, eps = hidden.repeat(self.n_labels, 1), eps.repeat(1, self.n_labels, 1)
            batch = replace(batch, told=None).repeat(self.n_labels)
        posterior = self.posterior(torch.cat([hidden, labels], dim=1))
        z = posterior.rsample(eps)
        distribution = self.decode(z, labels)
        return Terms(
            z,
            posterior,
            prior or self.prior.latent,
            distribution,
            batch,
            **self.missing.factors(distribution, batch),
            **common,
            supervision=Supervision(
                log_q_y, known.squeeze(1), entropy, share, probs, self._tempered(of_target, code, known)
            ),
            y=lambda: (labels @ self.prior.logits.log_softmax(0)).unsqueeze(0),
        )

    def places(self, batch: Batch, eps: Tensor) -> Tensor:
        """What rows are compared by: q(y|x), [B, K]; z is what rows of a label differ in."""
        return label_log_probs(self.head(self.hidden(batch).unsqueeze(0))).squeeze(0).exp()

    def encode(self, batch: Batch, context: Tensor | None = None) -> PosteriorDistribution:
        """q(y|x) q(z|x, y), of z and the one-hot y side by side."""
        hidden = self.hidden(batch)
        return LabelledPosterior(self, hidden, label_log_probs(self.head(hidden.unsqueeze(0))).squeeze(0))

    def decode(self, z: Tensor, context: Tensor | None = None) -> TableDistribution:
        """p(x|y, z) for `z` [S, B, D] and one-hot labels, which without a context are the last K of `z`."""
        if context is None:
            z, context = z.split([self.n_noise, self.n_labels], dim=-1)
        return super().decode(z, context)

    def predictive(self, batch: Batch, eps: Tensor) -> Distribution:
        return self.head(self.hidden(batch).unsqueeze(0))

    def latents_given(self, target: Tensor, stream: torch.Generator) -> Tensor:
        latent = self.prior.latent
        z = latent.sample(torch.randn((len(target), latent.n_noise), generator=stream, device=target.device))
        return torch.cat([z, _one_hot(target.squeeze(1), self.n_labels)], dim=-1)


class LabelledPosterior(PosteriorDistribution):
    """q(y|x) q(z|x, y) of B rows, as a distribution of z and the one-hot y side by side."""

    def __init__(self, model: M2Model, hidden: Tensor, log_q: Tensor) -> None:
        self._model, self._hidden, self._log_q = model, hidden, log_q

    def _given(self, labels: Tensor) -> PosteriorDistribution:
        """q(z|x, y) for labels [S, B, K], as S B rows."""
        hidden = self._hidden.expand(len(labels), -1, -1)
        return self._model.posterior(torch.cat([hidden, labels], dim=-1).flatten(0, 1))

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The mean of z at the probabilities of the labels, and those, [B, D + K]."""
        probs = self._log_q.exp()
        return torch.cat([self._given(probs.unsqueeze(0)).mean, probs], dim=-1)

    def rsample(self, eps: Tensor) -> Tensor:
        eps = eps.expand(-1, len(self._hidden), -1)
        noise, for_label = eps.split([self._model.n_noise, self._model.n_labels], dim=-1)
        labels = _drawn_label(self._log_q, for_label)
        z = self._given(labels).rsample(noise.flatten(0, 1).unsqueeze(0)).squeeze(0)
        return torch.cat([z.unflatten(0, labels.shape[:2]), labels], dim=-1)

    def log_prob(self, z: Tensor) -> Tensor:
        z, labels = z.split([self._model.n_noise, self._model.n_labels], dim=-1)
        log_q_z = self._given(labels).log_prob(z.flatten(0, 1).unsqueeze(0)).squeeze(0)
        return log_q_z.unflatten(0, labels.shape[:2]) + (labels * self._log_q).sum(-1)

    def detach(self) -> LabelledPosterior:
        return self


class LabelledPrior(Prior):
    """p(y) p(z), of z and the one-hot y side by side.

    Parameters
    ----------
    latent : Prior
        p(z), bound.
    n_labels : int
    """

    def __init__(self, latent: Prior, n_labels: int) -> None:
        super().__init__()
        self.latent = latent
        self.n_labels = n_labels
        self.latent_dim = latent.latent_dim + n_labels
        self.logits = nn.Parameter(torch.zeros(n_labels))

    @property
    def n_noise(self) -> int:
        return self.latent.n_noise + self.n_labels

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.latent.width

    def prepare(self, rows: Batch) -> None:
        self.latent.prepare(rows)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z, labels = z.split([self.latent.latent_dim, self.n_labels], dim=-1)
        return self.latent.log_prob(z) + labels @ self.logits.log_softmax(0)

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        noise, for_label = eps.split([self.latent.n_noise, self.n_labels], dim=-1)
        return torch.cat([self.latent.sample(noise), _drawn_label(self.logits.log_softmax(0), for_label)], dim=-1)


STRUCTURES: dict[str, type[SupervisedModel]] = {
    model.structure: model for model in (JointModel, ConditionalPriorModel, M2Model)
}


def _context(parts: dict[str, Any], **lengths: int) -> dict[str, int]:
    """Lengths of context vectors by part, with those that are asked for."""
    return {**parts.get("n_context", {}), **lengths}


def _entries(target: Tensor) -> tuple[Tensor, Tensor]:
    """The targets [B, T] with 0 where they are missing, and 1 or 0 where they are known or not."""
    known = ~target.isnan()
    return torch.where(known, target, 0.0), known.to(target.dtype)


def _drawn_label(log_p: Tensor, eps: Tensor) -> Tensor:
    """One-hot labels from standard normal noise [..., K], by the Gumbel-max trick."""
    u = torch.special.ndtr(eps).clamp(1e-7, 1 - 1e-7)
    return _one_hot((log_p - torch.log(-torch.log(u))).argmax(-1), log_p.shape[-1]).to(log_p.dtype)


def _one_hot(code: Tensor, n: int) -> Tensor:
    """Codes [...] as vectors [..., n]; unlike torch's own, without a look at the values."""
    return (code.unsqueeze(-1) == torch.arange(n, device=code.device)).float()
