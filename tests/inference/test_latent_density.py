"""Densities of the latents, against scikit-learn's own scores and the bound that they are to raise."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

import skvae
from skvae.data.batch import Batch
from skvae.inference.latent_density import Latents, _candidates, _maximise_expectation, fit_latent_density
from skvae.model import AutoregressivePrior, FlowMatchingPrior, FlowPrior, Gaussian, GaussianMixture, StandardNormal
from skvae.training.randomness import Noise, seeded_torch

CENTRES = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [0.0, -2.0]])


def needs_zuko():
    if find_spec("zuko") is None:  # the package imports it, and leaves torch as it was
        pytest.skip("zuko is not installed")


def clustered(exact, n, seed):
    """Rows of the linear model whose latents lie in three places."""
    stream = torch.Generator().manual_seed(seed)
    z = CENTRES[torch.randint(3, (n,), generator=stream)] + 0.3 * torch.randn(n, 2, generator=stream)
    return Batch(z @ exact.weight.float().T + exact.bias.float() + 0.6 * torch.randn(n, 4, generator=stream))


def bound(model, rows, prior):
    """Mean evidence lower bound under a prior, by Monte Carlo."""
    eps = torch.randn(200, 1, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        terms = model(rows, eps, prior=prior)
        return (terms.log_p.total() - terms.log_q.total()).mean().item()


@pytest.mark.parametrize("posterior", ["diagonal", "full", "flow", "deterministic"])
def test_latents_are_those_of_the_posteriors_of_rows(posterior):
    """Every row as often, or by its weight; fresh draws where the posterior is normal."""
    if posterior == "flow":
        needs_zuko()
    rows = table(60)
    weight = np.repeat([0.0, 1.0, 3.0], 20)
    vae = skvae.VAE(
        latent_dim=2, hidden_sizes=(8,), max_epochs=3, posterior=posterior, latent_density=None, random_state=0,
        objective="rae" if posterior == "deterministic" else "elbo",
    ).fit(rows)  # fmt: skip
    batch = vae._rows(rows)
    draws = vae.posterior(rows, n_draws=2_000)  # [S, n, D]

    def gap(found, expected):
        spread = torch.as_tensor(expected.std((0, 1)))
        means = (found.mean(0) - torch.as_tensor(expected.mean((0, 1)))) / spread
        return max(means.abs().max().item(), (found.std(0) / spread - 1).abs().max().item())

    latents = Latents(vae.model_, batch, 1_000, torch.Generator().manual_seed(0))
    assert latents.of_each(3).shape == ((180, 2) if posterior != "deterministic" else (60, 2))
    assert gap(latents.random(20_000), draws) < 0.1
    most = {"deterministic": 60, "flow": 300}.get(posterior, 5_000)
    assert 0.9 * most < len(latents.random(5_000).unique(dim=0)) <= most
    weighted = Batch(batch.values, weight=torch.tensor(weight, dtype=torch.float32))
    few = Latents(vae.model_, weighted, 1_000, torch.Generator().manual_seed(0))
    by_weight = np.concatenate([draws[:, 20:40]] + 3 * [draws[:, 40:]], axis=1)
    assert gap(few.random(20_000), by_weight) < 0.35  # of 60 rows drawn by weight


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_a_mixture_scores_as_that_of_scikit_learn(covariance, scale):
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3)) + 3 * k for k in range(3)])
    prior = GaussianMixture(3, covariance).bind(3)
    _maximise_expectation(prior, torch.tensor(scale * z, dtype=torch.float32), seed=0)
    unit, centre = z.std(0), z.mean(0)
    reference = Reference(
        3,
        covariance_type="diag" if covariance == "diagonal" else "full",
        init_params="k-means++",
        random_state=0,
        max_iter=60,
        reg_covar=1e-4,
    ).fit((z - centre) / unit)
    expected = reference.score_samples((z - centre) / unit) - np.log(scale * unit).sum()
    with torch.no_grad():
        found = prior.log_prob(torch.tensor(scale * z, dtype=torch.float32).unsqueeze(0))[0]
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_the_gain_is_that_of_the_bound(linear_gaussian):
    exact = linear_gaussian(2)
    model = exact.model.float()
    train, held_out = clustered(exact, 4000, 0), clustered(exact, 2000, 1)
    found = fit_latent_density(model, train, held_out, "auto", "default", Noise(0))
    assert isinstance(found.prior, GaussianMixture)
    raised = bound(model, held_out, found.prior) - bound(model, held_out, model.prior)
    assert found.gain == pytest.approx(raised, abs=0.05)
    assert found.gain > 0.3
    assert found.tried[repr(found.prior)] - found.tried["StandardNormal()"] == pytest.approx(found.gain)


def test_the_prior_is_kept_where_it_is_right(linear_gaussian):
    exact = linear_gaussian(2, orthogonal=True)
    rows, held_out = Batch(exact.rows(4000).values.float()), Batch(exact.rows(2000, seed=1).values.float())
    model = exact.model.float()
    found = fit_latent_density(model, rows, held_out, "auto", "default", Noise(0))
    assert found.prior is model.prior
    assert found.gain == 0
    assert len(found.tried) > 1


def test_draws_are_those_of_the_posterior_and_not_its_means(linear_gaussian):
    """The means of rows from the model are narrower than its prior."""
    exact = linear_gaussian(2)
    rows = Batch(exact.rows(20_000).values.float())
    wanted = GaussianMixture(1, "full")
    found = fit_latent_density(exact.model.float(), rows, None, wanted, "default", Noise(0)).prior
    covariance = found.components().scale_tril[0] @ found.components().scale_tril[0].T
    torch.testing.assert_close(covariance, torch.eye(2), rtol=0, atol=0.12)
    assert exact.model.encode(rows).mean.T.cov().diagonal().min() < 0.85


def test_weights_of_rows_count(linear_gaussian):
    exact = linear_gaussian(2)
    model = exact.model.float()
    one, two = clustered(exact, 1500, 0), clustered(exact, 1500, 1)
    shifted = Batch(two.values + 2.0)
    both = Batch(torch.cat([one.values, shifted.values]), weight=torch.tensor([2.0, 0.0]).repeat_interleave(1500))
    wanted = GaussianMixture(1, "full")
    found = fit_latent_density(model, both, one, wanted, "default", Noise(0)).prior.means
    torch.testing.assert_close(
        found, fit_latent_density(model, one, one, wanted, "default", Noise(0)).prior.means, rtol=0, atol=0.2
    )


def test_few_rows_keep_the_prior(linear_gaussian):
    exact = linear_gaussian(2)
    assert (
        fit_latent_density(exact.model.float(), clustered(exact, 200, 0), None, "auto", "default", Noise(0)) is None
    )


def test_the_same_seed_gives_the_same_density_and_leaves_the_global_streams_alone(linear_gaussian):
    exact = linear_gaussian(2)
    rows = clustered(exact, 1000, 0)

    def fitted():
        return fit_latent_density(exact.model.float(), rows, None, "mixture", "default", Noise(3)).prior

    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = fitted(), fitted()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])


def test_a_flow_takes_the_shape_of_the_latents(linear_gaussian):
    needs_zuko()
    exact = linear_gaussian(2)
    model, rows = exact.model.float(), clustered(exact, 2000, 0)
    wanted = FlowPrior(1, (16,), transform="spline")
    found = fit_latent_density(model, rows, clustered(exact, 1000, 1), wanted, "fast", Noise(0))
    assert isinstance(found.prior, FlowPrior)
    assert found.gain > 0.2
    assert not any(p.requires_grad for p in found.prior.parameters())


def test_an_autoregressive_density_takes_the_shape_of_the_latents(linear_gaussian):
    """As well as the mixture of three that they are; with more rows it is tried by itself."""
    exact = linear_gaussian(2)
    model, rows, held_out = exact.model.float(), clustered(exact, 2500, 0), clustered(exact, 1000, 1)
    wanted = AutoregressivePrior(6, hidden_size=32, n_blocks=1)
    found = fit_latent_density(model, rows, held_out, wanted, "fast", Noise(0))
    right = fit_latent_density(model, rows, held_out, GaussianMixture(3, "full"), "fast", Noise(0))
    assert isinstance(found.prior, AutoregressivePrior)
    assert found.gain == pytest.approx(right.gain, abs=0.06)
    assert found.gain > 0.3


def test_flow_matching_takes_the_shape_of_the_latents(linear_gaussian):
    """Nearly as well as the mixture of three that they are."""
    exact = linear_gaussian(2)
    model, rows, held_out = exact.model.float(), clustered(exact, 2500, 0), clustered(exact, 1000, 1)
    found = fit_latent_density(model, rows, held_out, FlowMatchingPrior(32, 1, n_steps=8), "fast", Noise(0))
    right = fit_latent_density(model, rows, held_out, GaussianMixture(3, "full"), "fast", Noise(0))
    assert isinstance(found.prior, FlowMatchingPrior)
    assert right.gain > 0.3
    assert found.gain == pytest.approx(right.gain, abs=0.1)


def test_from_what_on_which_densities_are_tried():
    def names(*arguments):
        return [type(part).__name__ for ladder in _candidates(*arguments, latent_dim=4) for part in ladder]

    assert "AutoregressivePrior" not in names("auto", "high", 1_999, 10_000)
    assert "AutoregressivePrior" in names("auto", "high", 2_000, 10_000)
    assert set(names("auto", "default", 50_000, 10_000)) == {"GaussianMixture"}
    assert set(names("mixture", "high", 50_000, 50_000)) == {"GaussianMixture"}
    assert names("autoregressive", "fast", 100, 100) == ["AutoregressivePrior"]
    assert names("flow-matching", "fast", 100, 100) == ["FlowMatchingPrior"]
    few = [part for ladder in _candidates("mixture", "high", 500, 500, 4) for part in ladder]
    assert max(part.n_components for part in few) == 10


def test_more_components_are_tried_as_long_as_they_are_better(linear_gaussian):
    """Of three clusters, ten components are better than one, and twenty no better than ten."""
    exact = linear_gaussian(2)
    model, rows, held_out = exact.model.float(), clustered(exact, 2500, 0), clustered(exact, 1000, 1)
    found = fit_latent_density(model, rows, held_out, "mixture", "default", Noise(0))
    full = [repr(GaussianMixture(k, "full")) for k in (1, 10, 20, 40)]
    assert [name for name in found.tried if "full" in name] == full[:3]
    assert found.tried[full[1]] > found.tried[full[0]] + 0.1
    assert found.tried[full[2]] < found.tried[full[1]] + 0.01


# Through the estimator.


def table(n=700, seed=0):
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=n)
    return np.stack([rng.normal(4.0 * group, 0.4), rng.normal(-3.0 * (group == 1), 0.5), rng.normal(size=n)], 1)


def fit(**params):
    plain = {"latent_dim": 2, "hidden_sizes": (64,), "max_epochs": 60, "learning_rate": 5e-3, "random_state": 0}
    return skvae.VAE(**{**plain, "likelihood": Gaussian("row"), **params}).fit(table())


def test_sample_and_score_use_it_and_elbo_does_not():
    with_density = fit(latent_density=GaussianMixture(3, covariance="full"))
    without = fit(latent_density=None)
    assert isinstance(with_density.prior_, GaussianMixture)
    assert isinstance(without.prior_, StandardNormal)
    assert with_density.prior_ is not with_density.model_.prior
    assert with_density.history_.info["latent_density"]["gain"] > 0
    assert "latent_density" not in without.history_.info
    rows = table(100, 1)
    np.testing.assert_array_equal(with_density.elbo(rows), without.elbo(rows))
    assert with_density.score(rows) > without.score(rows)
    assert not np.array_equal(with_density.sample(5, random_state=0), without.sample(5, random_state=0))
    assert "latent density" in with_density.model_.architecture()


@pytest.mark.parametrize(
    "choice", ["mixture", GaussianMixture(2, covariance="full"), AutoregressivePrior(2, 8), "auto"], ids=str
)
def test_a_loaded_model_answers_bit_for_bit(tmp_path, choice):
    vae = fit(latent_density=choice)
    vae.save(tmp_path / "vae")
    loaded = skvae.load(tmp_path / "vae")
    assert repr(loaded.prior_) == repr(vae.prior_)
    np.testing.assert_array_equal(loaded.sample(20, random_state=1), vae.sample(20, random_state=1))
    np.testing.assert_array_equal(loaded.score_samples(table(20, 1)), vae.score_samples(table(20, 1)))


def test_linear_models_keep_the_prior_unless_told_otherwise():
    assert isinstance(fit(hidden_sizes=()).prior_, StandardNormal)
    assert isinstance(fit(hidden_sizes=(), latent_density="mixture").prior_, GaussianMixture)


def test_a_deterministic_autoencoder_generates():
    """Its latents lie anywhere; what is decoded from where they lie is like the rows."""
    vae = fit(posterior="deterministic", objective=skvae.RAE(beta=1e-3))
    assert isinstance(vae.prior_, GaussianMixture)
    rows, new = table(4000, 1), vae.sample(4000, random_state=0)
    # Two thirds of the first column lie at 0 and 8, a third in between; the second is low there.
    between = np.abs(new[:, 0] - 4) < 2
    assert between.mean() == pytest.approx((np.abs(rows[:, 0] - 4) < 2).mean(), abs=0.08)
    assert new[between, 1].mean() == pytest.approx(-3, abs=0.4)
    assert new[~between, 1].mean() == pytest.approx(0, abs=0.4)


def test_more_training_takes_it_away_and_fit_makes_another():
    vae = fit(latent_density="mixture")
    vae.partial_fit(table())
    assert vae.prior_ is vae.model_.prior
    vae.set_params(warm_start=True).fit(table())
    assert isinstance(vae.prior_, GaussianMixture)
    vae.set_params(latent_density=None).fit(table())
    assert vae.prior_ is vae.model_.prior
    assert "latent_density" not in vae.history_.info


def test_regression_draws_from_it_and_priors_of_the_target_stay():
    X = table()
    y = X[:, 0] + 0.1 * X[:, 2]
    params = {"hidden_sizes": (64,), "likelihood": Gaussian("row"), "latent_density": "mixture", "target_weight": 1.0}
    joint = skvae.VAERegressor(structure="joint", max_epochs=100, random_state=0, learning_rate=5e-3, **params)
    joint.fit(X, y)
    assert isinstance(joint.vae_.prior_, GaussianMixture)
    rows, _ = joint.sample(300, y=4.0, random_state=0)
    assert np.median(rows[:, 0]) == pytest.approx(4.0, abs=0.4)
    assert np.median(rows[:, 1]) == pytest.approx(-3.0, abs=0.5)
    given = skvae.VAERegressor(structure="prior", max_epochs=2, random_state=0, **params).fit(X, y)
    assert given.vae_.prior_ is given.vae_.model_.prior


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("gauss", "'auto', 'mixture', 'autoregressive', 'flow'"),
        (3, "a Prior object"),
        (StandardNormal(), "no parameters"),
        (GaussianMixture(0), "n_components"),
        (skvae.VampPrior(), "no parameters"),
        (skvae.ConditionalNormal(), "context"),
    ],
    ids=str,
)
def test_what_it_cannot_be(value, words):
    with pytest.raises(ValueError, match=words):
        skvae.VAE(latent_density=value).fit(table(60))


def test_parameters_of_the_part_can_be_set():
    vae = skvae.VAE(latent_density=GaussianMixture(2))
    assert vae.set_params(latent_density__n_components=5).latent_density.n_components == 5
    with pytest.raises(ValueError, match="latent_density"):
        skvae.VAE().set_params(latent_density__n_components=5)


def test_seeds_do_not_touch_the_part_that_was_given():
    part = GaussianMixture(2)
    with seeded_torch(0):
        fit(latent_density=part)
    assert not list(part.parameters())
