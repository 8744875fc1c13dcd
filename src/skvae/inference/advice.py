"""What to change in a model, from what was found out about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skvae.data.columns import Column, Kind
from skvae.inference.report import Diagnosis
from skvae.model.component import Component, choices
from skvae.model.likelihoods import Likelihood, Table
from skvae.model.objectives import Objective
from skvae.model.posteriors import Posterior
from skvae.model.priors import Prior
from skvae.model.vae import LatentVariableModel

# Gaps below this many nats, or this share of the KL, are not worth a change.
_SMALL_GAP, _SMALL_SHARE = 0.5, 0.1
# A latent that carries so many nats leaves room for another.
_FULL_UNIT = 0.5
# Share of what the model gains over independent columns that may be due to overfitting.
_OVERFITTED_SHARE = 0.25
# Of several likelihoods for a column, those to try first; and how many of them are named.
_FIRST = ("spikes", "student-t", "quantile-normal", "mixture-of-gaussians", "negative-binomial")
_NAMED = 3
# Of more columns than this, the kind is named instead of the column.
_FEW_COLUMNS = 3


def advise(
    diagnosis: Diagnosis, model: LatentVariableModel, columns: Sequence[Column], noise_of_gap: float
) -> list[str]:
    """What to change, each line with the parameter to change it by.

    Parameters
    ----------
    noise_of_gap : float
        Standard error of the overfitting gap, nats.
    """
    answers = (
        _on_units(diagnosis, model),
        _on_overfitting(diagnosis, noise_of_gap),
        _on_inference(diagnosis, model),
        _on_prior(diagnosis, model),
        _on_columns(diagnosis, model, columns),
    )
    return [answer for answer in answers if answer]


def _on_units(diagnosis: Diagnosis, model: LatentVariableModel) -> str:
    used, latent_dim = diagnosis.used_units, diagnosis.latent_dim
    if diagnosis.collapsed:
        bits = " or objective=ELBO(free_bits=0.1)" if diagnosis.kl_per_unit_exact else ""
        return (
            f"no latent is used (posterior collapse): set objective=ELBO(warm_up=0.5){bits}, unless the columns have "
            "nothing to do with each other"
        )
    if used is None:
        return ""
    if used < latent_dim:
        which = "1 latent is used" if used == 1 else f"{used} latents are used"
        return f"only {which}: latent_dim={used} would do"
    if latent_dim < model.n_columns and min(diagnosis.kl_per_unit or [0.0]) > _FULL_UNIT:
        return f"every latent carries much: a latent_dim above {latent_dim} may explain more"
    return ""


def _on_overfitting(diagnosis: Diagnosis, noise_of_gap: float) -> str:
    gap, gain = diagnosis.overfitting_gap, diagnosis.gain
    if gap is None or gap < max(2 * noise_of_gap, _SMALL_GAP, _OVERFITTED_SHARE * (gain or 0.0)):
        return ""
    return (
        f"training rows are explained better than validation rows, by {gap:.1f} nats: lower hidden_sizes or "
        "max_epochs, or give more rows"
    )


def _on_inference(diagnosis: Diagnosis, model: LatentVariableModel) -> str:
    if not _is_large(diagnosis.inference_gap, diagnosis):
        return ""
    wider = ["flow"] if model.latent_dim == 1 else ["full", "flow"]
    remedies = [
        *_named(Posterior, wider, model.posterior, "posterior"),
        *_named(Objective, ["iwae"], None, "objective"),
    ]
    return f"the approximate posterior costs {diagnosis.inference_gap:.1f} nats: try {_or(remedies)}"


def _on_prior(diagnosis: Diagnosis, model: LatentVariableModel) -> str:
    if not _is_large(diagnosis.prior_gap_at_least, diagnosis):
        return ""
    remedies = _named(Prior, ["vamp", "mixture", "flow"], model.prior, "prior")
    return (
        f"draws from the prior are not where the rows are, by {diagnosis.prior_gap_at_least:.1f} nats or more: try "
        f"{_or(remedies)}"
    )


def _on_columns(diagnosis: Diagnosis, model: LatentVariableModel, columns: Sequence[Column]) -> str:
    wrong = [j for j, found in enumerate(diagnosis.columns) if found.calibrated is False]
    if not wrong:
        return ""
    worst = max(wrong, key=lambda j: diagnosis.columns[j].distance or 0.0)
    found, column = diagnosis.columns[worst], columns[worst]
    more = f" and {len(wrong) - 1} more are" if len(wrong) > 1 else " is"
    same = sum(columns[j].kind == column.kind for j in wrong)
    key = column.kind if same > _FEW_COLUMNS else column.name
    remedies = [f"likelihood={{'{key}': '{alias}'}}" for alias in _likelihoods(model, worst, column)]
    if not model.embedding.masks:  # answers for any columns have to be learned
        remedies.append("masking=0.5")
    if not remedies:
        remedies = ["larger hidden_sizes", "max_epochs"]
    return (
        f"column '{found.name}'{more} miscalibrated (90 % intervals hold {found.coverage:.0%}): try {_or(remedies)}"
    )


def _is_large(gap: float | None, diagnosis: Diagnosis) -> bool:
    return gap is not None and gap > max(_SMALL_GAP, _SMALL_SHARE * (diagnosis.kl or 0.0))


def _named(base: type[Component], aliases: Iterable[str], current: Component | None, name: str) -> list[str]:
    """The parameter with those aliases that exist and are not in use."""
    known = choices(base)
    return [f"{name}='{alias}'" for alias in aliases if alias in known and not isinstance(current, known[alias])]


def _likelihoods(model: LatentVariableModel, position: int, column: Column) -> list[str]:
    """Aliases of some likelihoods for the column at `position`, other than the one that it has."""
    if column.kind in (Kind.BINARY, Kind.CATEGORICAL):  # any distribution of levels is already possible
        return []
    current = _likelihood_of(model, position)
    able = []
    for alias, cls in choices(Likelihood).items():
        if isinstance(current, cls) or not cls.__module__.startswith("skvae."):
            continue
        if cls is Table or (alias == "spikes" and not column.spikes):
            continue
        try:
            cls().check([column])
        except ValueError:
            continue
        able.append(alias)
    able.sort(key=lambda alias: ((*_FIRST, alias).index(alias), alias))
    automatic = [] if model.likelihood.undecided([column]) else ["auto"]
    return (automatic + able)[:_NAMED]


def _likelihood_of(model: LatentVariableModel, position: int) -> Likelihood | None:
    """The likelihood that scores the column at `position`."""
    for k, part in enumerate(model.likelihood.parts):
        if position in model.likelihood.get_buffer(f"positions_{k}").tolist():
            return part  # type: ignore[return-value]
    return None


def _or(remedies: Sequence[str]) -> str:
    return " or ".join([", ".join(remedies[:-1]), remedies[-1]] if len(remedies) > 1 else remedies)
