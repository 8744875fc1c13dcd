"""Images in every form: what comes in, and that the same comes back."""

import json
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image

from skvae.data.columns import NUMERIC, Kind
from skvae.data.image import Layout, read_folder, read_images, write_folder
from skvae.data.image_schema import ImageSchema, schema_from_dict
from skvae.exceptions import ImageError

RNG = np.random.default_rng(0)


def grey(n=20, *shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, *shape)).astype(dtype)


FORMS = {
    "flat grey": (grey(6, 35), (5, 7)),
    "grey": (grey(6, 5, 7), (5, 7)),
    "grey, channel first": (grey(6, 1, 5, 7), (5, 7)),
    "grey, channel last": (grey(6, 5, 7, 1), (1, 5, 7)),
    "colour first": (grey(6, 3, 5, 7), (3, 5, 7)),
    "colour last": (grey(6, 5, 7, 3), (5, 7, 3)),
    "flat colour last": (grey(6, 105), (5, 7, 3)),
    "two channels": (grey(6, 2, 9, 4), (2, 9, 4)),
    "255ths": (grey(6, 5, 7).astype(np.float32) / np.float32(255), (5, 7)),
    "255ths, double": (grey(6, 5, 7) / 255, (5, 7)),
    "whole floats": (grey(6, 5, 7).astype(np.float64), (5, 7)),
    "int64": (grey(6, 5, 7).astype(np.int64) - 100, (5, 7)),
    "uint16": (grey(6, 5, 7).astype(np.uint16) * 257, (5, 7)),
    "bool": (grey(6, 5, 7) > 100, (5, 7)),
    "0 and 1": ((grey(6, 5, 7) > 100).astype(np.float32), (5, 7)),
    "0 and 255": ((grey(6, 5, 7) > 100).astype(np.uint8) * 255, (5, 7)),
    "normal numbers": (RNG.normal(size=(6, 5, 7)), (5, 7)),
    "half precision": (RNG.uniform(size=(6, 5, 7)).astype(np.float16), (5, 7)),
}
every_form = pytest.mark.parametrize(("X", "shape"), FORMS.values(), ids=FORMS)


@every_form
def test_what_came_comes_back(X, shape):
    images = read_images(X, shape)
    schema = ImageSchema.infer(images)
    batch = schema.encode(images)
    assert batch.values.shape == (6, X[0].size)
    assert batch.observed is None
    back = schema.decode(batch.values)
    assert (back.shape, back.dtype) == (X.shape, X.dtype)
    if schema.pixel.kind == Kind.CONTINUOUS:
        np.testing.assert_allclose(back, X, atol=1e-3 if X.dtype == np.float16 else 1e-6)
    else:
        np.testing.assert_array_equal(back, X)


@every_form
def test_pixels_are_standardised_alike(X, shape):
    images = read_images(X, shape)
    schema = ImageSchema.infer(images)
    values = schema.encode(images).values.double()
    if schema.pixel.kind == Kind.BINARY:
        assert values.unique().tolist() == [0.0, 1.0]
        mean, deviation = schema.pixel.offset, schema.pixel.scale
    else:
        mean, deviation = 0.0, 1.0
    assert values.mean().item() == pytest.approx(mean, abs=1e-3)
    assert values.std(correction=0).item() == pytest.approx(deviation, rel=1e-3)


@every_form
def test_saved_and_loaded(X, shape):
    schema = ImageSchema.infer(read_images(X, shape))
    text = json.dumps(schema.to_dict())
    assert len(text) < 1000
    again = schema_from_dict(json.loads(text))
    assert again == schema
    assert again.modelled == schema.modelled


