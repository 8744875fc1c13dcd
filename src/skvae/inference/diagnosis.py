"""How well a fitted model uses its latents, explains its columns, and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.data.columns import Column
from skvae.inference.advice import advise
from skvae.inference.column_fit import (
    Conditional,
    cell_halves,
    conditional_fit,
    critical_distance,
    marginal_log_prob,
    uniformity,
)
from skvae.inference.latent_usage import aggregate_posterior, units
from skvae.inference.log_likelihood import rows_at_once
from skvae.inference.report import ColumnDiagnosis, Diagnosis
from skvae.model.priors import Prior
from skvae.model.vae import LatentVariableModel
from skvae.training.randomness import Noise

# Burda, Grosse & Salakhutdinov 2016, appendix C.
_ACTIVE_VARIANCE = 0.01
# A latent that carries less than this, in nats, tells next to nothing: 0.05 nats are a tenth of its variance.
_USED_KL = 0.05
# Rows looked at: fewer of wide tables, for the same work.
_MAX_ROWS, _MIN_ROWS, _MAX_OUTPUTS = 1000, 400, 2**16
_AGGREGATE_ROWS, _FLOW_ROWS = 512, 128
_PRIOR_DRAWS, _UNIT_DRAWS, _MAX_OWN_DRAWS = 1000, 64, 100
# A column counts as miscalibrated if chance explains its distance from uniform with less than this probability,
# shared among the columns, and if the distance would be noticed.
_LEVEL, _NOTICED = 0.01, 0.05


@dataclass(frozen=True)
class Training:
    """What is known of how the model was trained.

    Attributes
    ----------
    overfitting_gap : float or None
        Training minus validation bound at the best epoch, nats per row; None without validation rows.
    n_validation : int
    """

    overfitting_gap: float | None = None
    n_validation: int = 0


@torch.no_grad()
def diagnose(
    model: LatentVariableModel,
    prior: Prior,
    rows: Batch,
    columns: Sequence[Column],
    noise: Noise,
    n_draws: int = 100,
    training: Training | None = None,
) -> Diagnosis:
    """Examine a model.

    Of more rows than 1,000 (400 to 1,000 for tables with more than 65 likelihood parameters), that many are
    drawn at random, the same at every call.

    Parameters
    ----------
    rows : Batch
        Rows held out from training tell most.
    columns : sequence of Column
        Those of the rows.
    noise : Noise
        All that is drawn comes from here, independently over rows, so that errors average out.
    n_draws : int
        Latents per row for importance weighting; up to 100 of them for what is asked about columns.
    training : Training, optional
    """
    training = training or Training()
    n_rows = max(_MIN_ROWS, min(_MAX_ROWS, _MAX_OUTPUTS // model.likelihood.n_params))
    rows = _some(rows, n_rows, noise.stream("diagnosed rows"))

    def normal(name: str, *shape: int) -> Tensor:
        return noise.normal(name, *shape).to(rows.values.dtype)

    prior_eps = normal("prior draws", _PRIOR_DRAWS, prior.n_noise)
    unit = units(model, prior, rows, normal("units", _UNIT_DRAWS, model.latent_dim), prior_eps)
    active = int((unit.variance > _ACTIVE_VARIANCE).sum())
    diagnosis = Diagnosis(
        n_rows=len(rows),
        latent_dim=model.latent_dim,
        active_units=active,
        collapsed=active == 0,
        overfitting_gap=_number(training.overfitting_gap),
    )
    noise_of_gap = 0.0
    if unit.kl is not None:
        used = int((unit.kl >= _USED_KL).sum())
        bound, log_p, reconstruction, effective = _importance_sampled(
            model, prior, rows, n_draws, noise.stream("draws")
        )
        marginal = marginal_log_prob(model, prior, rows, prior_eps)
        few = _some(rows, _aggregate_rows(model), noise.stream("aggregated rows"))
        aggregate = aggregate_posterior(model, prior, few, normal("aggregate", len(few), model.latent_dim))
        own_eps = normal("conditional draws", min(n_draws, _MAX_OWN_DRAWS), len(rows), model.latent_dim)
        conditional = conditional_fit(
            model, prior, rows, own_eps, cell_halves(columns).to(rows.values), noise.stream("halves")
        )
        prior_gap = _number(aggregate.gap)
        if training.n_validation and len(rows) > 1:
            noise_of_gap = bound.std().item() / math.sqrt(training.n_validation)
        diagnosis = replace(
            diagnosis,
            used_units=used,
            collapsed=used == 0,
            kl=_number(unit.kl.sum()) if unit.exact else _mean(reconstruction.sum(1) - bound),
            kl_per_unit=[max(0.0, value) for value in unit.kl.tolist()],
            kl_per_unit_exact=unit.exact,
            elbo=_mean(bound),
            log_p=_mean(log_p),
            effective_draws=_number(effective.median()),
            inference_gap=_mean(log_p - bound),
            prior_gap=prior_gap,
            prior_gap_at_least=None if prior_gap is None else min(prior_gap, aggregate.at_least),
            information=_number(aggregate.information),
            gain=_mean(log_p - _where_observed(marginal, rows).sum(1)),
            columns=_of_columns(columns, rows, reconstruction, marginal, conditional),
        )
    return replace(diagnosis, advice=advise(diagnosis, model, columns, noise_of_gap))


def _importance_sampled(
    model: LatentVariableModel, prior: Prior, rows: Batch, n_draws: int, stream: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the same draws: ELBO [n], log p(x) [n], E_q[log p(x_c|z)] [n, C], effective draws [n]."""
    answers = []
    for piece in rows.chunks(rows_at_once(model, n_draws, prior)):
        eps = torch.randn((n_draws, len(piece), model.latent_dim), generator=stream, device=stream.device)
        terms = model(piece, eps.to(rows.values.dtype), prior=prior)
        log_w = terms.log_p.total() - terms.log_q.total()  # [K, B]
        log_p = log_w.logsumexp(0) - math.log(n_draws)
        effective = 1 / log_w.softmax(0).square().sum(0)
        # Jensen's inequality holds for any draws; rounding may miss it.
        answers.append((torch.minimum(log_w.mean(0), log_p), log_p, terms.log_p_columns.mean(0), effective))
    bound, log_p, reconstruction, effective = (torch.cat(parts) for parts in zip(*answers, strict=True))
    return bound, log_p, reconstruction, effective


