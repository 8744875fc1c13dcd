"""ImageSchema: what images are, inferred once and checked ever after."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import torch

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.data.image import Images, Layout, position, read_images
from skvae.data.schema import ANY_KIND, Schema
from skvae.data.table import Table
from skvae.exceptions import ImageError

# Grey values are levels of an even grid if there are no more of them; and how far from one, in steps, they may lie.
_MOST_STEPS, _OFF_GRID = 1023, 0.02
_ENTRIES_LOOKED_AT, _IMAGES_AT_ONCE = 2**18, 1024


class ImageSchema:
    """The images seen at fit: their shape, type, and one description of all pixels.

    It stands where a `Schema` stands for tables, with the same methods. All pixels are standardised alike, and those
    that never vary are kept.

    Attributes
    ----------
    layout : Layout
    row_shape : tuple of int
    dtype : str
    pixel : Column
        What every pixel is: its kind, bounds, offset and scale are those over all pixels.
    container : str
    names : list or None
    n_rows : int
    """

    def __init__(
        self,
        layout: Layout,
        row_shape: tuple[int, ...],
        dtype: str,
        pixel: Column,
        container: str,
        names: list[Any] | None,
        n_rows: int,
    ) -> None:
        self.layout, self.row_shape, self.dtype, self.pixel = layout, row_shape, dtype, pixel
        self.container, self.names, self.n_rows = container, names, n_rows

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.layout.planes

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """One per pixel, as they came."""
        names = self.names or [f"x{j}" for j in range(self.layout.n_pixels)]
        return tuple(replace(self.pixel, name=str(name)) for name in names)

    @cached_property
    def modelled(self) -> tuple[Column, ...]:
        """One per pixel, plane after plane: the columns of a `Batch`, in order."""
        order = self.layout.by_plane(np.arange(self.layout.n_pixels)[None])[0]
        return tuple(self.columns[j] for j in order.tolist())

    @classmethod
    def infer(cls, images: Images, allowed: frozenset[Kind] = ANY_KIND) -> ImageSchema:
        """Read off the images what pixels are.

        Two values make them binary; levels on an even grid (uint8, whole numbers, 255ths …) integer, with bounds 0
        and 255 for uint8; all else is continuous.

        Raises
        ------
        ImageError
            If no pixel is observed, or all have the same value.
        """
        pixel = _describe(images, allowed)
        return cls(
            images.layout, images.row_shape, images.dtype, pixel, images.container, images.names, images.n_rows
        )

    def encode(self, images: Images, handle_unknown: str = "error") -> Batch:
        """Encode images of the same shape.

        Parameters
        ----------
        images : Images, n of them
        handle_unknown : {"error", "missing"}
            What to do with a third value in images that had two at fit.

        Returns
        -------
        Batch
            With `values` [n, pixels] and `observed` likewise (None if nothing is missing).

        Raises
        ------
        ImageError
            A pixel that is none of the levels seen at fit, or far beyond their range.
        """
        if images.layout.planes != self.layout.planes:
            raise ImageError(f"the images are {images.layout.planes}, but were {self.layout.planes} at fit")
        pixel, x = self.pixel, images.pixels
        if x.dtype == np.uint8 and self.dtype == "uint8" and pixel.kind != Kind.BINARY:
            every = (np.arange(256) - pixel.offset) / pixel.scale
            return Batch(torch.from_numpy(every.astype(np.float32)[x]))
        values = np.empty(x.shape, dtype=np.float32)
        missing = np.zeros(x.shape, dtype=bool)
        for first in range(0, len(x), _IMAGES_AT_ONCE):
            rows = slice(first, first + _IMAGES_AT_ONCE)
            numbers = x[rows].astype(np.float64)
            values[rows], missing[rows] = self._encoded(numbers, first, handle_unknown)
        has_missing = bool(missing.any())
        if has_missing:
            values[missing] = 0.0
        return Batch(torch.from_numpy(values), torch.from_numpy(~missing) if has_missing else None)

    def _encoded(self, numbers: np.ndarray, first: int, handle_unknown: str) -> tuple[np.ndarray, np.ndarray]:
        """Values and which of them are missing, of images from number `first` on."""
        pixel, missing = self.pixel, np.isnan(numbers)
        if pixel.kind == Kind.BINARY:
            assert pixel.levels is not None
            low, high = (float(level) for level in pixel.levels)
            odd = (numbers != low) & (numbers != high) & ~missing
            if handle_unknown == "error":
                self._refuse(odd, numbers, first, f"only {low:g} and {high:g}")
            return (numbers == high).astype(np.float32), missing | odd
        span = pixel.upper - pixel.lower
        odd = (numbers < pixel.lower - span) | (numbers > pixel.upper + span)
        expected = f"numbers from {pixel.lower:g} to {pixel.upper:g}"
        if pixel.kind == Kind.INTEGER:
            steps = (numbers - pixel.lower) / pixel.resolution
            with np.errstate(invalid="ignore"):
                odd |= np.abs(steps - np.rint(steps)) > 2 * _OFF_GRID
            if self.dtype == "uint8":
                odd |= (numbers < 0) | (numbers > 255)
            expected += f" in steps of {pixel.resolution:g}"
        self._refuse(odd, numbers, first, expected)
        return (numbers - pixel.offset) / pixel.scale, missing

    def _refuse(self, odd: np.ndarray, numbers: np.ndarray, first: int, expected: str) -> None:
        if odd.any():
            row, place = np.argwhere(odd)[0]
            raise ImageError(
                f"image {first + row} holds {numbers[row, place]:g} ({position(place, self.layout)}), but there "
                f"were {expected} at fit; scale the images as they were then, mark the pixel missing (NaN), or refit"
            )

    def changed_columns(self, images: Images) -> list[str]:
        """None: constant pixels are modelled like all others."""
        return []

    def decode(
        self,
        values: torch.Tensor | np.ndarray,
        keep: Images | None = None,
        index: Any = None,
        *,
        identifiers: Any = 0,
    ) -> Any:
        """Decode encoded images.

        Parameters
        ----------
        values : array [n, pixels]
        keep : Images, n of them, optional
            Pixels present here are returned as they are; only holes are filled.
        index : optional
            Row index for a pandas frame; that of `keep` by default.
        identifiers : ignored
            Of columns of tables, which images do not have.

        Returns
        -------
        ndarray [n, *row_shape], or a frame of pixels where those at fit were one, of the dtype seen at fit. Missing
        ones, which a model of missingness draws, are masked where that dtype has no NaN, and make a frame's floats.
        """
        dtype = np.dtype(self.dtype)
        encoded = np.asarray(values)
        pixels = np.empty(encoded.shape, dtype=dtype)
        holes = np.isnan(encoded) & (True if keep is None else np.isnan(keep.pixels))
        for first in range(0, len(encoded), _IMAGES_AT_ONCE):
            rows = slice(first, first + _IMAGES_AT_ONCE)
            numbers = self._numbers(encoded[rows].astype(np.float64))
            if keep is not None:
                present = keep.pixels[rows]
                numbers = np.where(np.isnan(present), numbers, present)
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                numbers = np.clip(np.rint(numbers), limits.min, limits.max)
            if dtype.kind != "f":
                numbers = np.where(holes[rows], 0, numbers)
            pixels[rows] = numbers.astype(dtype)
        answer = self._shaped(pixels)
        masked = self._shaped(holes) if dtype.kind != "f" and holes.any() else None
        if self.container == "numpy":
            return answer if masked is None else np.ma.MaskedArray(answer, masked)
        assert self.names is not None
        if masked is not None:
            answer = np.where(masked, np.nan, answer)
        names = [str(name) for name in self.names]
        frame = nw.from_numpy(answer, schema=names, backend=self.container).to_native()  # type: ignore[arg-type]
        if self.container != "pandas":
            return frame
        if index is None and keep is not None:
            index = keep.index
        frame.columns = self.names
        return frame if index is None else frame.set_axis(index, axis=0)

    def _shaped(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [n, pixels], plane after plane, as they came."""
        return self.layout.as_given(pixels).reshape(len(pixels), *self.row_shape)

    def pictures(self, answer: Any) -> np.ndarray:
        """Images as an estimator answers them, ready to be shown: [n, height, width] or [n, height, width, 3 or 4].

        Values from 0 to 1; channels that are no colours are averaged.
        """
        pixels = read_images(answer, self.layout.shape).pixels.astype(np.float64)
        lower, upper = self._range
        shares = np.clip((pixels - lower) / (upper - lower), 0.0, 1.0).reshape(len(pixels), *self.layout.planes)
        if len(shares[0]) in (3, 4):
            return shares.transpose(0, 2, 3, 1)
        return shares.mean(1)

    def for_files(self, answer: Any) -> np.ndarray:
        """Images as an estimator answers them, ready for png files: [n, channels, height, width].

        Whole numbers that such a file holds are left as they are, in 8 bits or, of one channel, in 16; of all else,
        0 to 1, 0 to 255 or, where neither is the range, that of the images at fit becomes 0 to 255.

        Raises
        ------
        ImageError
            If pixels are missing.
        """
        pixels = read_images(answer, self.layout.shape).pixels.reshape(-1, *self.layout.planes)
        if pixels.dtype.kind == "f" and np.isnan(pixels).any():
            raise ImageError("pixels are missing, which a png file cannot say; write to .npy, .csv or .parquet")
        lower, upper = self._range
        if self.dtype in ("uint8", "uint16") or (np.dtype(self.dtype).kind in "iu" and lower >= 0 and upper > 1):
            if upper <= 255:
                return pixels.astype(np.uint8)
            if upper <= 65_535 and pixels.shape[1] == 1:
                return pixels.astype(np.uint16)
        for top in (1.0, 255.0):
            if lower >= 0 and top / 2 < upper <= top:
                lower, upper = 0.0, top
        shares = np.clip((pixels.astype(np.float64) - lower) / (upper - lower), 0.0, 1.0)
        return np.rint(255 * shares).astype(np.uint8)

    @property
    def _range(self) -> tuple[float, float]:
        """The bounds of pixels at fit."""
        pixel = self.pixel
        lower, upper = (pixel.lower, pixel.upper) if pixel.levels is None else (pixel.levels[0], pixel.levels[-1])
        return float(lower), float(upper)

    def _numbers(self, encoded: np.ndarray) -> np.ndarray:
        """Encoded pixels in the data's units, rounded and cut as those at fit."""
        pixel = self.pixel
        if pixel.kind == Kind.BINARY:
            assert pixel.levels is not None
            low, high = (float(level) for level in pixel.levels)
            return np.where(encoded > 0.5, high, low)
        numbers = np.clip(encoded * pixel.scale + pixel.offset, pixel.lower, pixel.upper)
        if not pixel.resolution:
            return numbers
        steps = np.rint((numbers - pixel.lower) / pixel.resolution)
        if pixel.resolution == 1:
            return pixel.lower + steps
        n_steps = round((pixel.upper - pixel.lower) / pixel.resolution)
        return pixel.lower + steps / n_steps * (pixel.upper - pixel.lower)  # exact for 255ths

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": {
                "image_shape": list(self.layout.shape),
                "row_shape": list(self.row_shape),
                "dtype": self.dtype,
                "pixel": self.pixel.to_dict(),
                "names": self.names,
            },
            "container": self.container,
            "n_rows": self.n_rows,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ImageSchema:
        images = state["images"]
        return cls(
            Layout(tuple(images["image_shape"])),
            tuple(images["row_shape"]),
            images["dtype"],
            Column.from_dict(images["pixel"]),
            state["container"],
            images["names"],
            state["n_rows"],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageSchema) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        pixel = self.pixel
        if pixel.levels is not None:
            content = " and ".join(f"{level:g}" for level in pixel.levels)
        else:
            step = f" in steps of {pixel.resolution:g}" if pixel.resolution else ""
            content = f"{pixel.lower:g} to {pixel.upper:g}{step}"
        missing = f", {pixel.missing:.1%} missing" if pixel.missing else ""
        return (
            f"Schema of {self.n_rows} images {'×'.join(map(str, self.layout.shape))} ({self.container}, {self.dtype})"
            f": {pixel.kind} pixels, {content}{missing}"
        )


