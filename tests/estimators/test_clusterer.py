"""VAEClusterer: clusters that are there, what it says of them, bad input, scikit-learn's checks."""

import copy
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import ELBO, ColumnError, VAEClusterer, load
from skvae.inference.clusters import describe_clusters

EXPECTED_TO_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a weighted row is drawn into as many minibatches as any other; only its gradient is larger"
    ),
}
QUICK = {"likelihood": "gaussian", "learning_rate": 1e-2, "masking": 0.0, "random_state": 0}


@parametrize_with_checks(
    [VAEClusterer(n_clusters=2, n_init=2, hidden_sizes=(16,), batch_size=16, max_epochs=40, **QUICK)],
    expected_failed_checks=lambda estimator: EXPECTED_TO_FAIL,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def small(**params):
    return VAEClusterer(n_clusters=4, latent_dim=2, max_epochs=40, quality="fast", random_state=0).set_params(
        **params
    )


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(n_samples=500, centers=4, cluster_std=0.4, random_state=0)


@pytest.fixture(scope="module")
def fitted(blobs):
    return small(max_epochs=80).fit(blobs[0])


def test_blobs(fitted, blobs):
    X, y = blobs
    assert adjusted_rand_score(y, fitted.labels_) > 0.95
    np.testing.assert_array_equal(fitted.labels_, fitted.predict(X))
    p = fitted.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(p.argmax(1), fitted.labels_)
    assert silhouette_score(fitted.transform(X), fitted.labels_) > 0.5
    assert fitted.n_clusters_ == 4
    centres = np.array([X[fitted.labels_ == k].mean(0) for k in range(4)])
    np.testing.assert_allclose(fitted.cluster_centers_, centres, atol=0.5)


def test_samples_of_a_cluster(fitted, blobs):
    drawn = fitted.sample(200, cluster=2, random_state=0)
    assert (fitted.predict(drawn) == 2).mean() >= 0.9
    np.testing.assert_array_equal(drawn, fitted.sample(200, cluster=2, random_state=0))
    assert set(fitted.predict(fitted.sample(200, random_state=0))) == {0, 1, 2, 3}
    for cluster in (4, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"cluster=.*from 0 to 3"):
            fitted.sample(1, cluster=cluster)


def test_saved_and_loaded(fitted, blobs, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(blobs[0]), fitted.predict_proba(blobs[0]))
    np.testing.assert_array_equal(loaded.labels_, fitted.labels_)
    np.testing.assert_array_equal(loaded.cluster_centers_, fitted.cluster_centers_)
    assert loaded.describe() == fitted.describe()
    assert loaded.get_params()["n_clusters"] == 4


def test_the_seed_decides(fitted, blobs):
    one, other = (small(max_epochs=2, n_init=1).fit(blobs[0]).predict_proba(blobs[0]) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert clone(fitted).get_params() == fitted.get_params()


@pytest.fixture
def with_an_empty_component(fitted, blobs):
    """The fitted clusterer, one of whose components has been moved to where no row is, and its rows."""
    model = copy.deepcopy(fitted)
    rows = model.vae_._rows(blobs[0])
    with torch.no_grad():
        model._clusters.means[0] = 100.0
        model._clusters.logits[0] = -20.0
    assert np.bincount(model._responsibilities(rows).argmax(1), minlength=4)[0] == 0
    return model, rows


def test_an_empty_component_is_revived(with_an_empty_component, blobs):
    model, rows = with_an_empty_component
    model._fill(rows, seed=0)
    labels = model._responsibilities(rows).argmax(1)
    assert np.bincount(labels, minlength=4).min() > 0
    assert adjusted_rand_score(blobs[1], labels) > 0.95
    np.testing.assert_allclose(model._clusters.log_weights().exp().detach(), 0.25, atol=0.05)


def test_k_means_leaves_no_component_empty(with_an_empty_component, blobs, monkeypatch):
    """Where the likelihood has no use for a component, however often it is revived."""
    model, rows = with_an_empty_component
    monkeypatch.setattr("skvae.estimators.clusterer._REVIVALS", 0)
    model._fill(rows, seed=0)
    labels = model._responsibilities(rows).argmax(1)
    expected = KMeans(4, n_init=20, random_state=0).fit_predict(model.transform(blobs[0]).astype(np.float64))
    assert adjusted_rand_score(expected, labels) == 1


@pytest.mark.parametrize("kind", ["four blobs", "one normal"])
def test_auto_is_the_number_of_the_least_bic(kind, blobs, monkeypatch):
    """Of mixtures of points whose clusters are known, in place of latents."""
    n_true = 4 if kind == "four blobs" else 1
    points = blobs[0] if n_true == 4 else np.random.default_rng(0).normal(size=(500, 2))
    monkeypatch.setattr(VAEClusterer, "_drawn", lambda self, vae, rows: points)
    model = small(n_clusters="auto", n_init=3)
    mixture = model._best_mixture(None, None, seed=0, most=8)
    assert mixture.n_components == n_true
    assert list(model.bic_) == list(range(1, 9))
    assert model.bic_[n_true] == min(model.bic_.values())
    n_parameters = n_true * (2 + 3) + n_true - 1  # means, covariances, weights
    log_likelihood = len(points) * mixture.score(points)
    assert model.bic_[n_true] == pytest.approx(n_parameters * np.log(len(points)) - 2 * log_likelihood)


@pytest.mark.parametrize("shape", [(8, 2), (12, 5), (20, 10), (40, 5)])
def test_auto_takes_few_rows_of_one_normal_for_one_cluster(shape, monkeypatch):
    for seed in range(3):
        points = np.random.default_rng(seed).normal(size=shape)
        monkeypatch.setattr(VAEClusterer, "_drawn", lambda self, vae, rows, points=points: points)
        assert small(n_clusters="auto", n_init=2)._best_mixture(None, None, seed=0, most=20).n_components == 1


def test_auto_finds_the_blobs(blobs):
    model = VAEClusterer(n_clusters="auto", quality="fast", random_state=0).fit(blobs[0])
    assert model.n_clusters_ == 4
    assert adjusted_rand_score(blobs[1], model.labels_) > 0.95


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_mixed_table_with_holes(library):
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 300)
    columns = {
        "height": np.where(rng.random(300) < 0.1, None, np.round(170 + 25 * kind + rng.normal(size=300), 1)),
        "colour": np.where(
            rng.random(300) < 0.1, None, np.where(kind == 1, "red", rng.choice(["blue", "green"], 300))
        ),
        "noise": rng.normal(size=300),
    }
    if library == "pandas":
        table = pd.DataFrame(columns).astype({"height": float})
    else:
        table = pl.DataFrame({name: value.tolist() for name, value in columns.items()})
    model = small(n_clusters=2, max_epochs=10, n_init=2).fit(table)
    assert np.bincount(model.labels_, minlength=2).min() > 0
    assert type(model.cluster_centers_) is type(table)
    assert list(model.cluster_centers_.columns) == list(columns)
    assert type(model.sample(3, cluster=0)) is type(table)
    report = model.describe()
    json.dumps(report.to_dict())
    assert sum(report.sizes) == 300
    assert "cluster 0" in str(report)
    assert {trait.column for trait in report.traits[0]} == set(columns)


def test_the_description_against_pandas():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"number": rng.normal(5, 2, 100), "level": rng.choice(list("abc"), 100)})
    table.loc[::7, "number"] = None
    model = small(n_clusters=2, max_epochs=1, n_init=1).fit(table)
    labels = rng.integers(0, 2, 100)
    report = describe_clusters(model.schema_.modelled, model.vae_._rows(table), labels, 2)
    for k in (0, 1):
        number, level = sorted(report.traits[k], key=lambda trait: trait.column != "number")
        its = table[labels == k]
        assert number.within == pytest.approx(its["number"].mean(), rel=1e-5)
        assert number.missing == pytest.approx(its["number"].isna().mean())
        difference = its["number"].mean() - table["number"].mean()
        assert number.strength == pytest.approx(difference / table["number"].std(ddof=0), rel=1e-4)
        assert level.within == pytest.approx((its["level"] == level.level).mean())
        assert level.overall == pytest.approx((table["level"] == level.level).mean())


