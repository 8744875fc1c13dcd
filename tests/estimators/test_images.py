"""VAE(image_shape=…): images end to end."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

import skvae
from skvae import (
    MLP,
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    ConvNet,
    DiscretisedLogistic,
    Gaussian,
    ResidualConvNet,
    VAEClassifier,
)
from skvae.data.columns import Kind
from skvae.exceptions import ImageError

DIGITS = load_digits()
X = DIGITS.images.astype(np.uint8)  # 0 to 16
TRAIN, TEST = X[:600], X[1500:1560]


def small(**params):
    defaults = {
        "image_shape": (8, 8),
        "latent_dim": 4,
        "encoder": ConvNet((8,), 32),
        "decoder": ConvNet((8,), 32),
        "max_epochs": 3,
        "random_state": 0,
    }
    return VAE(**defaults | params)


@pytest.fixture(scope="module")
def fitted():
    """Digits, trained until they are recognised."""
    networks = {"encoder": ConvNet((16,), 64), "decoder": ConvNet((16,), 64)}
    vae = VAE(image_shape=(8, 8), latent_dim=8, max_epochs=25, learning_rate=5e-3, random_state=0, **networks)
    return vae.fit(DIGITS.images[:1500])


def test_digits_end_to_end(fitted):
    """Reconstructions of held-out digits are far nearer to them than the mean digit is, and than other digits are."""
    test = DIGITS.images[1500:]
    reconstructed = fitted.reconstruct(test)
    error = ((reconstructed - test) ** 2).mean()
    assert error < 0.35 * ((test - DIGITS.images[:1500].mean(0)) ** 2).mean()
    sample = fitted.sample(100, random_state=0)
    assert sample.shape == (100, 8, 8)
    assert sample.min() >= 0
    assert sample.max() <= 16
    np.testing.assert_array_equal(sample, sample.round())
    assert fitted.history_.info["steps"] == "recorded"
    assert fitted.settings_["masking"] == 0.0
    assert "DiscretisedLogistic(): 'x0', 'x1'" in repr(fitted.likelihood_)
    assert fitted.n_features_in_ == 64


def test_pixels_are_imputed_from_the_rest(fitted):
    """Better than by their means over all images."""
    test = DIGITS.images[1500:]
    hidden = np.random.default_rng(0).random(test.shape) < 0.2
    holes = np.where(hidden, np.nan, test)
    filled = fitted.impute(holes)
    assert (filled.shape, filled.dtype) == (test.shape, test.dtype)
    np.testing.assert_array_equal(filled[~hidden], test[~hidden])
    by_mean = np.broadcast_to(DIGITS.images[:1500].mean(0), test.shape)[hidden]
    error = ((filled[hidden] - test[hidden]) ** 2).mean()
    assert error < 0.5 * ((by_mean - test[hidden]) ** 2).mean()
    draws = fitted.impute(holes[:10], n_imputations=2)
    assert [draw.shape for draw in draws] == [(10, 8, 8)] * 2


def test_scores_are_masses(fitted):
    """log p(x) of grey levels is at most 0 and tells digits from noise."""
    noise = np.random.default_rng(0).integers(0, 17, size=(60, 8, 8)).astype(float)
    log_p = fitted.score_samples(DIGITS.images[1500:1560])
    assert (log_p < 0).all()
    assert log_p.min() > fitted.score_samples(noise).max()
    assert (fitted.elbo(DIGITS.images[1500:1560]) <= log_p + 1.0).mean() > 0.9


def test_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "digits")
    loaded = skvae.load(tmp_path / "digits")
    test = DIGITS.images[1500:1520]
    np.testing.assert_array_equal(loaded.transform(test), fitted.transform(test))
    np.testing.assert_array_equal(loaded.sample(5, random_state=1), fitted.sample(5, random_state=1))
    np.testing.assert_array_equal(loaded.reconstruct(test), fitted.reconstruct(test))
    assert loaded.schema_ == fitted.schema_
    assert (tmp_path / "digits" / "model.json").stat().st_size < 60_000


FORMS = {
    "flat uint8": (lambda x: x.reshape(-1, 64), (8, 8)),
    "uint8": (lambda x: x, (8, 8)),
    "float32": (lambda x: (x / 16).astype(np.float32), (8, 8)),
    "first": (lambda x: np.stack([x] * 3, 1), (3, 8, 8)),
    "last": (lambda x: np.stack([x, x // 2, x // 4], 3), (8, 8, 3)),
    "bool": (lambda x: x > 7, (8, 8)),
    "frame": (lambda x: pd.DataFrame(x.reshape(-1, 64), columns=[f"p{j}" for j in range(64)]), (8, 8)),
}


@pytest.mark.parametrize(("form", "shape"), FORMS.values(), ids=FORMS)
def test_answers_come_back_as_the_images_came(form, shape):
    given = form(TRAIN[:60])
    vae = small(image_shape=shape, max_epochs=1).fit(given)
    few = given[:7]
    for answer in (
        vae.sample(7, random_state=0),
        vae.sample(7, decode="mean", random_state=0),
        vae.reconstruct(few),
        vae.inverse_transform(vae.transform(few)),
        vae.impute(few),
    ):
        assert type(answer) is type(few)
        assert answer.shape == few.shape
        if isinstance(few, pd.DataFrame):
            assert list(answer.columns) == list(few.columns)
            assert set(answer.dtypes) == set(few.dtypes)
        else:
            assert answer.dtype == few.dtype
    same = vae.impute(few) == few
    assert np.asarray(same).all()


def test_any_form_of_the_same_images_may_be_asked_about():
    vae = small().fit(TRAIN)
    expected = vae.transform(TEST)
    for other in (
        TEST.reshape(-1, 64),
        TEST[:, None],
        TEST[..., None],
        TEST.astype(float),
        pd.DataFrame(TEST.reshape(-1, 64)),
    ):
        if isinstance(other, pd.DataFrame):
            other.columns = [f"x{j}" for j in range(64)]
            with pytest.warns(UserWarning, match="X has feature names"):
                np.testing.assert_array_equal(vae.transform(other), expected)
        else:
            np.testing.assert_array_equal(vae.transform(other), expected)


LIKELIHOODS = [
    ("auto", TRAIN, Kind.INTEGER),
    (DiscretisedLogistic(3), TRAIN, Kind.INTEGER),
    ("gaussian", TRAIN, Kind.INTEGER),
    (Gaussian("row"), TRAIN / 16 + 0.001 * np.random.default_rng(0).random(TRAIN.shape), Kind.CONTINUOUS),
    ("continuous-bernoulli", TRAIN / 16, Kind.INTEGER),
    ("auto", TRAIN > 7, Kind.BINARY),
    (Bernoulli("threshold"), TRAIN * 15, Kind.INTEGER),
    (Bernoulli("dynamic"), TRAIN / 16, Kind.INTEGER),
]


@pytest.mark.parametrize(("likelihood", "images", "kind"), LIKELIHOODS, ids=lambda value: repr(value)[:20])
def test_every_likelihood_learns(likelihood, images, kind):
    vae = small(likelihood=likelihood, max_epochs=6, early_stopping=False, learning_rate=5e-3).fit(images)
    assert vae.schema_.pixel.kind == kind
    bounds = [record["train_bound"] for record in vae.history_.epochs]
    assert bounds[-1] > bounds[0] + 1.0
    assert np.isfinite(vae.score_samples(images[:20], n_draws=10)).all()
    assert vae.sample(3).dtype == images.dtype


def test_a_threshold_is_what_the_encoder_sees_too():
    grey = TRAIN * 15
    vae = small(likelihood=Bernoulli("threshold")).fit(grey)
    black_and_white = np.where(grey > 127, 255, 0).astype(np.uint8)
    np.testing.assert_allclose(vae.transform(grey), vae.transform(black_and_white), atol=1e-6)
    np.testing.assert_allclose(vae.score_samples(grey[:9]), vae.score_samples(black_and_white[:9]), rtol=1e-6)


def test_a_mixture_by_kind_is_one_likelihood():
    vae = small(likelihood={"integer": ContinuousBernoulli()}).fit(TRAIN / 16)
    assert "ContinuousBernoulli" in repr(vae.likelihood_)


@pytest.mark.parametrize(
    "networks",
    [
        {"encoder": "residual-conv", "decoder": ResidualConvNet((8,), 16)},
        {"encoder": "mlp", "decoder": "mlp"},
        {"encoder": "conv", "decoder": MLP((32,))},
        {"encoder": None, "decoder": None, "hidden_sizes": (16,)},
    ],
    ids=str,
)
def test_networks(networks):
    vae = small(**networks, max_epochs=1).fit(TRAIN[:100])
    assert vae.transform(TEST).shape == (len(TEST), 4)
    if "hidden_sizes" in networks:
        assert isinstance(vae.encoder_, MLP)


def test_convolutions_by_default():
    vae = VAE(image_shape=(8, 8), max_epochs=1, random_state=0).fit(TRAIN[:100])
    assert isinstance(vae.encoder_, ConvNet)
    assert isinstance(vae.decoder_, ConvNet)
    assert vae.settings_["hidden_sizes"] is None


def test_missing_pixels_at_fit_are_told_to_the_encoder():
    holes = np.where(np.random.default_rng(0).random(TRAIN.shape) < 0.1, np.nan, TRAIN.astype(float))
    vae = small().fit(holes)
    assert vae.settings_["masking"] == 0.25
    assert vae.model_.encoder.planes == 2
    filled = vae.impute(holes[:20])
    assert not np.isnan(filled).any()


def test_a_folder_of_files(tmp_path):
    for k, image in enumerate(TRAIN[:60]):
        Image.fromarray(image * 15).save(tmp_path / f"{k:02}.png")
    vae = small(image_shape=None, max_epochs=1).fit(tmp_path)
    assert vae.schema_.image_shape == (1, 8, 8)
    np.testing.assert_array_equal(vae.transform(str(tmp_path)), vae.transform(TRAIN[:60] * 15))
    assert vae.sample(2).shape == (2, 8, 8)


def test_constant_pixels_do_not_warn_and_are_kept():
    """Warnings are errors here."""
    vae = small().fit(TRAIN)
    assert (TRAIN[:, 0, 0] == 0).all()
    other = TEST.copy()
    other[:, 0, 0] = 16
    assert vae.transform(other).shape == (len(TEST), 4)
    assert not np.array_equal(vae.transform(other), vae.transform(TEST))


def test_scikit_learn_clones_and_searches():
    vae = small(max_epochs=1)
    assert clone(vae).get_params()["image_shape"] == (8, 8)
    search = GridSearchCV(vae, {"encoder__width": [8, 16]}, cv=2).fit(TRAIN[:80])
    assert search.best_params_["encoder__width"] in (8, 16)


def test_more_training_and_partial_fit():
    vae = small(warm_start=True, max_epochs=1).fit(TRAIN)
    vae.fit(TRAIN)
    assert len(vae.history_.epochs) == 2
    with pytest.raises(
        ValueError, match=r"image_shape=\(64, 1\), but the model to be continued was made with \(8, 8\)"
    ):
        vae.set_params(image_shape=(64, 1)).fit(TRAIN.reshape(-1, 64))
    assert small().partial_fit(TRAIN[:50]).partial_fit(TRAIN[50:100]).transform(TEST).shape == (len(TEST), 4)


def test_validation_rows_and_weights():
    vae = small(max_epochs=2).fit(TRAIN, validation_data=TEST, sample_weight=np.arange(600))
    assert vae.history_.info["n_validation"] == len(TEST)


def test_diagnosis(fitted):
    report = fitted.diagnose(DIGITS.images[1500:1600], n_draws=20).to_dict()
    assert report["n_rows"] == 100


def test_labels_of_images():
    classifier = VAEClassifier(
        image_shape=(8, 8), latent_dim=8, max_epochs=10, structure="joint", target_weight=10.0, random_state=0
    ).fit(X[:600], DIGITS.target[:600])
    assert classifier.score(X[1500:], DIGITS.target[1500:]) > 0.8


@pytest.mark.parametrize(
    ("params", "images", "message"),
    [
        ({"image_shape": (8,)}, TRAIN, r"image_shape=\(8,\): expected \(height, width\), \(channels"),
        ({"image_shape": (8, 0)}, TRAIN, r"image_shape=\(8, 0\): expected"),
        ({"image_shape": "large"}, TRAIN, "image_shape='large': expected"),
        ({"image_shape": (8, 8.0)}, TRAIN, r"image_shape=\(8, 8.0\): expected"),
        ({"image_shape": (7, 8)}, TRAIN, r"X has shape \(600, 8, 8\).* set image_shape=\(8, 8\)"),
        ({"image_shape": None}, TRAIN, r"Found array with dim 3 .* for images set image_shape=\(8, 8\)"),
        ({"image_shape": None}, TRAIN.reshape(-1, 64), "ConvNet.* is for images; set image_shape"),
        ({"column_kinds": {0: "integer"}}, TRAIN, "column_kinds is for tables"),
        ({"likelihood": "bernoulli"}, TRAIN, r"Bernoulli\(\) cannot score .*'x0'.*0 to 255.*'threshold'.*'dynamic'"),
        ({"likelihood": Bernoulli("threshold")}, TRAIN.astype(float), r"needs values in \[0, 1\].* holds 16; divide"),
        ({"likelihood": "continuous-bernoulli"}, TRAIN / 16 - 0.1, r"needs values in \[0, 1\].* holds -0.1"),
        ({"likelihood": {"x3": "gaussian"}}, TRAIN, "one likelihood for all"),
        ({"likelihood": "poison"}, TRAIN, "likelihood='poison' is not understood"),
    ],
    ids=lambda value: None if isinstance(value, np.ndarray) else str(value)[:40],
)
def test_what_is_refused(params, images, message):
    with pytest.raises(ValueError, match=message):
        small(**params, max_epochs=1).fit(images)


def test_other_images_than_at_fit():
    vae = small(max_epochs=1).fit(TRAIN)
    with pytest.raises(ImageError, match=r"X has shape \(2, 9, 9\)"):
        vae.transform(np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(
        ImageError, match=r"image 0 holds 0.1875 \(row 0, column 3\), but there were numbers from 0 to 255"
    ):
        vae.transform(TEST[:1] / 16)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_of_pixels_are_matched_by_name(suffix, tmp_path):
    frame = pd.DataFrame(X[:60].reshape(60, -1), columns=[f"p{k}" for k in range(64)])
    turned = frame[frame.columns[::-1]]
    for name, table in (("a", frame), ("b", turned)):
        getattr(table, f"to_{suffix}")(tmp_path / f"{name}.{suffix}", index=False)
    model = small(max_epochs=1).fit(tmp_path / f"a.{suffix}")
    expected = model.transform(frame)
    for name in ("a", "b"):
        np.testing.assert_allclose(model.transform(tmp_path / f"{name}.{suffix}"), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="feature names"):
        model.transform(turned)


def test_holes_are_filled_in_frames_of_numbered_columns():
    frame = pd.DataFrame(X[:60].reshape(60, -1))
    holes = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.1)
    model = small(max_epochs=1).fit(frame)
    assert list(model.sample(2).columns) == list(range(64))
    assert not holes.fillna(model.impute(holes, n_draws=2)).isna().any(axis=None)


def test_drawn_images_have_holes_like_the_masked_ones_at_fit():
    masked = np.ma.MaskedArray(X[:80] * 6 + 96, np.random.default_rng(0).random((80, 8, 8)) < 0.3)
    drawn = small(missing="self-masking").fit(masked).sample(20, random_state=0)
    assert np.ma.getmaskarray(drawn).mean() == pytest.approx(0.3, abs=0.15)
    assert (drawn.compressed() == 0).mean() < 0.05
