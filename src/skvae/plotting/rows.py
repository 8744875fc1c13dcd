"""Rows beside what the model makes of them, and beside those it draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from skvae.data.columns import Column
from skvae.data.image_schema import ImageSchema
from skvae.data.source import opened
from skvae.plotting.drawing import (
    MODEL,
    MUTED,
    REAL,
    Display,
    bare,
    bars,
    edges,
    entries,
    label_dates,
    picked,
    rows_at,
    selected,
    show,
    size_of,
    stacked,
    tiled,
    vae_of,
)


class ReconstructionDisplay(Display):
    """What the latents retain: images above their reconstructions, or columns against theirs.

    Parameters
    ----------
    original, reconstructed : ndarray
        Images [n, height, width] or [n, height, width, 3], from 0 to 1; of a table numbers or codes [n, C], NaN where
        missing.
    columns : sequence of Column or None
        Of a table.
    """

    def __init__(
        self, *, original: np.ndarray, reconstructed: np.ndarray, columns: Sequence[Column] | None = None
    ) -> None:
        self.original, self.reconstructed, self.columns = original, reconstructed, columns

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_images: int = 20,
        columns: Sequence[str] | None = None,
        n_columns: int = 6,
        max_rows: int | None = 2_000,
        random_state: Any = 0,
        ax: Any = None,
    ) -> Self:
        """Reconstruct rows of X.

        Parameters
        ----------
        estimator : fitted VAE, or an estimator that has one
        X : array, data frame or images
        n_images : int
            How many images are shown, the first ones.
        columns : sequence of str, optional
            Columns of a table to be shown; else the first `n_columns`.
        max_rows : int or None
            Of a table, a random selection of so many rows is drawn.
        random_state : int, RandomState or None
        ax : matplotlib Axes, optional

        Returns
        -------
        display
        """
        vae = vae_of(estimator)
        schema = vae.schema_
        if isinstance(schema, ImageSchema):
            images = vae._table(X)
            first = replace(images, pixels=images.pixels[:n_images], index=None)
            return cls(original=schema.pictures(first), reconstructed=schema.pictures(vae.reconstruct(first))).plot(
                ax=ax
            )
        shown = picked(schema.modelled, columns, n_columns)
        X = opened(X, schema)
        rows = rows_at(X, selected(len(X), max_rows, random_state))
        return cls(
            original=entries(vae, rows)[:, shown],
            reconstructed=entries(vae, vae.reconstruct(rows))[:, shown],
            columns=[schema.modelled[j] for j in shown],
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw."""
        if self.columns is None:
            across = min(10, len(self.original))
            pairs = [
                part
                for first in range(0, len(self.original), across)
                for part in (
                    tiled(self.original[first : first + across], across),
                    tiled(self.reconstructed[first : first + across], across),
                )
            ]
            bands = [stacked(pairs[k : k + 2], 0) for k in range(0, len(pairs), 2)]
            (ax,) = self._open(ax, size=size_of(stacked(bands, 4)))
            show(ax, stacked(bands, 4))
            ax.set_title("each image above its reconstruction", loc="left", fontsize="medium")
            return self
        panels = self._open(ax, len(self.columns), (3.2, 3.0))
        for j, (panel, column) in enumerate(zip(panels, self.columns, strict=True)):
            self._plot_column(panel, column, self.original[:, j], self.reconstructed[:, j])
        return self

    def _plot_column(self, ax: Any, column: Column, x: np.ndarray, y: np.ndarray) -> None:
        present = ~np.isnan(x)
        x, y = x[present], y[present]
        ax.set_xlabel("original")
        ax.set_ylabel("reconstructed")
        if not column.is_discrete and len(x) == 0:
            ax.set_title(f"{column.name}, no entry", fontsize="medium")
            bare(ax)
            return
        if not column.is_discrete:
            low, high = np.nanmin([x, y]), np.nanmax([x, y])
            ax.plot([low, high], [low, high], color=MUTED, linewidth=1, zorder=0)
            ax.scatter(x, y, s=8, alpha=0.5, linewidths=0, color=MODEL)
            spread = x.std() * y.std()
            share = f", r = {np.mean((x - x.mean()) * (y - y.mean())) / spread:.2f}" if spread > 0 else ""
            ax.set_title(f"{column.name}{share}", fontsize="medium")
            label_dates(ax, column, "both")
            bare(ax)
            return
        names, codes = bars(column, x)
        table = np.zeros((len(names), len(names)))
        np.add.at(table, (codes(y), codes(x)), 1.0)
        total = table.sum(0, keepdims=True)
        ax.imshow(table / np.maximum(total, 1), cmap="Oranges", vmin=0, vmax=1, origin="lower", aspect="auto")
        ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names)
        ax.set_title(f"{column.name}, {np.trace(table) / max(table.sum(), 1):.0%} alike", fontsize="medium")


