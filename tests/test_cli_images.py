"""`skvae` on folders of images, and `skvae plot`."""

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from matplotlib import pyplot
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from typer.testing import CliRunner

import skvae
from skvae import VAE, VAEClassifier
from skvae.cli import app
from skvae.data.image import read_folder

X = (load_digits().images[:80] * 15).astype(np.uint8)
SETTINGS = ["--set", "encoder=conv", "--set", "encoder__width=8", "--set", "latent_dim=2", "--set", "max_epochs=1"]


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for k, image in enumerate(X):
        Image.fromarray(image).save(folder / f"{k:03}.png")
    return folder


@pytest.fixture(scope="module")
def model(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "digits.vae"
    run("fit", photos, "-o", path, "--seed", 0, *SETTINGS)
    return path


def test_a_folder_is_fitted_without_a_shape(model):
    assert skvae.load(model).schema_.image_shape == (1, 8, 8)
    assert "Schema of 80 images 8×8" in run("info", model)
    assert '"image_shape": [' in run("info", model, "--json")


def test_latents_and_scores_are_tables(model, photos, tmp_path):
    run("transform", model, photos, "-o", tmp_path / "z.csv")
    z = pyarrow.csv.read_csv(tmp_path / "z.csv")
    assert (z.num_rows, z.column_names) == (80, ["vae0", "vae1"])
    run("score", model, photos, "-o", tmp_path / "p.parquet", "--n-draws", 5)
    assert pyarrow.parquet.read_table(tmp_path / "p.parquet").num_rows == 80


def test_images_go_to_folders_arrays_and_tables(model, photos, tmp_path):
    run("sample", model, "-n", 12, "--seed", 3, "-o", tmp_path / "new")
    expected = skvae.load(model).sample(12, random_state=3)
    np.testing.assert_array_equal(read_folder(tmp_path / "new"), expected)
    run("sample", model, "-n", 12, "--seed", 3, "-o", tmp_path / "new.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "new.npy"), expected)
    run("sample", model, "-n", 12, "--seed", 3, "-o", tmp_path / "new.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "new.parquet")
    assert table.column_names[:2] == ["x0", "x1"]
    run("reconstruct", model, tmp_path / "new.parquet", "-o", tmp_path / "again.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), skvae.load(model).reconstruct(expected))


def test_an_array_with_holes(model, photos, tmp_path):
    holes = X.astype(float)
    holes[:, 2, 2] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    run("impute", model, tmp_path / "holes.npy", "-o", tmp_path / "full", "--n-draws", 5)
    full = read_folder(tmp_path / "full")
    np.testing.assert_array_equal(np.delete(full.reshape(80, -1), 18, 1), np.delete(X.reshape(80, -1), 18, 1))
    run("impute", model, tmp_path / "holes.npy", "-o", tmp_path / "two.npy", "--n-draws", 5, "--n-imputations", 2)
    assert np.load(tmp_path / "two.npy").shape == (160, 8, 8)


def test_an_array_needs_a_shape(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert "image_shape" in run("fit", tmp_path / "x.npy", "-o", tmp_path / "m", code=2)
    run("fit", tmp_path / "x.npy", "-o", tmp_path / "m", "--set", "image_shape=(8, 8)", *SETTINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "x"], "no named columns"),
        (["--drop", "x"], "no named columns"),
        (["--column-kind", "x=integer"], "no named columns"),
        (["--set", "image_shape=(7, 7)"], "set image_shape=(8, 8)"),
    ],
)
def test_options_that_do_not_suit_images(photos, tmp_path, options, message):
    output = run("fit", photos, "-o", tmp_path / "m", *options, code=1 if "--set" in options else 2)
    assert message in " ".join(output.replace("│", "").split())


def test_outputs_that_are_refused(model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert "not empty" in run("sample", model, "-o", tmp_path / "full", code=1)
    assert "expected a folder" in run("sample", model, "-o", tmp_path / "a.jpg", code=1)
    assert "does not exist" in run("sample", model, "-o", tmp_path / "no" / "folder", code=1)


# ---- plots


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wine")
    frame = load_wine(as_frame=True).frame
    frame.to_csv(folder / "wine.csv", index=False)
    features = frame.drop(columns="target")
    VAE(latent_dim=2, max_epochs=2, random_state=0).fit(features).save(folder / "wine.vae")
    VAEClassifier(latent_dim=2, max_epochs=2, structure="joint", target_weight=1.0, random_state=0).fit(
        features, frame["target"]
    ).save(folder / "kinds.vae")
    return folder


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("map", ["--color", "target"]),
        ("reconstruction", ["--column", "hue", "--column", "ash"]),
        ("samples", []),
        ("traversal", []),
        ("training", ["--term", "loss"]),
    ],
)
@pytest.mark.parametrize("name", ["wine.vae", "kinds.vae"])
def test_plots_of_tables(wine, tmp_path, kind, options, name):
    run("plot", wine / name, wine / "wine.csv", "--kind", kind, "-o", tmp_path / "out.png", "--dpi", 40, *options)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size[0] > 150
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("kind", ["map", "reconstruction", "samples", "traversal", "training"])
def test_plots_of_images(model, photos, tmp_path, kind):
    data = [photos] if kind in ("map", "reconstruction") else []
    run("plot", model, *data, "--kind", kind, "-o", tmp_path / "out.png", "--dpi", 40)
    with Image.open(tmp_path / "out.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_plots_that_cannot_be_drawn(wine, model, photos, tmp_path):
    target = ["-o", tmp_path / "x.png"]
    rows = wine / "wine.csv"
    assert "expected one of" in run("plot", wine / "wine.vae", rows, "--kind", "pie", *target, code=2)
    assert "no column 'price'" in run(
        "plot", wine / "wine.vae", rows, "--kind", "map", "--color", "price", *target, code=2
    )
    assert "--kind map" in run(
        "plot", wine / "wine.vae", rows, "--kind", "samples", "--color", "hue", *target, code=2
    )
    assert "no named columns" in run("plot", model, photos, "--kind", "map", "--color", "x", *target, code=2)
    assert "the history has no such term" in run(
        "plot", model, "--kind", "training", "--term", "taste", *target, code=1
    )


def test_columns_of_pixels_are_found_by_name(tmp_path):
    names = [f"p{k}" for k in range(64)]
    table = pyarrow.table(dict(zip(names, X.reshape(80, -1).T, strict=True)))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(table.select(names[::-1]), tmp_path / "b.csv")
    fitted = VAE(image_shape=(8, 8), latent_dim=2, max_epochs=1, encoder="mlp", random_state=0)
    fitted.fit(tmp_path / "a.parquet").save(tmp_path / "m")
    for data in ("a.parquet", "b.csv"):
        run("transform", tmp_path / "m", tmp_path / data, "-o", tmp_path / "z.csv")
        z = pyarrow.csv.read_csv(tmp_path / "z.csv").to_pandas()
        np.testing.assert_allclose(z, fitted.transform(tmp_path / "a.parquet"), rtol=1e-4, atol=1e-5)
