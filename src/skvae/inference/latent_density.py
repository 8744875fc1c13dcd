"""A density of the latents, fitted after training to where the posterior puts them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ExpectationMaximisation
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.posteriors.normal import NormalFamily
from skvae.model.priors import AutoregressivePrior, FlowMatchingPrior, FlowPrior, GaussianMixture, Prior
from skvae.model.vae import LatentVariableModel
from skvae.training.engine import Optimizer, threads_for
from skvae.training.randomness import Noise, seeded_torch
from skvae.training.schedule import learning_rate_factor

CHOICES = ("auto", "mixture", "autoregressive", "flow", "flow-matching")
# What scikit-learn calls the covariances of a mixture.
COVARIANCE_TYPES = {"diagonal": "diag", "full": "full"}

# With fewer rows the noise of the comparison would decide.
_MIN_ROWS = 300
# Latents that a density is fitted to, of so many draws for each row at most, and of held-out rows.
_MAX_LATENTS = {"fast": 10_000, "default": 30_000, "high": 120_000}
# Rows that are encoded for densities that are fitted step by step.
_MAX_ROWS = {"fast": 10_000, "default": 50_000, "high": 200_000}
# Rows from which on a network is tried, and its width, at most so much for each latent.
_MIN_AUTOREGRESSIVE = 2_000
_HIDDEN, _HIDDEN_PER_LATENT = {"fast": 128, "default": 256, "high": 384}, 32
# Looks at held-out latents on the way.
_LOOKS = 10
# Of a density that is fitted further: share of the steps and of the learning rate.
_MORE_STEPS, _MORE_LEARNING_RATE = 0.5, 0.5
# Passes over the rows, at most, and steps that a small table gets all the same.
_MAX_PASSES, _FEWEST_STEPS = 50, 500
_MAX_DRAWS, _N_HELD_OUT = 5, 4_096
_HELD_OUT_SHARE = 0.2
# Nats that are not worth another density.
_MIN_LEAD = 0.01
# Components of the mixtures that are tried, where there are so many latents for each of them: of each covariance the
# fewest first, and more as long as they are better.
_COMPONENTS: dict[str, dict[str, tuple[int, ...]]] = {
    "fast": {"diagonal": (10, 40), "full": (1,)},
    "default": {"diagonal": (10, 40), "full": (1, 10, 20, 40)},
    "high": {"diagonal": (10, 40, 100, 200), "full": (1, 10, 20, 40, 80)},
}
_LATENTS_PER_COMPONENT = 30
_MAX_ITERATIONS, _TOLERANCE, _LEAST_VARIANCE = 60, 1e-3, 1e-4
_N_STEPS, _BATCH_SIZE, _LEARNING_RATE, _MAX_NORM = {"fast": 1_000, "default": 1_500, "high": 4_000}, 512, 2e-3, 1e2
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class LatentDensity:
    """What was chosen.

    Attributes
    ----------
    prior : Prior
        Bound and fitted; that of training, if nothing was better.
    gain : float
        Nats per held-out latent by which it is better than the prior of training; of a posterior with a density,
        those that the evidence lower bound gains.
    tried : dict of str to float
        Mean log-density of held-out latents under each candidate, nats.
    """

    prior: Prior
    gain: float
    tried: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"prior": repr(self.prior), "gain": self.gain, "tried": self.tried}


def check_latent_density(value: Any) -> None:
    """Refuse what the parameter `latent_density` cannot be.

    Raises
    ------
    ValueError
    """
    if value is None or (isinstance(value, str) and value in CHOICES):
        return
    if not isinstance(value, Prior):
        raise ValueError(
            f"latent_density={value!r}: expected one of {CHOICES}, None for the prior of training, or a Prior object"
        )
    with seeded_torch(0):
        unbound = value.fresh().bind(2)
    if not any(p.requires_grad for p in unbound.parameters()):
        raise ValueError(
            f"latent_density={value!r} has no parameters that could be fitted to latents; use 'mixture', "
            "'autoregressive', 'flow', 'flow-matching', GaussianMixture(…), AutoregressivePrior(…), FlowPrior(…) or "
            "FlowMatchingPrior(…), or None for the prior of training"
        )


@torch.no_grad()
def fit_latent_density(
    model: LatentVariableModel,
    train: Batch,
    validation: Batch | None,
    choice: Any,
    quality: str,
    noise: Noise,
    *,
    go_on: bool = False,
) -> LatentDensity | None:
    r"""Fit a density to draws from the aggregated posterior, and compare it with the prior of training.

    The density that makes the mean evidence lower bound of given rows largest, encoder and decoder as they are, is
    their aggregated posterior q(z) = mean of q(z|x) (Hoffman & Johnson 2016; Tomczak & Welling 2018, section 2). A
    density is fitted to draws from it, of training rows, and judged by draws of rows held out: its mean
    log-density there, less that of the prior, is what the bound gains. Of a posterior without a density the means
    are taken for draws (Ghosh et al. 2020, section 4).

    Parameters
    ----------
    train, validation : Batch
        Without a `validation`, a fifth of the training rows is held out from the densities.
    choice : {"auto", "mixture", "autoregressive", "flow", "flow-matching"} or Prior
        "auto": mixtures of normals, of more components as long as they are better, at quality "high" also an
        `AutoregressivePrior`, from 2,000 rows on, and, if zuko is installed, a flow, and the prior of training, of
        which the simplest is taken that is as good as the best, up to the standard error of their difference or 0.01
        nats.
        "mixture": the best of the mixtures. "autoregressive", "flow", "flow-matching" (whose density takes too long
        for "auto"), or a Prior: that.
    quality : {"fast", "default", "high"}
    go_on : bool
        Whether `choice` is a density that has been fitted to latents already, of which it is to take up some more.

    Returns
    -------
    LatentDensity, or None if "auto" finds too few rows to tell
    """
    if choice == "auto" and len(train) < _MIN_ROWS and model.posterior.has_density:
        return None
    if validation is None:
        order = torch.randperm(len(train), generator=noise.stream("density rows"), device=noise.device)
        n_held_out = max(1, round(_HELD_OUT_SHARE * len(train)))
        train, validation = train.rows(order[n_held_out:]), train.rows(order[:n_held_out])
    latents = Latents(model, train, _MAX_ROWS[quality], noise.stream("density latents"))
    held_out = Latents(model, validation, _N_HELD_OUT, noise.stream("density held out")).of_each(1)
    few = latents.of_each(max(1, min(_MAX_DRAWS, _MAX_LATENTS[quality] // latents.n_rows)))[: _MAX_LATENTS[quality]]
    scores, fitted = [_scores(model.prior, held_out)], [model.prior]
    ladders = [[choice]] if go_on else _candidates(choice, quality, latents.n_rows, len(few), model.latent_dim)
    for ladder in ladders:
        best = -math.inf
        for part in ladder:
            prior = _fitted(part, latents, few, held_out, quality, noise.seed, go_on=go_on)
            fitted.append(prior)
            scores.append(_scores(prior, held_out))
            mean = float(scores[-1].mean())
            if mean <= best + _MIN_LEAD:
                break
            best = mean
    table = torch.stack(scores)  # [candidates, n]
    means = table.mean(1)
    chosen = _simplest(table) if choice == "auto" else 1 + int(means[1:].argmax())
    tried = {repr(prior): float(value) for prior, value in zip(fitted, means, strict=True)}
    return LatentDensity(fitted[chosen], float(means[chosen] - means[0]), tried)


def _fitted(
    part: Prior, latents: Latents, few: Tensor, held_out: Tensor, quality: str, seed: int, *, go_on: bool
) -> Prior:
    """A candidate, bound and fitted to latents; fitted further, if it has been fitted before."""
    prior = part
    if not go_on:
        with seeded_torch(seed):
            prior = part.bind(few.shape[1]).to(few.device)
        if isinstance(prior, GaussianMixture):
            _maximise_expectation(prior, few, seed)
            return prior.requires_grad_(False).eval()
        prior.look_at(few)
    n_weights = sum(p.numel() for p in prior.parameters())
    n_steps, learning_rate = round(prior.fitting_steps * _N_STEPS[quality]), _LEARNING_RATE
    if go_on:
        n_steps, learning_rate = round(_MORE_STEPS * n_steps), _MORE_LEARNING_RATE * learning_rate
    prior.requires_grad_(True)
    with torch.enable_grad(), threads_for(_BATCH_SIZE * n_weights):
        _climb(prior, latents, held_out, n_steps, learning_rate)
    return prior.requires_grad_(False).eval()


def _candidates(choice: Any, quality: str, n_rows: int, n_latents: int, latent_dim: int) -> list[list[Prior]]:
    """Unbound, the simplest first; of those in one list, each is tried if the one before it was the best of them."""
    if isinstance(choice, Prior):
        return [[choice.fresh()]]
    hidden_size = min(_HIDDEN[quality], _HIDDEN_PER_LATENT * latent_dim)
    flow, autoregressive = FlowPrior(transform="spline", passes=2), AutoregressivePrior(hidden_size=hidden_size)
    if choice == "flow":
        return [[flow]]
    if choice == "autoregressive":
        return [[autoregressive]]
    if choice == "flow-matching":
        return [[FlowMatchingPrior(hidden_size=hidden_size)]]
    found: list[list[Prior]] = [
        [GaussianMixture(k, covariance) for k in sizes if k == 1 or k * _LATENTS_PER_COMPONENT <= n_latents]
        for covariance, sizes in _COMPONENTS[quality].items()
    ]
    if choice == "mixture":
        return found
    if quality == "high":
        found += [[autoregressive]] if n_rows >= _MIN_AUTOREGRESSIVE else []
        found += [[flow]] if _has_flows() else []
    return found


def _has_flows() -> bool:
    from importlib.util import find_spec

    return find_spec("zuko") is not None


class Latents:
    """Draws from q(z|x) of some rows; of so many random ones, by weight, if there are more.

    Where the posterior is normal there is no end to different draws; else there are a few for each row.

    Parameters
    ----------
    model : LatentVariableModel
    rows : Batch
    n_rows : int
        That are encoded, at most.
    stream : Generator
        For all that is drawn.
    """

    def __init__(self, model: LatentVariableModel, rows: Batch, n_rows: int, stream: torch.Generator) -> None:
        self.stream = stream
        n = len(rows)
        if rows.weight is not None:
            rows = rows.rows(torch.multinomial(rows.weight, min(n, n_rows), True, generator=stream))
        elif n > n_rows:
            rows = rows.rows(torch.randperm(n, generator=stream, device=stream.device)[:n_rows])
        self.n_rows = len(rows)
        pieces = [model.encode(piece) for piece in rows.chunks(_ROWS_AT_ONCE)]
        first = pieces[0]
        self._posterior, self._drawn = None, None
        if isinstance(first, NormalFamily):
            self._posterior = type(first).joined(pieces)  # type: ignore[arg-type]
        else:
            drawn = []
            for piece, encoded in zip(rows.chunks(_ROWS_AT_ONCE), pieces, strict=True):
                shape = (_MAX_DRAWS if encoded.has_density else 1, len(piece), model.latent_dim)
                eps = torch.randn(shape, generator=stream, device=stream.device)
                drawn.append(encoded.rsample(eps))  # [S, B, D]
            self._drawn = torch.cat(drawn, dim=1)

    def of_each(self, n_draws: int) -> Tensor:
        """Draws of every row, [n, D]: `n_draws` of each, or as many as there are; only finite ones."""
        if self._posterior is not None:
            shape = (n_draws, *self._posterior.mean.shape)
            z = self._posterior.rsample(torch.randn(shape, generator=self.stream, device=self.stream.device))
        else:
            assert self._drawn is not None
            z = self._drawn[:n_draws]
        z = z.flatten(0, 1)
        return z[z.isfinite().all(1)]

    def random(self, n: int) -> Tensor:
        """Draws of random rows, [n, D]."""
        chosen = torch.randint(self.n_rows, (n,), generator=self.stream, device=self.stream.device)
        if self._posterior is not None:
            shape = (1, n, self._posterior.mean.shape[1])
            eps = torch.randn(shape, generator=self.stream, device=self.stream.device)
            return self._posterior.rows(chosen).rsample(eps)[0]
        assert self._drawn is not None
        draw = torch.randint(len(self._drawn), (n,), generator=self.stream, device=self.stream.device)
        return self._drawn[draw, chosen]


def _log_prob(prior: Prior, z: Tensor) -> Tensor:
    return torch.cat([prior.log_prob(piece.unsqueeze(0))[0] for piece in z.split(_ROWS_AT_ONCE)])


def _scores(prior: Prior, z: Tensor) -> Tensor:
    """The log-density of latents [n, D], low where there is none, [n]."""
    return _log_prob(prior, z).double().nan_to_num(nan=-1e9, neginf=-1e9)


def _maximise_expectation(prior: GaussianMixture, z: Tensor, seed: int) -> None:
    """Fit a mixture of normals; in units of each dimension's deviation, so that the least variance is relative."""
    centre, unit = z.mean(0), z.std(0, correction=0).clamp(min=1e-6)
    em = ExpectationMaximisation(
        prior.n_components,
        covariance_type=COVARIANCE_TYPES[prior.covariance],
        init_params="k-means++",
        random_state=seed % 2**32,
        max_iter=_MAX_ITERATIONS,
        tol=_TOLERANCE,
        reg_covar=_LEAST_VARIANCE,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        em.fit(((z - centre) / unit).double().cpu().numpy())
    take_over(prior, em, centre, unit)


def take_over(
    prior: GaussianMixture, fit: ExpectationMaximisation, centre: Tensor | None = None, unit: Tensor | None = None
) -> None:
    """Give a prior the components of scikit-learn's mixture, fitted in units [D] about a centre [D] of latents."""
    weights, means, covariances = (torch.from_numpy(a) for a in (fit.weights_, fit.means_, fit.covariances_))
    full = prior.covariance == "full"
    factors = torch.linalg.cholesky(covariances) if full else covariances.sqrt()
    if unit is not None:
        unit = unit.double().cpu()
        means, factors = means * unit, factors * (unit.unsqueeze(1) if full else unit)
    prior.place(weights, means if centre is None else means + centre.cpu(), factors)


def _climb(prior: Prior, latents: Latents, held_out: Tensor, n_steps: int, learning_rate: float) -> None:
    """Fit to the latents by Adam; the best of a few looks at the mean log-density of held-out ones is kept."""
    batch_size = min(_BATCH_SIZE, max(32, latents.n_rows // 4))
    most = max(_FEWEST_STEPS, _MAX_PASSES * latents.n_rows // batch_size)
    n_steps = min(n_steps, round(prior.fitting_steps * most))
    optimizer = Optimizer([prior], _MAX_NORM)
    best, kept = -math.inf, optimizer.snapshot()
    for step in range(n_steps):
        loss = prior.fitting_loss(latents.random(batch_size), latents.stream).mean()
        optimizer.step(loss, learning_rate * learning_rate_factor(step, n_steps, n_steps // 20))
        if (step + 1) % max(1, n_steps // _LOOKS) == 0:
            with torch.no_grad():
                found = float(_log_prob(prior, held_out).mean())
            if found > best:
                best, kept = found, optimizer.snapshot()
    optimizer.restore(kept)
    optimizer.release()


def _simplest(scores: Tensor) -> int:
    """The first of the rows of `scores` [K, n] that are as good as the best, up to one standard error or 0.01."""
    gap = scores[scores.mean(1).argmax()] - scores
    error = gap.std(1) / scores.shape[1] ** 0.5
    return int((gap.mean(1) <= error.clamp(min=_MIN_LEAD)).int().argmax())