class SampleGridDisplay(Display):
    """New images side by side; of a table, columns of new rows against those of real ones.

    Parameters
    ----------
    samples : ndarray
        Images, or numbers and codes, as in `ReconstructionDisplay`.
    real : ndarray or None
        Rows of a table to compare with.
    columns : sequence of Column or None
        Of a table.
    """

    def __init__(
        self, *, samples: np.ndarray, real: np.ndarray | None = None, columns: Sequence[Column] | None = None
    ) -> None:
        self.samples, self.real, self.columns = samples, real, columns

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        n_samples: int | None = None,
        decode: str | None = None,
        columns: Sequence[str] | None = None,
        n_columns: int = 6,
        random_state: Any = 0,
        ax: Any = None,
    ) -> Self:
        """Draw new rows.

        Parameters
        ----------
        estimator : fitted VAE, or an estimator that has one
        X : array or data frame
            Real rows, needed for a table.
        n_samples : int, optional
            64 images, or as many rows as X has.
        decode : {"mean", "draw"}, optional
            As in `VAE.sample`; means of images and draws of tables by default.
        columns : sequence of str, optional
            Columns of a table to be shown; else the first `n_columns`.
        random_state : int, RandomState or None
        ax : matplotlib Axes, optional

        Returns
        -------
        display
        """
        vae = vae_of(estimator)
        schema = vae.schema_
        if isinstance(schema, ImageSchema):
            new = vae.sample(n_samples or 64, decode=decode or "mean", random_state=random_state)
            return cls(samples=schema.pictures(new)).plot(ax=ax)
        if X is None:
            raise ValueError("samples of a table are shown beside real rows; pass X")
        real = entries(vae, X)
        new = vae.sample(n_samples or len(real), decode=decode or "draw", random_state=random_state)
        shown = picked(schema.modelled, columns, n_columns)
        return cls(
            samples=entries(vae, new)[:, shown],
            real=real[:, shown],
            columns=[schema.modelled[j] for j in shown],
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw."""
        if self.columns is None or self.real is None:
            across = math.ceil(math.sqrt(len(self.samples)))
            picture = tiled(self.samples, across)
            (ax,) = self._open(ax, size=size_of(picture))
            show(ax, picture)
            return self
        panels = self._open(ax, len(self.columns), (3.2, 2.6))
        for j, (ax, column) in enumerate(zip(panels, self.columns, strict=True)):
            real, new = (x[~np.isnan(x[:, j]), j] for x in (self.real, self.samples))
            if column.is_discrete:
                names, codes = bars(column, real)
                places = np.arange(len(names))
                for shift, x, colour, label in ((-0.2, real, REAL, "real"), (0.2, new, MODEL, "sampled")):
                    share = np.bincount(codes(x), minlength=len(names)) / max(len(x), 1)
                    ax.bar(places + shift, share, 0.4, color=colour, label=label)
                ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
                ax.set_ylabel("share")
            else:
                bins = edges(column, real if len(real) else new)
                for x, colour, label in ((real, REAL, "real"), (new, MODEL, "sampled")):
                    style = {"alpha": 0.45} if label == "real" else {"histtype": "step", "linewidth": 1.6}
                    clipped = np.clip(x, bins[0], bins[-1])
                    ax.hist(clipped, bins, density=len(x) > 0, color=colour, label=label, **style)
                ax.set_yticks([])
                ax.set_ylabel("density")
                label_dates(ax, column, "x")
            ax.set_title(column.name, fontsize="medium")
            bare(ax)
        self._legend(panels)
        return self
