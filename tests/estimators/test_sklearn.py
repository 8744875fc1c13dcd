"""VAE as a scikit-learn estimator: its checks, and work in pipelines, searches and copies."""

import pickle

import joblib
import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn_checks import CHECKS_OF_FRAMES, every_check, of_frames_and_arrays

from skvae import ELBO, MLP, VAE, DiagonalNormal, Gaussian, StandardNormal


def small(**params):
    defaults = {"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 3, "batch_size": 16, "random_state": 0}
    return VAE(**defaults | params)


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(90, 2))
    return z @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(90, 4))


@pytest.fixture(scope="module")
def fitted(X):
    return small().fit(X)


# MKL rounds products of fewer than 16 units by where a row lies in memory, on an AMD processor with AVX-512.
@every_check(VAE(max_epochs=3, hidden_sizes=(16,), batch_size=16))
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@of_frames_and_arrays
@pytest.mark.parametrize("check", CHECKS_OF_FRAMES)
@pytest.mark.parametrize("early_stopping", [True, False])
def test_checks_that_check_estimator_leaves_out(check, early_stopping):
    # The check of column names covers partial_fit only without early stopping.
    getattr(estimator_checks, check)("VAE", small(early_stopping=early_stopping))


def test_tags():
    tags = get_tags(VAE())
    accepts = tags.input_tags
    assert accepts.allow_nan
    assert accepts.string
    assert accepts.categorical
    assert not accepts.sparse
    assert not tags.target_tags.required
    assert not tags.non_deterministic
    assert tags.transformer_tags.preserves_dtype == ["float32"]


def test_pipeline_with_a_classifier(X):
    y = X[:, 0] > 0
    pipeline = make_pipeline(StandardScaler(), small(max_epochs=30), LogisticRegression()).fit(X, y)
    assert pipeline.score(X, y) > 0.6
    assert pipeline[:-1].get_feature_names_out().tolist() == ["vae0", "vae1"]


def test_grid_search_over_components_in_two_processes(X):
    grid = {"objective__beta": [0.5, 4.0], "latent_dim": [1, 2]}
    search = GridSearchCV(small(objective=ELBO()), grid, cv=2, n_jobs=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.objective.beta == search.best_params_["objective__beta"]
    assert search.transform(X).shape == (90, search.best_params_["latent_dim"])


def test_nested_parameters():
    vae = VAE(objective=ELBO(beta=2.0), likelihood=Gaussian(), posterior=DiagonalNormal(), encoder=MLP((4,)))
    params = vae.get_params()
    assert params["objective__beta"] == 2.0
    assert params["likelihood__scale"] == "shared"
    assert params["encoder__hidden_sizes"] == (4,)
    assert isinstance(params["posterior"], DiagonalNormal)
    vae.set_params(objective__beta=3.0, likelihood__scale="row", posterior="diagonal")
    assert (vae.objective.beta, vae.likelihood.scale, vae.get_params()["posterior"]) == (3.0, "row", "diagonal")
    # Part and parameter may be set in one call, and then the part may have been a string.
    assert VAE().set_params(objective=ELBO(), objective__beta=0.1).objective.beta == 0.1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prior__n": 3}, r"'prior__n'.*prior='normal', which is a string; give prior as.*StandardNormal\(\)"),
        ({"objective__beta": 3}, r"objective='elbo', which is a string.*objective=skvae.ELBO\(\)"),
        ({"posterior__n": 3}, r"posterior='diagonal', which is a string"),
        ({"encoder__width": 3}, "encoder=None, which has no parameters"),
        ({"device__n": 3}, "device='auto', which is a string; give device as an object"),
        ({"objective": ELBO(), "objective__gamma": 1}, "ELBO has no parameter 'gamma'"),
        ({"nothing": 1}, "Invalid parameter 'nothing'"),
        ({"nothing__n": 1}, "Invalid parameter 'nothing'"),
    ],
)
def test_set_params_says_what_is_wrong(params, message, X):
    with pytest.raises(ValueError, match=message):
        VAE().set_params(**params)
    if "objective" not in params:
        with pytest.raises(ValueError, match=message):
            GridSearchCV(small(), {key: [value] for key, value in params.items()}, cv=2).fit(X)


