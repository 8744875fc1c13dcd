"""What the displays of `skvae.plotting` are made with: colours, tiles, bars, entries of columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted, check_random_state

from skvae.data.columns import NUMERIC, Column, Kind
from skvae.data.table import missing_entries

REAL, MODEL, MUTED = "#4878a8", "#e07b39", "#b8b8b8"

# A colour column of whole numbers with more values than this is a quantity.
MAX_CLASSES = 20
_MAX_BARS, _MAX_BINS, _BAR_NAME = 12, 30, 14
_LONG = 200 * 86_400e6  # µs from which on dates are shown by their month


class Display:
    """What all displays share: the axes that they draw into.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Of a display with several panels, the axes that they take the place of.
    axes_ : ndarray of Axes
        The panels.
    figure_ : matplotlib Figure
    """

    ax_: Any
    axes_: np.ndarray
    figure_: Any

    def _legend(self, panels: Sequence[Any]) -> None:
        """A legend beside the panel at the end of the first row."""
        panels[min(2, len(panels) - 1)].legend(
            *panels[0].get_legend_handles_labels(),
            frameon=False,
            fontsize="small",
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )

    def _open(
        self, ax: Any, n_panels: int = 1, size: tuple[float, float] = (5.0, 4.2), columns: int = 3
    ) -> list[Any]:
        """Axes for so many panels of this size in inches, within `ax` if that is given."""
        pyplot = import_pyplot()
        n_columns = min(n_panels, columns)
        n_rows = math.ceil(n_panels / n_columns)
        if ax is None:
            _, ax = pyplot.subplots(figsize=(size[0] * n_columns, size[1] * n_rows), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        if n_panels == 1:
            self.axes_ = np.array([ax])
            return [ax]
        ax.set_axis_off()
        place = ax.get_subplotspec()
        if place is None:  # axes put where the caller wanted them
            panels = [
                ax.inset_axes(
                    (
                        (k % n_columns + 0.1) / n_columns,
                        1 - (k // n_columns + 0.9) / n_rows,
                        0.8 / n_columns,
                        0.7 / n_rows,
                    )
                )
                for k in range(n_panels)
            ]
        else:
            grid = place.subgridspec(n_rows, n_columns)
            panels = [self.figure_.add_subplot(grid[k // n_columns, k % n_columns]) for k in range(n_panels)]
        self.axes_ = np.array(panels)
        return panels


def import_pyplot() -> Any:
    """matplotlib.pyplot, or an error that says how to get it."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("plots need matplotlib, which is not installed: pip install scikit-vae[plot]") from None
    return pyplot


def vae_of(estimator: Any) -> Any:
    """The fitted VAE that an estimator is or has."""
    check_is_fitted(estimator)
    return getattr(estimator, "vae_", estimator)


def selected(n: int, most: int | None, random_state: Any) -> np.ndarray:
    """Positions of at most so many of n rows, in order."""
    if most is None or n <= most:
        return np.arange(n)
    return np.sort(check_random_state(random_state).choice(n, most, replace=False))


def rows_at(X: Any, index: np.ndarray) -> Any:
    """The rows of an array, a list or a data frame at these positions."""
    if len(index) == len(X):
        return X
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return frame[index.tolist()].to_native()
    return X[index] if isinstance(X, np.ndarray) else [X[i] for i in index]