def test_the_plain_bound_is_vade(blobs):
    model = small(objective=ELBO(), max_epochs=10).fit(blobs[0])
    assert np.bincount(model.labels_, minlength=4).min() > 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_clusters": 2.5}, r"n_clusters=2.5: expected 'auto' or a whole number ≥ 1"),
        ({"n_clusters": 0}, "n_clusters=0: expected"),
        ({"n_clusters": "many"}, "n_clusters='many': expected"),
        ({"n_init": 0}, "n_init=0: expected"),
        ({"prior": "vamp"}, "prior='vamp': clusters are the components of a mixture"),
        ({"warm_start": True}, "warm_start=True: clusters are found anew"),
        ({"n_clusters": 31}, r"n_clusters=31, and X has 30 rows"),
    ],
)
def test_bad_parameters(params, message):
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match=message):
        small(**params).fit(X)


def test_rows_that_are_the_same():
    with pytest.raises(ColumnError, match="constant"):
        small().fit(np.ones((30, 2)))
    X = np.repeat([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]], 10, axis=0)
    with pytest.raises(ValueError, match="30 rows of which 3 differ"):
        small().fit(X)


def test_not_fitted():
    for ask in ("predict", "predict_proba", "transform"):
        with pytest.raises(NotFittedError):
            getattr(small(), ask)(np.zeros((3, 2)))
    with pytest.raises(NotFittedError):
        small().describe()


def test_as_many_clusters_as_rows_leave_none_to_hold_out():
    X = np.random.default_rng(0).normal(size=(80, 3))
    model = small(n_clusters=78, n_init=1, max_epochs=2).fit(X)
    assert model.n_clusters_ == 78
    with pytest.raises(ValueError, match=r"n_clusters=8, and X has 5 rows of positive weight of which 5 differ"):
        small(n_clusters=8).fit(X, sample_weight=np.arange(80) < 5)
    assert small(n_clusters="auto", n_init=1, max_epochs=2).fit(X[:2]).n_clusters_ == 1


def test_an_objective_with_a_second_player(blobs):
    model = small(objective="factor-vae", n_init=1, max_epochs=4).fit(blobs[0])
    assert len(np.unique(model.predict(blobs[0]))) == 4


@pytest.mark.parametrize("weight", [0, 1e-9])
def test_rows_of_hardly_any_weight_make_no_cluster(weight):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(place, 1, (100, 2)) for place in ((0, 0), (30, 0), (0, 40))])
    model = small(n_clusters="auto", n_init=2, max_epochs=20).fit(X, sample_weight=np.repeat([1, 1, weight], 100))
    assert model.n_clusters_ == 2