def infer_schema(
    raw: Table | Images,
    column_kinds: Mapping[Any, str] | None = None,
    allowed: frozenset[Kind] = ANY_KIND,
    as_they_are: Collection[Any] | None = None,
) -> Schema | ImageSchema:
    """The schema of a table or of images; the arguments are those of `Schema.infer`."""
    if isinstance(raw, Images):
        return ImageSchema.infer(raw, allowed)
    return Schema.infer(raw, column_kinds, allowed, as_they_are)


def schema_from_dict(state: dict[str, Any]) -> Schema | ImageSchema:
    """The inverse of `to_dict` of either schema."""
    return ImageSchema.from_dict(state) if "images" in state else Schema.from_dict(state)


def _describe(images: Images, allowed: frozenset[Kind]) -> Column:
    """The one description of all pixels."""
    x = images.pixels
    if x.dtype == bool:
        x = x.view(np.uint8)
    storage = str(pa.from_numpy_dtype(np.dtype(images.dtype)))
    if x.dtype == np.uint8:
        counts = np.bincount(x.ravel(), minlength=256)
        n_present, levels = x.size, np.flatnonzero(counts).astype(np.float64)
        mean = float(counts @ np.arange(256) / x.size)
        deviation = math.sqrt(counts @ (np.arange(256) - mean) ** 2 / x.size)
        lower, upper = levels[0], levels[-1]
    else:
        lower, upper, n_present, mean, deviation = _moments(x)
        if n_present == 0:
            raise ImageError("no pixel of any image is observed; all are missing")
        levels = None
    if lower == upper:
        raise ImageError(f"every pixel of every image is {lower:g}: there is nothing to learn")
    common = Column("pixel", Kind.CONTINUOUS, images.dtype, storage, missing=1.0 - n_present / x.size)
    share = _share_of_upper(x, lower, upper) if levels is None else counts[int(upper)] / x.size * (len(levels) == 2)
    if Kind.BINARY in allowed and share:
        plain = tuple(int(v) if v == int(v) else float(v) for v in (lower, upper))
        return replace(
            common, kind=Kind.BINARY, levels=plain, offset=float(share), scale=math.sqrt(share * (1 - share))
        )
    described = replace(common, offset=mean, scale=deviation, lower=float(lower), upper=float(upper))
    if images.dtype == "uint8":
        described = replace(described, lower=0.0, upper=255.0)
    resolution = 1.0 if np.dtype(images.dtype).kind in "iub" else _grid(x, lower, upper)
    if resolution and Kind.INTEGER in allowed:
        return replace(described, kind=Kind.INTEGER, resolution=resolution)
    return replace(described, resolution=resolution)