def projected(latents: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """One or two latents as they are, more of them by their principal components; and names of the axes."""
    n = latents.shape[1]
    if n <= 2:
        return latents, [f"latent {k}" for k in range(n)]
    pca = PCA(2).fit(latents)
    shares = pca.explained_variance_ratio_
    names = [f"principal component {k + 1} of {n} latents ({share:.0%})" for k, share in enumerate(shares)]
    return pca.transform(latents), names


def as_color(color: Any) -> np.ndarray:
    """Classes as an object array with None where missing, quantities as floats with NaN."""
    entries = np.asarray(color)
    if entries.ndim != 1:
        raise ValueError(f"color has shape {entries.shape}; expected one entry per row")
    if entries.dtype.kind == "M":
        numbers = entries.astype("datetime64[D]").astype(np.float64)
        return np.where(np.isnat(entries), np.nan, numbers)
    if entries.dtype.kind in "iuf":
        numbers = entries.astype(np.float64)
        present = numbers[~np.isnan(numbers)]
        whole = (present == np.rint(present)).all()
        if not whole or len(np.unique(present)) > MAX_CLASSES:
            return numbers
        return np.array([None if np.isnan(number) else int(number) for number in numbers], dtype=object)
    found = np.empty(len(entries), dtype=object)
    found[:] = entries.tolist()
    found[missing_entries(entries)] = None
    return found


def sort_key(label: Any) -> tuple[bool, Any]:
    return (False, label) if isinstance(label, (int, float)) else (True, str(label))


def colours(n: int) -> list[Any]:
    """So many colours that are told apart."""
    from matplotlib import colormaps

    if n <= 10:
        return list(colormaps["tab10"].colors[:n])  # type: ignore[attr-defined]
    if n <= 20:
        return list(colormaps["tab20"].colors[:n])  # type: ignore[attr-defined]
    return list(colormaps["turbo"](np.linspace(0.02, 0.98, n)))


def tiled(images: np.ndarray, across: int) -> np.ndarray:
    """Images in rows of so many, with gaps of one pixel; NaN shows the paper."""
    height, width, *channels = images.shape[1:]
    gap = 1 if max(height, width) < 64 else 2
    n_rows = -(-len(images) // across)
    canvas = np.full((n_rows * (height + gap), across * (width + gap), *channels), np.nan)
    for k, image in enumerate(images):
        top, left = k // across * (height + gap), k % across * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def stacked(pictures: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """Pictures of one width, one below the other, with so many empty rows after each but the last."""
    spaces = [np.full((gap, *picture.shape[1:]), np.nan) for picture in pictures]
    pieces = [piece for pair in zip(pictures, spaces, strict=True) for piece in pair]
    return np.concatenate(pieces[:-1])


def size_of(picture: np.ndarray) -> tuple[float, float]:
    """Inches in which a picture is well seen, without stretching it."""
    height, width = picture.shape[:2]
    inches = float(np.clip(width / 22, 4.5, 9.0))
    return inches, float(np.clip(inches * height / width, 1.2, 11.0)) + 0.3


def show(ax: Any, picture: np.ndarray) -> None:
    """A picture of values from 0 to 1: grey, or of three or four colours."""
    if picture.ndim == 3:
        if picture.shape[2] == 3:
            alpha = np.where(np.isnan(picture).any(2, keepdims=True), 0.0, 1.0)
            picture = np.concatenate([picture, alpha], axis=2)
        picture = np.nan_to_num(picture)
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()


def bare(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def picked(columns: Sequence[Column], names: Sequence[str] | None, n: int) -> list[int]:
    """Positions of columns by name, or of the first n."""
    if names is None:
        return list(range(min(n, len(columns))))
    known = [column.name for column in columns]
    for name in names:
        if str(name) not in known:
            raise ValueError(f"columns names '{name}', which is no column that varies; these are {known[:10]}")
    return [known.index(str(name)) for name in names]


def entries(vae: Any, X: Any) -> np.ndarray:
    """Numbers in the data's units and codes of the modelled columns, [n, C]; NaN where missing."""
    rows = vae._rows(X)
    values = rows.values.cpu().double().numpy()
    columns = vae.schema_.modelled
    offset = np.array([c.offset if c.kind in NUMERIC else 0.0 for c in columns])
    scale = np.array([c.scale if c.kind in NUMERIC else 1.0 for c in columns])
    values = values * scale + offset
    if rows.observed is not None:
        values[~rows.observed.cpu().numpy()] = np.nan
    return values


def bars(column: Column, codes: np.ndarray) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """Names of the levels, the rarer of many put together, and a function from codes to positions among them."""
    assert column.levels is not None
    counts = np.bincount(codes.astype(np.int64), minlength=column.cardinality)
    kept = np.arange(column.cardinality)
    if column.cardinality > _MAX_BARS:
        kept = np.sort(np.argsort(-counts, kind="stable")[: _MAX_BARS - 1])
    position = np.full(column.cardinality, len(kept))
    position[kept] = np.arange(len(kept))
    names = [str(column.levels[k]) for k in kept] + (["others"] if len(kept) < column.cardinality else [])
    short = [name if len(name) <= _BAR_NAME else f"{name[: _BAR_NAME - 1]}…" for name in names]
    return short, lambda x: position[np.clip(np.rint(x), 0, column.cardinality - 1).astype(np.int64)]


def edges(column: Column, x: np.ndarray) -> np.ndarray:
    """Edges of bins for real entries, each of as many whole numbers as the others."""
    low, high = float(x.min()), float(x.max())
    # A few entries far out would leave one bin for all others.
    near, far = np.quantile(x, [0.005, 0.995])
    if column.kind == Kind.INTEGER:
        width = np.ceil((far - near + 1) / _MAX_BINS)
        return np.arange(np.floor(near), far + width + 1, width) - 0.5
    return np.linspace(near, far, _MAX_BINS + 1) if far > near else np.linspace(low, high, _MAX_BINS + 1)


def label_dates(ax: Any, column: Column, axis: str) -> None:
    """Dates in place of microseconds since 1970."""
    if column.kind != Kind.DATE:
        return
    unit = "M" if column.upper - column.lower > _LONG else "D"

    def text(value: float, _: int) -> str:
        return str(np.datetime64(int(value), "us").astype(f"datetime64[{unit}]"))

    for name in ("x", "y") if axis == "both" else (axis,):
        its = getattr(ax, f"{name}axis")
        its.set_major_formatter(text)
        ax.tick_params(axis=name, labelrotation=30, labelsize="x-small")
        ax.locator_params(axis=name, nbins=4)