def _of_columns(
    columns: Sequence[Column], rows: Batch, reconstruction: Tensor, marginal: Tensor, conditional: Conditional
) -> list[ColumnDiagnosis]:
    fit = uniformity(conditional.pit, rows.observed)

    def mean(values: Tensor) -> Tensor:
        return _where_observed(values, rows).double().sum(0) / fit.n

    explained, predicted = mean(reconstruction - marginal), mean(conditional.log_p - marginal)
    is_discrete = torch.tensor([column.is_discrete for column in columns], device=explained.device)
    share = torch.where(is_discrete, explained / -mean(marginal), -torch.expm1(-2 * explained)).clamp(min=0.0)
    critical = critical_distance(fit.n, _LEVEL / len(columns))
    # To the host in one go.
    table = torch.stack([explained, share, predicted, fit.distance, critical, fit.coverage], dim=1).tolist()
    names = ("explained", "share", "predicted", "distance", "critical_distance", "coverage")
    return [
        ColumnDiagnosis(
            column.name,
            n,
            **dict(zip(names, map(_number, values), strict=True)),
            calibrated=values[3] <= max(values[4], _NOTICED) if math.isfinite(values[3]) else None,
        )
        for column, n, values in zip(columns, fit.n.tolist(), table, strict=True)
    ]


def _aggregate_rows(model: LatentVariableModel) -> int:
    """How many rows are compared with each other."""
    return _AGGREGATE_ROWS if model.posterior.is_normal else _FLOW_ROWS


def _some(rows: Batch, n_rows: int, stream: torch.Generator) -> Batch:
    """At most `n_rows` of the rows, at random."""
    if len(rows) <= n_rows:
        return rows
    return rows.rows(torch.randperm(len(rows), generator=stream, device=stream.device)[:n_rows].sort().values)


def _where_observed(values: Tensor, rows: Batch) -> Tensor:
    return values if rows.observed is None else torch.where(rows.observed, values, 0.0)


def _mean(values: Tensor) -> float | None:
    return _number(values.double().mean())


def _number(value: Tensor | float | None) -> float | None:
    """A finite number, or None."""
    return None if value is None or not math.isfinite(value) else float(value)