KINDS = {
    "flat grey": (Kind.INTEGER, 0, 255, 1),
    "255ths": (Kind.INTEGER, 0, 1, 1 / 255),
    "whole floats": (Kind.INTEGER, 0, 255, 1),
    "int64": (Kind.INTEGER, -100, 155, 1),
    "uint16": (Kind.INTEGER, 0, 65535, 1),
    "bool": (Kind.BINARY, 0, 0, 0),
    "0 and 255": (Kind.BINARY, 0, 0, 0),
    "normal numbers": (Kind.CONTINUOUS, None, None, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_a_pixel_is(name):
    X, shape = FORMS[name]
    X = X.copy()
    kind, lower, upper, resolution = KINDS[name]
    if kind == Kind.INTEGER and X.dtype != np.uint8:  # so that both ends are seen
        X.reshape(-1)[:2] = lower, upper
    pixel = ImageSchema.infer(read_images(X, shape)).pixel
    assert pixel.kind == kind
    assert pixel.resolution == pytest.approx(resolution)
    if lower is not None:
        assert (pixel.lower, pixel.upper) == (lower, upper)


def test_levels_that_a_likelihood_cannot_score_are_numbers():
    images = read_images(FORMS["0 and 1"][0], (5, 7))
    assert ImageSchema.infer(images, NUMERIC).pixel.kind == Kind.INTEGER
    assert ImageSchema.infer(images, frozenset({Kind.CONTINUOUS})).pixel.kind == Kind.CONTINUOUS


def test_planes_come_one_after_another():
    X = np.arange(2 * 5 * 7 * 3).reshape(2, 5, 7, 3)
    images = read_images(X, (5, 7, 3))
    np.testing.assert_array_equal(images.pixels.reshape(2, 3, 5, 7), X.transpose(0, 3, 1, 2))
    schema = ImageSchema.infer(images)
    assert schema.image_shape == (3, 5, 7)
    # Names follow the order in which the pixels came.
    assert [c.name for c in schema.columns[:3]] == ["x0", "x1", "x2"]
    assert [c.name for c in schema.modelled[:3]] == ["x0", "x3", "x6"]


@pytest.mark.parametrize(
    ("shape", "planes"),
    [
        ((28, 30), (1, 28, 30)),
        ((3, 32, 30), (3, 32, 30)),
        ((32, 30, 3), (3, 32, 30)),
        ((3, 9, 3), (3, 9, 3)),
        ((9, 40, 50), (9, 40, 50)),
    ],
)
def test_the_channels_are_the_shorter_axis(shape, planes):
    assert Layout(shape).planes == planes


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_frames_of_pixels(library):
    columns = {f"p{j}": grey(8, 6)[:, j] for j in range(6)}
    frame = library(columns)
    images = read_images(frame, (2, 3))
    schema = ImageSchema.infer(images)
    back = schema.decode(schema.encode(images).values)
    assert type(back) is type(frame)
    assert back.equals(frame)
    assert schema_from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_the_index_of_a_frame_is_kept():
    frame = pd.DataFrame(grey(3, 4), index=["a", "b", "c"], columns=list("wxyz"))
    images = read_images(frame, (2, 2))
    schema = ImageSchema.infer(images)
    assert list(schema.decode(schema.encode(images).values, keep=images).index) == ["a", "b", "c"]


def test_missing_pixels_are_filled_and_the_others_kept():
    X = grey(5, 3, 4).astype(np.float64)
    schema = ImageSchema.infer(read_images(X, (3, 4)))
    holes = X.copy()
    holes[2, 1, 1] = np.nan
    images = read_images(holes, (3, 4))
    batch = schema.encode(images)
    assert batch.observed.sum() == 59
    assert batch.values[2, 5] == 0.0
    filled = schema.decode(torch.zeros(5, 12), keep=images)
    assert filled[2, 1, 1] == round(schema.pixel.offset)
    np.testing.assert_array_equal(np.where(np.isnan(holes), X, filled), X)


def test_masked_arrays_keep_their_type():
    X = np.ma.masked_array(grey(5, 3, 4), mask=False)
    X[1, 0, 0] = np.ma.masked
    images = read_images(X, (3, 4))
    schema = ImageSchema.infer(images)
    assert schema.pixel.missing == pytest.approx(1 / 60)
    assert (schema.pixel.lower, schema.pixel.upper) == (0, 255)
    batch = schema.encode(images)
    assert not batch.observed[1, 0]
    assert schema.decode(batch.values, keep=images).dtype == np.uint8


def test_integers_are_rounded_and_cut():
    schema = ImageSchema.infer(read_images(grey(5, 3, 4), (3, 4)))
    values = torch.tensor([[-1e4, 1e4, (99.6 - schema.pixel.offset) / schema.pixel.scale] + [0.0] * 9])
    assert schema.decode(values).ravel()[:3].tolist() == [0, 255, 100]


def test_images_are_read_quickly():
    X = grey(12_800, 784)
    start = time.process_time()
    images = read_images(X, (28, 28))
    schema = ImageSchema.infer(images)
    schema.encode(images)
    _ = schema.modelled
    assert time.process_time() - start < 1.0


# ---- bad input


@pytest.mark.parametrize(
    ("X", "shape", "message"),
    [
        (grey(4, 783), (28, 28), r"X has shape \(4, 783\).*\(28, 28\); expected \[n, 784\] or \[n, 28, 28\]"),
        (grey(4, 8, 8, 3), (3, 8, 8), r"set image_shape=\(8, 8, 3\)"),
        (grey(4, 9, 8), (8, 9), r"set image_shape=\(9, 8\)"),
        (grey(64), (8, 8), r"X has shape \(64,\)"),
        (np.full((3, 2, 2), 7), (2, 2), "every pixel of every image is 7: there is nothing to learn"),
        (np.full((3, 2, 2), np.nan), (2, 2), "no pixel of any image is observed"),
        (np.full((3, 2, 2), np.inf), (2, 2), r"image 0 holds inf \(row 0, column 0\), an infinity"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_used(X, shape, message):
    with pytest.raises(ImageError, match=message):
        ImageSchema.infer(read_images(X, shape))


def test_text_is_no_image():
    with pytest.raises(TypeError, match="images hold numbers, but X has dtype <U1"):
        read_images(np.array([["a", "b"]]), (1, 2))
    with pytest.raises(ValueError, match=r"0 sample\(s\) while a minimum of 1"):
        read_images(grey(0, 4), (2, 2))


BYTES, THS = FORMS["grey"][0], FORMS["255ths, double"][0]
COLOUR = FORMS["colour last"][0]


@pytest.mark.parametrize(
    ("fitted", "later", "message"),
    [
        (BYTES, BYTES / 255, r"image 0 holds 0\.\d+ \(row 0, column 0\), but there were numbers from 0 to 255 in"),
        (BYTES, BYTES.astype(int) + 300, "image 0 holds .* 0 to 255"),
        (THS, BYTES.astype(float), "numbers from .* in steps of 0.0039.* scale the images as they were then"),
        (RNG.uniform(size=(6, 5, 7)), 255 * RNG.uniform(size=(6, 5, 7)), "numbers from 0.* to 0.* at fit"),
        (BYTES > 100, BYTES, "but there were only 0 and 1 at fit"),
        (COLOUR, np.where(np.arange(3) == 1, 0.5, COLOUR), r"image 0 holds 0.5 \(channel 1, row 0, column 0\)"),
    ],
)  # fmt: skip
def test_images_unlike_those_at_fit(fitted, later, message):
    shape = fitted.shape[1:]
    schema = ImageSchema.infer(read_images(fitted, shape))
    with pytest.raises(ImageError, match=message):
        schema.encode(read_images(later, shape))


def test_a_third_value_may_count_as_missing():
    schema = ImageSchema.infer(read_images(BYTES > 100, (5, 7)))
    X = (BYTES > 100).astype(float)
    X[0, 0, 0] = 0.5
    batch = schema.encode(read_images(X, (5, 7)), "missing")
    assert not batch.observed[0, 0]
    assert batch.observed.sum() == 6 * 35 - 1


# ---- files


@pytest.fixture
def folder(tmp_path):
    def write(images, suffix=".png", **names):
        for k, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{k:02}{suffix}")
        return tmp_path

    return write


@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 5, 7, 3), (6, 5, 7, 4)])
def test_a_folder_of_files(folder, shape):
    X = grey(*shape)
    path = folder(X)
    (path / "notes.txt").write_text("no image")
    images = read_images(path, None)
    schema = ImageSchema.infer(images)
    assert schema.layout.shape == shape[1:]
    np.testing.assert_array_equal(schema.decode(schema.encode(images).values), X)


def test_files_in_folders_in_the_order_of_their_names(tmp_path):
    for k, name in enumerate(["b/1.png", "a/2.png", "c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2), k, np.uint8)).save(tmp_path / name)
    assert read_folder(tmp_path)[:, 0, 0].tolist() == [1, 0, 2]


def test_the_order_of_axes_can_be_asked_for(folder):
    X = grey(4, 5, 7, 3)
    np.testing.assert_array_equal(read_folder(folder(X), Layout((3, 5, 7))), X.transpose(0, 3, 1, 2))


def test_palettes_and_two_tones(tmp_path):
    palette = Image.fromarray(grey(1, 4, 4)[0]).convert("P")
    palette.putpalette([(7 * k) % 256 for k in range(768)])
    palette.save(tmp_path / "a.png")
    assert read_folder(tmp_path).shape == (1, 4, 4, 3)
    (tmp_path / "a.png").unlink()
    Image.fromarray(grey(1, 4, 4)[0] > 100).save(tmp_path / "b.png")
    assert set(read_folder(tmp_path).ravel()) == {0, 255}


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (3, 5, 7)])
@pytest.mark.parametrize("type", ["uint8", "float 255ths", "float", "int64"])
def test_written_files_are_read_again(tmp_path, shape, type):
    X = grey(12, *shape)
    X[0].flat[:2] = 0, 255
    given = {"uint8": X, "float 255ths": X / 255, "float": X.astype(float), "int64": X.astype(int)}[type]
    schema = ImageSchema.infer(read_images(given, shape))
    write_folder(schema.for_files(given), tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir())[:2] == ["00.png", "01.png"]
    np.testing.assert_array_equal(read_folder(tmp_path / "new", Layout(shape)), X)


def test_files_of_16_bits(tmp_path):
    X = np.random.default_rng(0).integers(0, 60_000, (5, 6, 6)).astype(np.uint16)
    write_folder(ImageSchema.infer(read_images(X, (6, 6))).for_files(X), tmp_path / "new")
    np.testing.assert_array_equal(read_folder(tmp_path / "new"), X)


def test_other_ranges_fill_that_of_a_file():
    X = np.random.default_rng(0).uniform(-1, 1, (5, 6, 6))
    X[0, 0, :2] = -1, 1
    found = ImageSchema.infer(read_images(X, (6, 6))).for_files(X)
    np.testing.assert_array_equal(found, np.rint(255 * (X[:, None] + 1) / 2))
    two = (X > 0).astype(int)
    np.testing.assert_array_equal(ImageSchema.infer(read_images(two, (6, 6))).for_files(two)[:, 0], 255 * two)
    levels = np.round(8 * (X + 1))  # 0 to 16, as those of scikit-learn's digits
    assert ImageSchema.infer(read_images(levels, (6, 6))).for_files(levels).max() == 255
    with pytest.raises(ImageError, match=r"pixels are missing.*write to \.npy"):
        ImageSchema.infer(read_images(X, (6, 6))).for_files(np.where(X > 0.5, np.nan, X))


@pytest.mark.parametrize("levels", [(40, 80, 120), (5, 15, 25)], ids=str)
def test_masked_bytes_are_bytes(levels):
    X = np.random.default_rng(0).choice(np.array(levels, np.uint8), (60, 8, 8))
    images = read_images(np.ma.MaskedArray(X, np.random.default_rng(1).random(X.shape) < 0.1), (8, 8))
    schema = ImageSchema.infer(images)
    assert (schema.pixel.resolution, schema.pixel.lower, schema.pixel.upper) == (1, 0, 255)
    present = ~np.isnan(images.pixels)
    again = schema.decode(schema.encode(images).values.numpy())
    np.testing.assert_array_equal(again.reshape(60, -1)[present], X.reshape(60, -1)[present])


def test_holes_that_are_drawn_are_masked():
    X = grey(6, 8, 8)
    schema = ImageSchema.infer(read_images(X, (8, 8)))
    encoded = schema.encode(read_images(X, (8, 8))).values.numpy()
    encoded[:, :3] = np.nan
    found = schema.decode(encoded)
    assert found.dtype == np.uint8
    assert np.ma.getmaskarray(found).reshape(6, -1)[:, :3].all()
    assert not np.ma.getmaskarray(found).reshape(6, -1)[:, 3:].any()
    frame = pd.DataFrame(X.reshape(6, -1))
    holed = ImageSchema.infer(read_images(frame, (8, 8))).decode(encoded)
    assert holed.iloc[:, :3].isna().all(axis=None)
    np.testing.assert_array_equal(holed.iloc[:, 3:], frame.iloc[:, 3:])


def test_labels_of_columns_stay_numbers():
    frame = pd.DataFrame(grey(6, 8, 8).reshape(6, -1))
    images = read_images(frame, (8, 8))
    schema = ImageSchema.infer(images)
    again = ImageSchema.from_dict(json.loads(json.dumps(schema.to_dict())))
    for its in (schema, again):
        pd.testing.assert_frame_equal(its.decode(its.encode(images).values), frame)


def test_an_npy_file(tmp_path):
    np.save(tmp_path / "x.npy", BYTES)
    np.testing.assert_array_equal(read_images(tmp_path / "x.npy", (5, 7)).pixels, BYTES.reshape(6, -1))


def test_folders_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(ImageError, match="holds no image files"):
        read_folder(tmp_path)
    path = folder(grey(3, 5, 7))
    with pytest.raises(ImageError, match=r"00.png is 5 × 7, but image_shape=\(7, 5\); set image_shape=\(5, 7\)"):
        read_folder(path, Layout((7, 5)))
    Image.fromarray(grey(1, 5, 8)[0]).save(path / "wide.png")
    with pytest.raises(ImageError, match=r"wide.png is 5 × 8, but 00.png is 5 × 7; bring all files to one size"):
        read_folder(path)
    Image.fromarray(grey(1, 5, 7, 3)[0]).save(path / "wide.png")
    with pytest.raises(ImageError, match=r"wide.png has mode RGB, but 00.png has mode L; convert"):
        read_folder(path)
    (path / "wide.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(ImageError, match=r"wide.png cannot be read as an image .* repair or remove it"):
        read_folder(path)
