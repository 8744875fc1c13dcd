"""Reading images: arrays, frames of pixels and folders of files into one neutral form; writing files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from skvae.data.source import read
from skvae.exceptions import ImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

# What is read as what: two tones as grey, palettes as their colours.
_PLAIN_MODES = {"1": "L", "P": "RGB"}


@dataclass(frozen=True)
class Layout:
    """How the pixels of an image lie in an array.

    Parameters
    ----------
    shape : tuple of int
        (height, width), or with the channels first or last: they are the shorter of these two axes, the first
        if both are alike.
    """

    shape: tuple[int, ...]

    @property
    def channels_last(self) -> bool:
        return len(self.shape) == 3 and self.shape[2] < self.shape[0]

    @property
    def planes(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        if len(self.shape) == 2:
            return (1, *self.shape)
        return self.shape[-1:] + self.shape[:-1] if self.channels_last else self.shape  # type: ignore[return-value]

    @property
    def n_pixels(self) -> int:
        return math.prod(self.shape)

    @property
    def accepted(self) -> list[tuple[int, ...]]:
        """Shapes in which an image may come."""
        channels, height, width = self.planes
        bare = [(height, width), (1, height, width), (height, width, 1)] if channels == 1 else [self.shape]
        return [(self.n_pixels,), *bare]

    @property
    def of_files(self) -> tuple[int, ...]:
        """The shape that pillow gives such an image."""
        channels, *size = self.planes
        return tuple(size) if channels == 1 else (*size, channels)

    def by_plane(self, pixels: np.ndarray) -> np.ndarray:
        """Flat images [n, pixels] as [n, pixels], plane after plane."""
        if not self.channels_last:
            return pixels
        return pixels.reshape(len(pixels), *self.shape).transpose(0, 3, 1, 2).reshape(len(pixels), -1)

    def as_given(self, pixels: np.ndarray) -> np.ndarray:
        """The inverse of `by_plane`."""
        if not self.channels_last:
            return pixels
        return pixels.reshape(len(pixels), *self.planes).transpose(0, 2, 3, 1).reshape(len(pixels), -1)


@dataclass(frozen=True)
class Images:
    """The raw content of a set of images, whatever form it came in.

    Attributes
    ----------
    pixels : ndarray [n, channels × height × width]
        Plane after plane, in the type they came in; NaN where missing.
    layout : Layout
    row_shape : tuple of int
        Of an image as it came: flat, or a shape that `layout` accepts.
    dtype : str
        Of the pixels as they came; masked ones are floats in `pixels`.
    container : {"numpy", "pandas", "polars", "pyarrow"}
    names : list or None
        Of a frame's columns: text, or whole numbers.
    index : object
        The row index of a pandas frame.
    """

    pixels: np.ndarray
    layout: Layout
    row_shape: tuple[int, ...]
    dtype: str
    container: str = "numpy"
    names: list[Any] | None = None
    index: Any = None

    @property
    def n_rows(self) -> int:
        return len(self.pixels)

    def __len__(self) -> int:
        return len(self.pixels)


def is_folder(X: Any) -> bool:
    """Whether X is the path of a folder."""
    return isinstance(X, str | os.PathLike) and Path(X).is_dir()


def is_table(X: Any) -> bool:
    """Whether X is the path of a table of pixels."""
    return isinstance(X, str | os.PathLike) and not Path(X).is_dir() and Path(X).suffix != ".npy"


def read_images(X: Any, image_shape: Sequence[int] | None, *, min_rows: int = 1) -> Images:
    """Read images.

    Parameters
    ----------
    X : array [n, pixels] or [n, *image_shape], data frame of pixels, or path
        Of a folder of image files, those in its folders included, in the order of their names; of an .npy file; or
        of a csv or parquet file of pixels.
    image_shape : tuple of int, optional
        Needed unless X is a folder.
    min_rows : int
        Fewer images are refused.

    Raises
    ------
    ImageError
        Images of another shape, of several shapes or modes, infinite pixels; a file that cannot be read.
    TypeError
        Pixels that are no numbers.
    """
    if isinstance(X, Images):
        return X
    layout = None if image_shape is None else Layout(tuple(int(side) for side in image_shape))
    index = names = None
    container = "numpy"
    if is_folder(X):
        X = read_folder(Path(X), layout)
        layout = layout or Layout(X.shape[1:])
    elif isinstance(X, str | os.PathLike):
        X = np.load(X, allow_pickle=False) if Path(X).suffix == ".npy" else read(X)
    assert layout is not None
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        container = str(frame.implementation.value)
        names = [int(name) if isinstance(name, Integral) else str(name) for name in frame.columns]
        index = X.index if container == "pandas" else None
        X = frame.to_numpy()
    masked = np.ma.getmaskarray(X) if isinstance(X, np.ma.MaskedArray) else None
    array = np.asarray(X.data if masked is not None else X)
    if array.dtype.kind not in "buif":
        raise TypeError(f"images hold numbers, but X has dtype {array.dtype}; convert it to uint8 or float")
    if array.ndim < 2 or array.shape[1:] not in layout.accepted:
        raise ImageError(_misshapen(array.shape, layout))
    if len(array) < min_rows:
        raise ValueError(f"Found array with {len(array)} sample(s) while a minimum of {min_rows} is required.")
    row_shape, dtype = array.shape[1:], str(array.dtype)
    if masked is not None and masked.any():
        array = np.where(masked, np.nan, array)
    pixels = layout.by_plane(array.reshape(len(array), -1))
    if pixels.dtype.kind == "f":
        infinite = np.isinf(pixels)
        if infinite.any():
            row, place = np.argwhere(infinite)[0]
            raise ImageError(
                f"image {row} holds {pixels[row, place]} ({position(place, layout)}), an infinity; mark it missing "
                "(NaN) or replace it by a finite value"
            )
    return Images(pixels, layout, row_shape, dtype, container, names, index)


def read_folder(folder: Path, layout: Layout | None = None) -> np.ndarray:
    """The image files of a folder, [n, height, width] or [n, height, width, channels].

    Raises
    ------
    ImageError
        If there are none, one cannot be read, or they differ in size or mode.
    ImportError
        Without pillow.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError(
            "reading image files needs pillow, which is not installed: pip install scikit-vae[images]"
        ) from None
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ImageError(f"{folder} holds no image files; expected some of {', '.join(SUFFIXES)}")
    first: tuple[Path, str, tuple[int, ...]] | None = None
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as file:
                mode = _PLAIN_MODES.get(file.mode, file.mode)
                picture = np.asarray(file if mode == file.mode else file.convert(mode))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{path} cannot be read as an image ({error}); repair or remove it") from None
        if first is None:
            first = path, mode, picture.shape
        if mode != first[1]:
            raise ImageError(
                f"{path} has mode {mode}, but {first[0].name} has mode {first[1]}; convert all files to one mode"
            )
        if picture.shape != first[2]:
            raise ImageError(
                f"{path} is {_size(picture.shape)}, but {first[0].name} is {_size(first[2])}; bring all files to one "
                "size"
            )
        if layout is not None and picture.shape != layout.of_files:
            raise ImageError(
                f"{path} is {_size(picture.shape)}, but image_shape={layout.shape}; set image_shape={picture.shape}, "
                "or leave it out"
            )
        pictures.append(picture)
    stacked = np.stack(pictures)
    if layout is None or layout.channels_last or layout.planes[0] == 1:
        return stacked
    return stacked.transpose(0, 3, 1, 2)


def write_folder(planes: np.ndarray, folder: Path) -> None:
    """Write images [n, channels, height, width] of uint8, or of one channel of uint16, to numbered png files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(planes) - 1))
    for k, picture in enumerate(planes):
        grey = len(picture) == 1
        Image.fromarray(picture[0] if grey else picture.transpose(1, 2, 0)).save(folder / f"{k:0{digits}}.png")


def position(place: int, layout: Layout) -> str:
    channels, height, width = layout.planes
    channel, row, column = np.unravel_index(int(place), (channels, height, width))
    where = f"row {row}, column {column}"
    return where if channels == 1 else f"channel {channel}, {where}"


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _misshapen(shape: tuple[int, ...], layout: Layout) -> str:
    text = f"X has shape {shape}, which is not that of images with image_shape={layout.shape}; expected "
    text += " or ".join(f"[n, {', '.join(map(str, row))}]" for row in layout.accepted)
    row = shape[1:]
    if len(row) in (2, 3):
        text += f"; set image_shape={tuple(row)}, if that is what the images are"
    return text