def test_a_method_may_have_the_name_of_a_parameter(fitted, X):
    assert callable(fitted.posterior)
    assert fitted.get_params()["posterior"] == "diagonal"
    assert "posterior" not in repr(fitted)
    assert "posterior=DiagonalNormal()" in repr(VAE(posterior=DiagonalNormal()))
    assert VAE.posterior.__doc__.startswith("Draws from q(z|x)")


def test_clone_keeps_parameters_and_forgets_the_fit(X):
    vae = small(
        objective=ELBO(beta=0.5),
        likelihood={"continuous": Gaussian("column")},
        prior=StandardNormal(),
        posterior=DiagonalNormal(),
        encoder=torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.ReLU()),
        decoder=MLP((6,)),
        hidden_sizes="auto",
    ).fit(X)
    copy = clone(vae)
    assert copy.objective is not vae.objective
    assert copy.objective.beta == 0.5
    assert copy.decoder.hidden_sizes == (6,)
    with pytest.raises(NotFittedError):
        copy.transform(X)
    # The user's module is a start, not what is trained.
    for ours, theirs in zip(vae.encoder.parameters(), copy.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    np.testing.assert_array_equal(copy.fit(X).transform(X), vae.transform(X))


@pytest.mark.parametrize("via", ["pickle", "joblib"])
def test_pickled_models_answer_alike(via, fitted, X, tmp_path):
    if via == "pickle":
        copy = pickle.loads(pickle.dumps(fitted))
    else:
        joblib.dump(fitted, tmp_path / "vae")
        copy = joblib.load(tmp_path / "vae")
    np.testing.assert_array_equal(copy.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(copy.sample(5, random_state=0), fitted.sample(5, random_state=0))
    np.testing.assert_array_equal(copy.partial_fit(X).transform(X), pickle_of(fitted).partial_fit(X).transform(X))


def pickle_of(vae):
    return pickle.loads(pickle.dumps(vae))


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output(container, X):
    vae = small().set_output(transform=container)
    Z = vae.fit_transform(X)
    assert type(Z).__module__.split(".")[0] == container
    assert list(Z.columns) == vae.get_feature_names_out().tolist() == ["vae0", "vae1"]
    vae.set_output(transform="default")
    np.testing.assert_array_equal(np.asarray(Z), vae.transform(X))
    assert isinstance(vae.inverse_transform(Z), np.ndarray)


def test_latents_keep_the_index_of_a_frame(X):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(90) * 3)
    vae = small().fit(frame).set_output(transform="pandas")
    Z = vae.transform(frame)
    assert Z.index.equals(frame.index)
    assert vae.inverse_transform(Z.iloc[5:8]).index.tolist() == [15, 18, 21]
    pd.testing.assert_frame_equal(vae.inverse_transform(Z), vae.reconstruct(frame))


@pytest.mark.parametrize("to_weight", [np.asarray, list, pl.Series], ids=["array", "list", "polars"])
def test_equal_weights_change_nothing(to_weight, fitted, X):
    weighted = small().fit(X, sample_weight=to_weight(np.full(90, 2.5)))
    np.testing.assert_allclose(weighted.transform(X), fitted.transform(X), atol=1e-6)


def test_weights_change_the_fit(X):
    rows = np.arange(90)
    left, right = (
        small(max_epochs=40, early_stopping=False).fit(X, sample_weight=np.where(rows < 45, w, 1 / w))
        for w in (50.0, 0.02)
    )
    assert left.score(X[:45]) - left.score(X[45:]) > right.score(X[:45]) - right.score(X[45:])


def test_rows_of_weight_zero_are_not_learned_from(X):
    spoilt = np.vstack([X, X[:60] * 1.0])
    spoilt[90:] = spoilt[90:, ::-1]
    weight = np.r_[np.ones(90), np.zeros(60)]
    vae = small(validation_fraction=0.4).fit(spoilt, sample_weight=weight)
    assert vae.history_.info["n_train"] + vae.history_.info["n_validation"] == 90
    assert np.isfinite(vae.history_["validation_bound"]).all()
    extreme = small().fit(X, sample_weight=np.r_[np.full(45, 1e300), np.full(45, 1e-300)])
    assert extreme.history_.info["n_train"] == 45
    assert np.isfinite(extreme.score(X))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(90), "weight"),
        (np.r_[-1.0, np.ones(89)], "Negative values"),
        (np.r_[np.nan, np.ones(89)], "NaN"),
        (np.ones(89), "sample_weight.shape"),
        (np.ones((90, 2)), "1D"),
    ],
    ids=["zero", "negative", "missing", "short", "wide"],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_weights(weight, message, method, X):
    with pytest.raises(ValueError, match=message):
        getattr(small(), method)(X, sample_weight=weight)


