"""What the displays draw: artists, labels, values; and that they leave matplotlib as it was."""

import builtins
import datetime as dt

import matplotlib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from matplotlib import pyplot
from sklearn.datasets import load_digits

from skvae import VAE
from skvae.plotting import (
    LatentMapDisplay,
    ReconstructionDisplay,
    SampleGridDisplay,
    TrainingCurveDisplay,
    TraversalDisplay,
)

N = 120
DIGITS = load_digits()
X = DIGITS.images[:N].astype(np.uint8) * 15


@pytest.fixture(autouse=True)
def closed():
    before = dict(matplotlib.rcParams)
    yield
    pyplot.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture(scope="module")
def digits():
    return VAE(image_shape=(8, 8), encoder="mlp", decoder="mlp", latent_dim=4, max_epochs=12, random_state=0).fit(X)


def table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "height": 170 + 8 * z,
            "children": rng.poisson(2, n),
            "smokes": z > 0,
            "city": pd.array(rng.choice(["Bern", "Genf", "Basel"], n), dtype="str"),
            "joined": pd.to_datetime(dt.date(2020, 1, 1)) + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
        }
    )
    frame.loc[:4, "height"] = np.nan
    return frame


@pytest.fixture(scope="module")
def rows():
    return VAE(latent_dim=2, max_epochs=3, random_state=0).fit(table())


def points(ax):
    return np.concatenate([np.asarray(part.get_offsets()) for part in ax.collections])


def test_a_map_of_classes_has_a_legend(rows):
    frame = table()
    display = LatentMapDisplay.from_estimator(rows, frame, color=frame["city"])
    assert display.figure_ is display.ax_.figure
    np.testing.assert_allclose(np.sort(points(display.ax_)[:, 0]), np.sort(rows.transform(frame)[:, 0]), rtol=1e-6)
    legend = display.ax_.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["Basel", "Bern", "Genf"]
    assert legend.get_title().get_text() == "city"
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("latent 0", "latent 1")
    assert len(display.ax_.collections) == 3
    its = np.asarray(display.ax_.collections[1].get_offsets())
    np.testing.assert_allclose(its, rows.transform(frame)[(frame["city"] == "Bern").to_numpy()], rtol=1e-6)


def test_a_map_of_numbers_has_a_colour_bar(rows):
    frame = table()
    display = LatentMapDisplay.from_estimator(rows, frame, color=frame["height"])
    assert display.ax_.get_legend() is None
    _, bar = display.figure_.axes
    assert bar.get_ylabel() == "height"
    missing, known = display.ax_.collections
    assert (len(missing.get_offsets()), len(known.get_offsets())) == (5, N - 5)
    np.testing.assert_allclose(known.get_array(), frame["height"].dropna())


