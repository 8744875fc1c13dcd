"""Training together with a density of the latents: the bound that is maximised, and the estimator that does it."""

import numpy as np
import pytest
import torch
from test_latent_density import bound, clustered, table

import skvae
from skvae.inference import joint_density
from skvae.inference.joint_density import Opening, train_with_density
from skvae.inference.latent_density import fit_latent_density
from skvae.model import ELBO, AutoregressivePrior, GaussianMixture, StandardNormal
from skvae.training import Noise, Plan

SMALL = {"latent_dim": 2, "hidden_sizes": (32,), "max_epochs": 20, "batch_size": 32, "random_state": 0}


@pytest.fixture
def soon(monkeypatch):
    """Few rows and steps are enough."""
    monkeypatch.setattr(joint_density, "MIN_ROWS", 300)
    monkeypatch.setattr(joint_density, "MIN_STEPS", 100)


@pytest.mark.parametrize("density", [GaussianMixture(3, "full"), AutoregressivePrior(4, 16, 1)], ids=repr)
def test_the_bound_under_the_density_rises(linear_gaussian, density):
    """Beyond what a density fitted afterwards gives, and as the history says; the prior stays what it was."""
    exact = linear_gaussian(2)
    model, rows, held_out = exact.model.float(), clustered(exact, 1500, 0), clustered(exact, 1500, 1)
    with torch.no_grad():
        model.posterior.linear.bias += 0.5  # the posterior is not what it should be
    fitted = fit_latent_density(model, rows, held_out, density, "fast", Noise(0)).prior
    before, prior = bound(model, held_out, fitted), model.prior
    history = train_with_density(model, fitted, ELBO(), rows, held_out, Plan(15, 128, 5e-3), Noise(0))
    after = bound(model, held_out, fitted)
    assert after > before + 0.05
    assert max(record["validation_bound"] for record in history.epochs) == pytest.approx(after, abs=0.1)
    assert model.prior is prior
    assert not any(p.requires_grad for p in fitted.parameters())


def test_the_opening_is_judged_by_its_own_loss():
    """The unweighted bound would call the first epoch the best, in which no latent is used yet."""
    early, late = {"loss": 20.0, "bound": -25.0}, {"loss": 14.0, "bound": -36.0}
    assert Opening(0.1).judge(late) > Opening(0.1).judge(early)
    assert ELBO(0.1).judge(late) < ELBO(0.1).judge(early)


def test_an_estimator_that_is_trained_so(soon, tmp_path):
    rows, others = table(800), table(300, 1)
    vae = skvae.VAE(**SMALL).fit(rows)
    found = vae.history_.info["latent_density"]
    assert found["joint"] is True
    assert isinstance(vae.prior_, AutoregressivePrior)
    assert isinstance(vae.model_.prior, StandardNormal)
    assert [record["epoch"] for record in vae.history_.epochs] == list(range(1, 17))  # a half and 28 % of 20
    assert np.diff([record["step"] for record in vae.history_.epochs]).min() > 0
    # The bound is that of the model whose prior is the density.
    eps = vae._matched_noise(100).unsqueeze(1)
    with torch.no_grad():
        terms = vae.model_(vae._rows(others), eps, prior=vae.prior_)
        expected = (terms.log_p.total() - terms.log_q.total()).mean(0)
    np.testing.assert_allclose(vae.elbo(others), expected, rtol=1e-4)
    assert vae.score(others) > vae.elbo(others).mean()
    vae.save(tmp_path / "vae")
    loaded = skvae.load(tmp_path / "vae")
    for question in (
        lambda v: v.elbo(others),
        lambda v: v.score_samples(others),
        lambda v: v.sample(9, random_state=0),
    ):
        np.testing.assert_array_equal(question(loaded), question(vae))
    again = skvae.VAE(**SMALL).fit(rows)
    np.testing.assert_array_equal(again.sample(9, random_state=0), vae.sample(9, random_state=0))


def test_it_is_better_than_a_density_fitted_afterwards(soon):
    rows, others = table(1500), table(1500, 1)
    params = {**SMALL, "max_epochs": 60, "likelihood": skvae.Gaussian("row")}
    jointly = skvae.VAE(**params).fit(rows).score(others)
    afterwards = skvae.VAE(**params, latent_density="mixture").fit(rows).score(others)
    assert jointly > afterwards


@pytest.mark.parametrize(
    "asked",
    [
        {"prior": skvae.GaussianMixture(3)},
        {"objective": ELBO()},
        {"objective": "iwae"},
        {"latent_density": None},
        {"latent_density": "mixture"},
        {"quality": "fast"},
        {"hidden_sizes": ()},
        {"posterior": "deterministic", "objective": "rae"},
    ],
    ids=str,
)
def test_what_is_asked_for_is_trained_as_asked(soon, asked):
    vae = skvae.VAE(**{**SMALL, "max_epochs": 8, **asked}).fit(table(600))
    assert "joint" not in vae.history_.info.get("latent_density", {})
    assert len(vae.history_.epochs) == 8


def test_few_rows_are_not():
    vae = skvae.VAE(**{**SMALL, "max_epochs": 8}).fit(table(600))
    assert "joint" not in vae.history_.info["latent_density"]


def test_a_callback_stops_it_and_more_training_goes_on(soon):
    seen = []
    vae = skvae.VAE(**SMALL, callbacks=[lambda history, model: seen.append(1) or len(seen) == 3]).fit(table(600))
    assert len(vae.history_.epochs) == 3
    assert "joint" not in vae.history_.info["latent_density"]
    vae.set_params(callbacks=None, warm_start=True).fit(table(600))
    assert vae.history_.info["latent_density"]["joint"]
    assert len(vae.history_.epochs) == 3 + 16
    vae.partial_fit(table(600))
    assert vae.prior_ is vae.model_.prior
    assert np.isfinite(vae.elbo(table(50, 1))).all()


def test_weights_holes_and_no_early_stopping(soon):
    rows = table(600)
    rows[::7, 1] = np.nan
    weights = np.where(rows[:, 0] > 2, 1.0, 0.0)
    vae = skvae.VAE(**SMALL, early_stopping=False).fit(rows, sample_weight=weights)
    assert vae.history_.info["latent_density"]["joint"]
    assert (vae.sample(500, random_state=0)[:, 0] > 1).mean() > 0.95