def test_warm_start_continues(X):
    vae = small(warm_start=True, max_epochs=20, early_stopping=False).fit(X)
    model, first, n_steps = vae.model_, vae.transform(X), vae.history_.info["n_steps"]
    bound = vae.history_["train_bound"][-1]
    vae.set_params(max_epochs=15, learning_rate=1e-3).fit(X)
    assert vae.model_ is model
    assert not np.array_equal(vae.transform(X), first)
    assert vae.history_["epoch"] == list(range(1, 36))
    assert vae.settings_["max_epochs"] == 15
    assert vae.history_["step"][-1] == vae.history_.info["n_steps"] == n_steps * 35 // 20
    assert vae.history_["train_bound"][-1] > bound
    assert vae.set_params(warm_start=False).fit(X).model_ is not model


def test_warm_start_keeps_rows_held_out(X):
    vae = small(warm_start=True, random_state=None).fit(X)
    rows = vae._rows(X)
    before = vae._split(rows)[1].values
    assert torch.equal(vae.fit(X)._split(rows)[1].values, before)


@pytest.mark.parametrize(
    "changed",
    [
        {"latent_dim": 3},
        {"hidden_sizes": (9,)},
        {"objective": ELBO(beta=2)},
        {"prior": StandardNormal()},
        {"posterior": DiagonalNormal()},
        {"likelihood": "gaussian"},
        {"masking": 0.0},
        {"column_kinds": {0: "continuous"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_continued_fit_refuses_another_model(changed, X):
    name = next(iter(changed))
    vae = small(warm_start=True).fit(X).set_params(**changed)
    for method in (vae.fit, vae.partial_fit):
        with pytest.raises(ValueError, match=rf"{name}=.*made with.*warm_start=False"):
            method(X)


def test_partial_fit_improves_and_keeps_the_schema(X):
    vae = small(learning_rate=5e-3)
    scores = []
    for call in range(40):
        vae.partial_fit(X[:60] if call % 2 else X[30:])
        if call == 0:
            schema, model = vae.schema_, vae.model_
        if call in (0, 9, 39):
            scores.append(vae.score(X))
    assert scores[2] > scores[1] > scores[0]
    assert vae.schema_ is schema
    assert vae.model_ is model
    assert vae.history_["epoch"] == list(range(1, 41))
    assert vae.partial_fit(X[:1]).n_features_in_ == 4
    with pytest.raises(ValueError, match="X has 3 features"):
        vae.partial_fit(X[:, :3])


def test_calls_of_partial_fit_draw_their_own_noise(X):
    vae = small(learning_rate=1e-12)
    bounds = [vae.partial_fit(X).history_["train_bound"][-1] for _ in range(4)]
    assert len(set(bounds)) == 4


def test_a_fit_that_breaks_down_leaves_nothing_fitted(X):
    def give_up(history, model):
        raise KeyboardInterrupt

    vae = small().fit(X).set_params(callbacks=[give_up])
    with pytest.raises(KeyboardInterrupt):
        vae.fit(X)
    with pytest.raises(NotFittedError):
        vae.transform(X)


@pytest.mark.parametrize("to_sparse", [sparse.csr_array, sparse.coo_matrix])
def test_sparse_input_is_refused(to_sparse, fitted, X):
    for method in (small().fit, small().partial_fit, fitted.transform, fitted.score_samples, fitted.impute):
        with pytest.raises(TypeError, match=r"[Ss]parse"):
            method(to_sparse(X))


def test_the_same_seed_gives_the_same_model(fitted, X):
    again, other = small().fit(X), small(random_state=1).fit(X)
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    assert again.history_["train_bound"] == fitted.history_["train_bound"]
    assert not np.allclose(other.transform(X), fitted.transform(X))
    rng = np.random.RandomState(0)
    first, second = small(random_state=rng).fit(X), small(random_state=rng).fit(X)
    assert not np.allclose(first.transform(X), second.transform(X))
    unseeded = [small(random_state=None).fit(X).transform(X) for _ in range(2)]
    assert not np.allclose(*unseeded)


METHODS = {
    "fit": lambda vae, X: vae.fit(X),
    "partial_fit": lambda vae, X: vae.partial_fit(X),
    "transform": lambda vae, X: vae.transform(X),
    "fit_transform": lambda vae, X: vae.fit_transform(X),
    "inverse_transform": lambda vae, X: vae.inverse_transform(np.zeros((3, 2))),
    "posterior": lambda vae, X: vae.posterior(X, 3),
    "reconstruct": lambda vae, X: vae.reconstruct(X),
    "sample": lambda vae, X: vae.sample(3),
    "sample_mean": lambda vae, X: vae.sample(3, decode="mean", random_state=1),
    "score_samples": lambda vae, X: vae.score_samples(X, 5),
    "score": lambda vae, X: vae.score(X),
    "elbo": lambda vae, X: vae.elbo(X, 5),
    "impute": lambda vae, X: vae.impute(X, n_draws=5),
    "imputations": lambda vae, X: vae.impute(X, 2, n_draws=5),
    "diagnose": lambda vae, X: vae.diagnose(X, 5),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("random_state", [None, 0])
def test_the_caller_s_random_streams_and_threads_are_left_alone(name, random_state, X):
    encoder = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5))
    vae = small(encoder=encoder, random_state=random_state, max_epochs=2).fit(X)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        METHODS[name](vae, X)
        assert torch.equal(torch.get_rng_state(), torch_before)
        assert pickle.dumps(np.random.get_state()) == pickle.dumps(numpy_before)  # noqa: NPY002
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith(("fit", "partial"))])
def test_questions_need_a_fit(name, X):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        METHODS[name](small(), X)


def test_callbacks_may_stop_training(X):
    seen = []

    def stop_after_two(history, model):
        seen.append(history["train_bound"][-1])
        return len(history) == 2

    vae = small(max_epochs=9, callbacks=[stop_after_two]).fit(X)
    assert len(seen) == len(vae.history_) == 2
    assert vae.history_.info["stopped"] == "callback"


def test_validation_data_takes_the_place_of_a_split(X):
    vae = small().fit(X[:60], validation_data=X[60:])
    assert (vae.history_.info["n_train"], vae.history_.info["n_validation"]) == (60, 30)
    with pytest.raises(ValueError, match="X has 3 features"):
        small().fit(X[:60], validation_data=X[60:, :3])
    with pytest.raises(ValueError, match="early_stopping=False"):
        small(early_stopping=False).fit(X[:60], validation_data=X[60:])