def _moments(x: np.ndarray) -> tuple[float, float, int, float, float]:
    """Smallest and largest pixel, number of those observed, mean and standard deviation."""
    if x.dtype.kind == "f" and np.isnan(x.min()):
        present = ~np.isnan(x)
        n, lower, upper = int(present.sum()), np.nanmin(x) if present.any() else 0.0, 0.0
        if n == 0:
            return 0.0, 0.0, 0, 0.0, 0.0
        upper = np.nanmax(x)
        mean = float(np.nansum(x, dtype=np.float64)) / n
        square = sum(float(np.nansum((piece - mean) ** 2, dtype=np.float64)) for piece in _pieces(x))
    else:
        n, lower, upper = x.size, x.min(), x.max()
        mean = float(x.mean(dtype=np.float64))
        square = sum(float(np.sum((piece - mean) ** 2, dtype=np.float64)) for piece in _pieces(x))
    return float(lower), float(upper), n, mean, math.sqrt(square / n)


def _pieces(x: np.ndarray) -> list[np.ndarray]:
    return [x[first : first + _IMAGES_AT_ONCE] for first in range(0, len(x), _IMAGES_AT_ONCE)]


def _share_of_upper(x: np.ndarray, lower: float, upper: float) -> float:
    """The share of the larger value among pixels that have two; 0 if there are more."""
    n_upper = n_lower = 0
    for piece in _pieces(x):
        n_upper += int((piece == upper).sum())
        n_lower += int((piece == lower).sum())
        if ((piece != upper) & (piece != lower) & (piece == piece)).any():
            return 0.0
    return n_upper / (n_upper + n_lower)


def _grid(x: np.ndarray, lower: float, upper: float) -> float:
    """The step of an even grid on which all pixels lie; 0 if there is none of few enough steps."""
    looked_at = x.ravel()[:_ENTRIES_LOOKED_AT].astype(np.float64)
    distinct = np.unique(np.append(looked_at[~np.isnan(looked_at)], [lower, upper]))
    gaps = np.diff(distinct)
    gaps = gaps[gaps > 1e-6 * (upper - lower)]  # rounding errors apart
    if not len(gaps) or len(distinct) > 4 * _MOST_STEPS:
        return 0.0
    n_steps = round((upper - lower) / float(gaps.min()))
    if n_steps > _MOST_STEPS:
        return 0.0
    step = (upper - lower) / n_steps
    for piece in _pieces(x):
        steps = (piece.astype(np.float64) - lower) / step
        off = np.abs(steps - np.rint(steps))
        if np.nanmax(off, initial=0.0) > _OFF_GRID:
            return 0.0
    return 1.0 if abs(step - 1.0) < 1e-6 else step
