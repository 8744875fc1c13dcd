"""VAERegressor and VAEClassifier as scikit-learn estimators: their checks, and work in pipelines and searches."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import calibration_curve
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn_checks import CHECKS_OF_FRAMES, every_check, of_frames_and_arrays

from skvae import ELBO, VAEClassifier, VAERegressor

# Of 16 units for the reason that test_sklearn.py names.
SMALL = {"hidden_sizes": (16,), "batch_size": 16, "learning_rate": 1e-2, "target_weight": 100.0}
SMALL |= {"likelihood": "gaussian"}
ESTIMATORS = [
    VAERegressor(structure="prior", target_likelihood="gaussian", max_epochs=6, **SMALL),
    VAEClassifier(structure="m2", max_epochs=3, **SMALL),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


@every_check(*ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@of_frames_and_arrays
@pytest.mark.parametrize("check", CHECKS_OF_FRAMES)
def test_checks_that_check_estimator_leaves_out(check):
    whole = clone(ESTIMATORS[1]).set_params(early_stopping=False, random_state=0)
    getattr(estimator_checks, check)("VAEClassifier", whole)


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 2))
    return np.column_stack([z, rng.normal(size=120)]) * [10.0, 0.1, 1.0]


def target(estimator, X):
    y = X[:, 0] - 50 * X[:, 1]
    return y if isinstance(estimator, VAERegressor) else np.where(y > 0, "rich", "poor")


def longer(estimator, **params):
    return clone(estimator).set_params(max_epochs=12, random_state=0, **params)


@every_estimator
def test_tags(estimator):
    tags = get_tags(estimator)
    assert tags.estimator_type == ("regressor" if isinstance(estimator, VAERegressor) else "classifier")
    assert tags.target_tags.required
    assert tags.target_tags.multi_output == isinstance(estimator, VAERegressor)
    assert tags.input_tags.allow_nan
    assert tags.input_tags.string
    assert tags.transformer_tags.preserves_dtype == ["float32"]


@every_estimator
def test_a_pipeline(estimator, X):
    y = target(estimator, X)
    pipeline = make_pipeline(StandardScaler(), longer(estimator)).fit(X, y)
    assert pipeline.score(X, y) > 0.7
    latents = make_pipeline(longer(estimator), LogisticRegression()).fit(X, X[:, 0] > 0)
    assert latents.predict(X).shape == (120,)
    name = type(estimator).__name__.lower()
    assert latents[:-1].get_feature_names_out()[0] == f"{name}0"


@every_estimator
def test_a_search_over_structures(estimator, X):
    structures = ["prior", "joint"] if isinstance(estimator, VAERegressor) else ["m2", "m1+m2", "joint"]
    search = GridSearchCV(longer(estimator), {"structure": structures, "latent_dim": [2]}, cv=2, error_score="raise")
    search.fit(X, target(estimator, X))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_estimator_.structure_ == search.best_params_["structure"]


@every_estimator
def test_nested_parameters(estimator, X):
    search = GridSearchCV(longer(estimator, objective=ELBO()), {"objective__beta": [0.5, 1.0]}, cv=2)
    search.fit(X, target(estimator, X))
    assert search.best_estimator_.objective.beta == search.best_params_["objective__beta"]
    assert search.best_estimator_.get_params()["objective__beta"] == search.best_params_["objective__beta"]
    for params, message in (
        ({"prior__n": 3}, r"'prior__n'.*prior='normal', which is a string; give prior as.*StandardNormal\(\)"),
        ({"nothing": 1}, "Invalid parameter 'nothing'"),
        ({"structure__n": 1}, "'structure__n' asks for a parameter of structure='.*', which has no parameters"),
    ):
        with pytest.raises(ValueError, match=message):
            clone(estimator).set_params(**params)


def test_predictions_for_rows_left_out(X):
    regressor, classifier = map(longer, ESTIMATORS)
    y = target(regressor, X)
    assert r2_score(y, cross_val_predict(regressor, X, y, cv=3)) > 0.6
    y = target(classifier, X)
    p = cross_val_predict(classifier, X, y, cv=3, method="predict_proba")
    assert p.shape == (120, 2)
    assert np.mean((p[:, 1] > 0.5) == (y == "rich")) > 0.8
    assert np.isfinite(cross_val_score(classifier, X, y, cv=2, scoring="roc_auc")).all()


def test_calibration_and_importance(X):
    classifier = longer(ESTIMATORS[1])
    y = target(classifier, X)
    classifier.fit(X, y)
    found, promised = calibration_curve(y == "rich", classifier.predict_proba(X)[:, 1], n_bins=4)
    assert np.abs(found - promised).max() < 0.4
    for estimator in (classifier, longer(ESTIMATORS[0]).fit(X, target(ESTIMATORS[0], X))):
        y = target(estimator, X)
        importance = permutation_importance(estimator, X, y, n_repeats=2, random_state=0).importances_mean
        assert importance[:2].min() > importance[2] + 0.05


@every_estimator
def test_clones_and_copies(estimator, X):
    y = target(estimator, X)
    fitted = longer(estimator, n_estimators=2, objective=ELBO(beta=0.5)).fit(X, y)
    copy = clone(fitted)
    assert copy.objective is not fitted.objective
    assert repr(copy) == repr(fitted)
    with pytest.raises(NotFittedError):
        copy.predict(X)
    np.testing.assert_array_equal(copy.fit(X, y).predict(X), fitted.predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


def test_parameters_are_their_own_and_those_of_vae():
    params = VAERegressor().get_params()
    assert list(params) == sorted(params)
    assert {"structure", "target_likelihood", "calibration_fraction", "latent_dim", "posterior"} <= set(params)
    assert "class_weight" in VAEClassifier().get_params()
    assert repr(VAERegressor(latent_dim=3)) == "VAERegressor(latent_dim=3)"
