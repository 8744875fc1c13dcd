"""Every part with every other, found by their aliases: fitted, saved and loaded on a mixed table with holes.

A new part is covered by being there. Parts that contradict each other must say so by name.
"""

import numpy as np
import pandas as pd
import pytest

import skvae
from skvae import VAE, Schema
from skvae.data.columns import MODELLED
from skvae.data.table import read_table
from skvae.model import (
    DIPVAE,
    ELBO,
    IWAE,
    MLP,
    MMD,
    RAE,
    BetaTCVAE,
    FactorVAE,
    LatentVariableModel,
    Likelihood,
    Objective,
    Posterior,
    Prior,
    Table,
)
from skvae.model.component import choices, resolve
from skvae.training import Noise, Plan, engine, fit
from skvae.training.randomness import seeded_torch

N = 60


def table():
    rng = np.random.default_rng(0)
    cause = rng.normal(size=N)
    frame = pd.DataFrame(
        {
            "length": np.exp(cause + 0.3 * rng.normal(size=N)),
            "share": 1 / (1 + np.exp(-cause - rng.normal(size=N))),
            "visits": rng.poisson(np.exp(0.5 * cause + 1)).astype(float),
            "yes": (cause + rng.normal(size=N) > 0).astype(object),
            "colour": rng.choice(["red", "green", "blue"], N).astype(object),
            "size": pd.Categorical(rng.choice(["S", "M", "L"], N), categories=["S", "M", "L"], ordered=True),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, N), "D"),
        }
    )
    for column in frame.columns:
        frame.loc[rng.choice(N, 5, replace=False), column] = None
    return frame


X = table()
SCHEMA = Schema.infer(read_table(X))
COLUMNS = SCHEMA.modelled


def test_the_table_has_every_kind():
    assert {column.kind for column in COLUMNS} == MODELLED


def parts(base, *left_out):
    """The package's parts of a kind, by alias; other tests define some of their own."""
    return [
        alias
        for alias, cls in sorted(choices(base).items())
        if cls.__module__.startswith("skvae.") and alias not in left_out
    ]


PRIORS, POSTERIORS, OBJECTIVES = parts(Prior, "conditional"), parts(Posterior), parts(Objective)
# Of these, the pairs below contradict each other and no others; new parts may, if they say so.
KNOWN = {"normal", "mixture", "vamp", "flow", "diagonal", "full", "deterministic"} | {
    *("elbo", "iwae", "geco", "rae", "mmd", "dip-vae", "beta-tcvae", "factor-vae")
}
CONTRADICTIONS = {
    ("vamp", "deterministic"),
    ("vamp", "flow"),
    ("iwae", "deterministic"),
    ("beta-tcvae", "deterministic"),
    ("beta-tcvae", "flow"),
    ("rae", "diagonal"),
    ("rae", "full"),
    ("rae", "flow"),
}


def vae(**params):
    return VAE(latent_dim=2, hidden_sizes=(6,), max_epochs=2, batch_size=20, random_state=0, **params)


def check(model, path):
    """Fit, save and load: finite, and equal."""
    model.fit(X)
    assert all(np.isfinite(model.history_["train_loss"] + model.history_["validation_bound"]))
    model.save(path)
    again = skvae.load(path)
    latents = model.transform(X)
    assert np.isfinite(latents).all()
    np.testing.assert_array_equal(again.transform(X), latents)
    assert repr(again) == repr(model)
    if model.model_.posterior.has_density:
        scores = model.score_samples(X, n_draws=10)
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(again.score_samples(X, n_draws=10), scores)
    pd.testing.assert_frame_equal(again.sample(4, random_state=0), model.sample(4, random_state=0))
    assert not model.impute(X, n_draws=10).isna().any(axis=None)


def check_or_contradict(tmp_path, base, alias, posterior):
    refusal = ""
    try:
        check(vae(posterior=posterior, **{base.__name__.lower(): alias}), tmp_path / "model")
    except ValueError as error:
        refusal = str(error)
    if not refusal:
        assert (alias, posterior) not in CONTRADICTIONS
        return
    for kind, name in ((base, alias), (Posterior, posterior)):
        assert f"'{name}'" in refusal or choices(kind)[name].__name__ in refusal, refusal
    assert (alias, posterior) in CONTRADICTIONS or not {alias, posterior} <= KNOWN, refusal


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", PRIORS)
def test_prior_and_posterior(prior, posterior, tmp_path):
    check_or_contradict(tmp_path, Prior, prior, posterior)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_and_posterior(objective, posterior, tmp_path):
    check_or_contradict(tmp_path, Objective, objective, posterior)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if choices(Objective)[name]().n_prior_draws])
@pytest.mark.parametrize("prior", PRIORS)
def test_prior_and_objective_that_draws_from_it(prior, objective):
    model = vae(prior=prior, objective=objective).fit(X)
    assert all(np.isfinite(model.history_["train_loss"]))


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_prior_that_needs_a_context(posterior):
    with pytest.raises(ValueError, match=r"prior='conditional' depends on a context, and this model has none"):
        vae(prior="conditional", posterior=posterior).fit(X)


def refusal_of(likelihood, column):
    try:
        resolve(Likelihood, likelihood, "likelihood").check([column])
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("objective", "posterior"), [("elbo", "diagonal"), ("iwae", "full"), ("rae", "deterministic")]
)
@pytest.mark.parametrize("likelihood", parts(Likelihood, "table"))
def test_likelihood_and_objective(likelihood, objective, posterior, tmp_path):
    """On all columns that it can score; the others are as they are by default."""
    refusals = {column.name: refusal_of(likelihood, column) for column in COLUMNS}
    for column, refusal in refusals.items():
        assert not refusal or (f"'{column}'" in refusal and choices(Likelihood)[likelihood].__name__ in refusal)
    scored = {column: likelihood for column, refusal in refusals.items() if not refusal}
    assert scored
    check(vae(likelihood=scored, objective=objective, posterior=posterior), tmp_path / "model")


@pytest.mark.parametrize(
    "objective",
    [
        *parts(Objective),
        IWAE(gradient="dreg"),
        BetaTCVAE(estimator="minibatch-stratified"),
        RAE(regularisation="gradient-penalty"),
        ELBO(warm_up=0.5) + FactorVAE() + FactorVAE(gamma=1.0) + MMD() + DIPVAE(),
    ],
    ids=str,
)
def test_recorded_steps_are_those_of_the_objective(objective, monkeypatch):
    """Whatever an objective does in a step, the loop's recording of it does too."""
    posterior = "deterministic" if "rae" in str(objective).lower() else "diagonal"
    numbers = X[["length", "share"]]
    schema = Schema.infer(read_table(numbers))
    rows = schema.encode(read_table(numbers), "error")

    def train():
        with seeded_torch(0):
            model = LatentVariableModel(
                schema.modelled,
                latent_dim=2,
                encoder=MLP((6,)),
                decoder=MLP((6,)),
                posterior=resolve(Posterior, posterior, "posterior"),
                prior=resolve(Prior, "normal", "prior"),
                likelihood=Table("gaussian"),
                masks=True,
            )
        plan = Plan(max_epochs=3, batch_size=20, learning_rate=0.01, masking=0.5, compile=False)
        return fit(model, resolve(Objective, objective, "objective"), rows, None, plan, Noise(0))[0]

    recorded = train()
    monkeypatch.setattr(engine, "only_known_modules", lambda *_: False)
    eager = train()
    assert (recorded.info["steps"], eager.info["steps"]) == ("recorded", "eager")
    for one, other in zip(recorded, eager, strict=True):
        for name in one.keys() - {"seconds"}:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name