@pytest.mark.parametrize(
    ("color", "n_classes"),
    [
        (np.arange(N) % 3, 3),
        (np.arange(N), None),
        (np.arange(N) % 2 == 0, 2),
        (np.array(["a", None, "b"] * (N // 3), dtype=object), 3),
        (np.where(np.arange(N) % 2, np.nan, 1.0), 2),
        (np.linspace(0, 1, N), None),
        (np.arange(N).astype("datetime64[D]"), None),
        ([f"level {k % 30}" for k in range(N)], 30),
    ],
)
def test_what_are_classes_and_what_numbers(rows, color, n_classes):
    display = LatentMapDisplay.from_estimator(rows, table(), color=color)
    legend = display.ax_.get_legend()
    if n_classes is None:
        assert legend is None
        assert len(display.figure_.axes) == 2
    else:
        assert len(legend.get_texts()) == n_classes
        assert len(points(display.ax_)) == N


def test_more_latents_are_shown_by_their_principal_components(digits):
    display = LatentMapDisplay.from_estimator(digits, X)
    z = digits.transform(X)
    z = z - z.mean(0)
    variance = np.linalg.svd(z, compute_uv=False) ** 2
    share = variance / variance.sum()
    assert display.ax_.get_xlabel() == f"principal component 1 of 4 latents ({share[0]:.0%})"
    assert display.ax_.get_ylabel() == f"principal component 2 of 4 latents ({share[1]:.0%})"
    np.testing.assert_allclose(display.positions.var(0) * N, variance[:2], rtol=1e-3)


def test_one_latent_and_a_selection_of_rows():
    vae = VAE(latent_dim=1, max_epochs=1, random_state=0).fit(table())
    display = LatentMapDisplay.from_estimator(vae, table(), max_rows=50)
    assert len(points(display.ax_)) == 50
    assert display.ax_.get_xlabel() == "latent 0"
    assert len(display.ax_.get_yticks()) == 0
    again = LatentMapDisplay.from_estimator(vae, table(), max_rows=50)
    np.testing.assert_array_equal(again.positions, display.positions)


def test_images_above_their_reconstructions(digits):
    display = ReconstructionDisplay.from_estimator(digits, X, n_images=15)
    (image,) = display.ax_.images
    shown = np.asarray(image.get_array().filled(np.nan))
    np.testing.assert_allclose(shown[:8, :8], X[0] / 255)
    np.testing.assert_allclose(shown[9:17, 9:17], digits.reconstruct(X)[1] / 255)
    np.testing.assert_allclose(shown[22:30, :8], X[10] / 255)
    assert shown.shape == (4 * 9 + 4, 10 * 9)
    assert np.isnan(shown[22:30, 5 * 9 :]).all()


@pytest.mark.parametrize("to", [lambda X: X, pl.from_pandas, pa.Table.from_pandas], ids=["pandas", "polars", "arrow"])
def test_only_what_is_shown_is_reconstructed(digits, to, monkeypatch):
    n_rows, reconstruct = [], VAE.reconstruct
    monkeypatch.setattr(VAE, "reconstruct", lambda self, X: n_rows.append(len(X)) or reconstruct(self, X))
    ReconstructionDisplay.from_estimator(digits, X, n_images=15)
    frame = to(table().assign(height=170.5 + np.arange(N)))
    vae = VAE(latent_dim=1, hidden_sizes=(4,), max_epochs=1, random_state=0).fit(frame)
    display = ReconstructionDisplay.from_estimator(vae, frame, max_rows=50)
    assert n_rows == [15, 50]
    shown = np.rint(display.original[:, 0] - 170.5).astype(int)
    every = np.asarray(reconstruct(vae, frame)["height"])
    np.testing.assert_allclose(display.reconstructed[:, 0], every[shown], rtol=1e-5)


def test_columns_against_their_reconstructions(rows):
    frame = table()
    display = ReconstructionDisplay.from_estimator(rows, frame)
    titles = [ax.get_title() for ax in display.axes_]
    assert len(titles) == 5
    x, y = frame["height"].iloc[5:], rows.reconstruct(frame)["height"].iloc[5:]
    assert titles[0] == f"height, r = {np.corrcoef(x, y)[0, 1]:.2f}"
    np.testing.assert_allclose(points(display.axes_[0]), np.stack([x, y], 1), rtol=1e-5)
    same = (frame["city"] == rows.reconstruct(frame)["city"]).mean()
    assert titles[3] == f"city, {same:.0%} alike"
    (heat,) = display.axes_[3].images
    of_bern = np.asarray(heat.get_array())[:, 1]
    decoded = rows.reconstruct(frame)["city"][frame["city"] == "Bern"]
    np.testing.assert_allclose(of_bern, [(decoded == city).mean() for city in ("Basel", "Bern", "Genf")])
    assert [t.get_text() for t in display.axes_[3].get_xticklabels()] == ["Basel", "Bern", "Genf"]
    few = ReconstructionDisplay.from_estimator(rows, frame, columns=["city", "height"])
    assert [ax.get_title()[:4] for ax in few.axes_] == ["city", "heig"]


def test_samples_of_images_in_a_square(digits):
    display = SampleGridDisplay.from_estimator(digits, n_samples=9, random_state=1)
    shown = np.asarray(display.ax_.images[0].get_array().filled(np.nan))
    assert shown.shape == (27, 27)
    expected = digits.sample(9, decode="mean", random_state=1)
    np.testing.assert_allclose(shown[9:17, 18:26], expected[5] / 255)


def test_colour_images():
    colour = np.stack([X, X // 2, 255 - X], 3)
    vae = VAE(image_shape=(8, 8, 3), encoder="mlp", decoder="mlp", latent_dim=2, max_epochs=1, random_state=0)
    vae.fit(colour)
    shown = np.asarray(ReconstructionDisplay.from_estimator(vae, colour, n_images=4).ax_.images[0].get_array())
    np.testing.assert_allclose(shown[:8, :8, :3], colour[0] / 255)
    assert (shown[:8, :8, 3] == 1).all()
    assert (shown[:, 8, 3] == 0).all()


def test_samples_of_a_table_beside_real_rows(rows):
    frame = table()
    display = SampleGridDisplay.from_estimator(rows, frame, random_state=2)
    assert [ax.get_title() for ax in display.axes_] == list(frame.columns)
    bars = display.axes_[3].patches
    real = [(frame["city"] == city).mean() for city in ("Basel", "Bern", "Genf")]
    new = rows.sample(N, random_state=2)
    sampled = [(new["city"] == city).mean() for city in ("Basel", "Bern", "Genf")]
    np.testing.assert_allclose([bar.get_height() for bar in bars], real + sampled)
    legends = [ax.get_legend() for ax in display.axes_]
    assert [[text.get_text() for text in legend.get_texts()] for legend in legends if legend] == [["real", "sampled"]]
    assert len(display.axes_[0].patches) > 20
    with pytest.raises(ValueError, match="pass X"):
        SampleGridDisplay.from_estimator(rows)


def test_traversals_of_images(digits):
    display = TraversalDisplay.from_estimator(digits, X, latents=[2, 0], n_steps=5, span=2.0)
    assert display.decoded.shape == (2, 5, 8, 8)
    z = digits.transform(X)
    start = z.mean(0)
    start[2] += 2.0 * z[:, 2].std()
    np.testing.assert_allclose(
        display.decoded[0, 4], digits.inverse_transform(start[None])[0] / 255, atol=1 / 255 + 1e-9
    )
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == ["latent 2", "latent 0"]
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["-2.0 σ", "+0.0 σ", "+2.0 σ"]
    chosen = TraversalDisplay.from_estimator(digits, X, n_latents=2).latents
    assert chosen == sorted(np.argsort(-z.std(0))[:2].tolist())


def test_traversals_of_tables(rows):
    display = TraversalDisplay.from_estimator(rows, table(), n_steps=7, n_columns=2)
    assert len(display.axes_) == 2
    lines = display.axes_[1].lines
    assert len(lines) == 2
    assert all(len(line.get_xdata()) == 7 for line in lines)
    names = [text.get_text() for ax in display.axes_ if ax.get_legend() for text in ax.get_legend().get_texts()]
    assert set(names) <= {"height", "children", "smokes", "joined"}
    z = rows.transform(table())
    end = z.mean(0)
    end[1] += 2.5 * z[:, 1].std()
    column = rows.schema_.modelled[0]
    height = (rows.inverse_transform(end[None].astype(np.float32))["height"][0] - column.offset) / column.scale
    assert display.decoded[1, -1, 0] == pytest.approx(height, abs=1e-3)


def test_training_curves(digits):
    display = TrainingCurveDisplay.from_estimator(digits)
    train, validation = display.ax_.lines[:2]
    np.testing.assert_array_equal(train.get_ydata(), digits.history_["train_bound"])
    np.testing.assert_array_equal(validation.get_ydata(), digits.history_["validation_bound"])
    assert display.ax_.get_ylabel() == "bound, nats per row"
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()][:2] == ["train", "validation"]
    assert TrainingCurveDisplay.from_estimator(digits, term="loss").ax_.get_ylabel() == "loss, nats per row"


@pytest.mark.parametrize("cls", [LatentMapDisplay, ReconstructionDisplay, SampleGridDisplay, TraversalDisplay])
def test_axes_may_be_given_and_drawn_into_again(rows, digits, cls):
    for vae, data in ((rows, table()), (digits, X)):
        figure, (left, right) = pyplot.subplots(1, 2)
        display = cls.from_estimator(vae, data, ax=left)
        assert display.figure_ is figure
        assert display.ax_ is left
        assert display.plot(ax=right) is display
        assert display.ax_ is right
        assert len(pyplot.get_fignums()) == 1
        figure.canvas.draw()
        pyplot.close(figure)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda v: LatentMapDisplay.from_estimator(v, table(), color=[1, 2]), "color has 2 entries for 120 rows"),
        (lambda v: LatentMapDisplay.from_estimator(v, table(), color=np.ones((N, 2))), r"color has shape \(120, 2\)"),
        (
            lambda v: ReconstructionDisplay.from_estimator(v, table(), columns=["age"]),
            "columns names 'age'.*'height'",
        ),
        (lambda v: TraversalDisplay.from_estimator(v, latents=[5]), "there is no latent 5; the model has 2"),
        (lambda v: TrainingCurveDisplay.from_estimator(v, term="kale"), r"term='kale': .* it has \[.*'bound'"),
    ],
)
def test_what_is_refused(rows, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(rows)


def test_without_matplotlib_the_extra_is_named(rows, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install scikit-vae\[plot\]"):
        LatentMapDisplay.from_estimator(rows, table())


def test_columns_without_an_entry():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    vae = VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=2, random_state=0).fit(frame)
    empty = frame.assign(a=np.nan)
    display = ReconstructionDisplay.from_estimator(vae, empty)
    assert display.axes_[0].get_title() == "a, no entry"
    assert len(SampleGridDisplay.from_estimator(vae, empty).axes_) == 2


@pytest.mark.parametrize("color", [pd.array([pd.NA, "x"] * 30, "string"), pd.array([pd.NA, True] * 30, "boolean")])
def test_missing_colours_of_nullable_types(color):
    X = np.random.default_rng(0).normal(size=(60, 2))
    vae = VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=2, random_state=0).fit(X)
    plain = [None, color[1]] * 30
    one, other = (LatentMapDisplay.from_estimator(vae, X, color=its) for its in (pd.Series(color), plain))
    assert one.color.tolist() == other.color.tolist()


def test_epochs_without_held_out_rows():
    X = np.random.default_rng(0).normal(size=(60, 2))
    vae = VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=12, warm_start=True, random_state=0)
    for _ in range(3):
        vae.partial_fit(X)
    assert np.isfinite(TrainingCurveDisplay.from_estimator(vae.fit(X)).ax_.get_ylim()).all()


def test_panels_within_axes_placed_by_hand():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    vae = VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=2, random_state=0).fit(frame)
    ax = pyplot.figure().add_axes((0.1, 0.1, 0.8, 0.8))
    display = ReconstructionDisplay.from_estimator(vae, frame, ax=ax)
    assert [panel.get_title().split(",")[0] for panel in display.axes_] == ["a", "b"]
