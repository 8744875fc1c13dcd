"""Plots of a fitted model, in scikit-learn's style: `from_estimator` computes and draws, `plot` draws again.

Every display keeps what it shows as attributes, draws into the axes that it is given (or a figure of its own), and
changes no setting of matplotlib's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_random_state

from skvae.data.columns import Column, Kind
from skvae.data.image_schema import ImageSchema
from skvae.drawing import (
    MAX_CLASSES,
    Display,
    as_color,
    bare,
    bars,
    colours,
    edges,
    entries,
    label_dates,
    picked,
    projected,
    selected,
    show,
    size_of,
    sort_key,
    stacked,
    tiled,
    vae_of,
)

__all__ = [
    "LatentMapDisplay",
    "ReconstructionDisplay",
    "SampleGridDisplay",
    "TrainingCurveDisplay",
    "TraversalDisplay",
]

_REAL, _MODEL, _MUTED = "#4878a8", "#e07b39", "#b8b8b8"


class LatentMapDisplay(Display):
    """Rows where the encoder puts them, in two dimensions.

    Parameters
    ----------
    positions : ndarray [n, 2] or [n, 1]
    axis_labels : sequence of str
    color : ndarray [n] or None
        Classes or numbers; those that are missing are grey.
    color_label : str
    """

    def __init__(
        self, *, positions: np.ndarray, axis_labels: Sequence[str], color: Any = None, color_label: str = ""
    ) -> None:
        self.positions, self.axis_labels, self.color, self.color_label = positions, axis_labels, color, color_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        color: Any = None,
        color_label: str | None = None,
        max_rows: int | None = 5_000,
        random_state: Any = 0,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Map the rows of X.

        Parameters
        ----------
        estimator : fitted VAE, or an estimator that has one
        X : array, data frame or images, n rows
        color : array-like [n], optional
            Text, truth values and few whole numbers are classes, with a legend; else numbers, with a colour bar.
        color_label : str, optional
            Title of the legend; by default the name of `color`, if it has one.
        max_rows : int or None
            A random selection of so many rows is drawn.
        random_state : int, RandomState or None
            Of the selection.
        ax : matplotlib Axes, optional
        **kwargs
            For `scatter`.

        Returns
        -------
        display
        """
        vae = vae_of(estimator)
        latents = vae.transform(X)
        if color is not None and len(color) != len(latents):
            raise ValueError(f"color has {len(color)} entries for {len(latents)} rows; give one for each row of X")
        label = color_label if color_label is not None else str(getattr(color, "name", None) or "")
        values = None if color is None else as_color(color)
        rows = selected(len(latents), max_rows, random_state)
        positions, axis_labels = projected(latents)
        display = cls(
            positions=positions[rows],
            axis_labels=axis_labels,
            color=None if values is None else values[rows],
            color_label=label,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax: Any = None, cmap: str = "viridis", **kwargs: Any) -> Self:
        """Draw; a single latent against a random height.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        cmap : str
            Colours of numbers.
        **kwargs
            For `scatter`.
        """
        (ax,) = self._open(ax, size=(5.8, 4.6))
        x = self.positions[:, 0]
        flat = self.positions.shape[1] == 1
        y = check_random_state(0).uniform(size=len(x)) if flat else self.positions[:, 1]
        style = {"s": float(np.clip(12_000 / max(len(x), 1), 4, 28)), "alpha": 0.8, "linewidths": 0} | kwargs
        if self.color is None:
            ax.scatter(x, y, **{"color": _REAL, **style})
        elif self.color.dtype == object:
            self._scatter_classes(ax, x, y, style)
        else:
            known = ~np.isnan(self.color)
            ax.scatter(x[~known], y[~known], color=_MUTED, **style)
            drawn = ax.scatter(x[known], y[known], c=self.color[known], cmap=cmap, **style)
            bar = self.figure_.colorbar(drawn, ax=ax, label=self.color_label)
            bar.outline.set_visible(False)
            bar.solids.set_alpha(1)
        ax.set_xlabel(self.axis_labels[0])
        ax.set_ylabel("" if flat else self.axis_labels[1])
        if flat:
            ax.set_yticks([])
        bare(ax)
        return self

    def _scatter_classes(self, ax: Any, x: np.ndarray, y: np.ndarray, style: dict[str, Any]) -> None:
        missing = np.array([label is None for label in self.color])
        labels = sorted({label for label in self.color if label is not None}, key=sort_key)
        palette = colours(len(labels))
        if missing.any():
            ax.scatter(x[missing], y[missing], color=_MUTED, label="missing", **style)
        for label, colour in zip(labels, palette, strict=True):
            its = np.array([entry == label for entry in self.color])
            ax.scatter(x[its], y[its], **{"color": [colour], "label": str(label), **style})
        legend = ax.legend(
            title=self.color_label or None,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            handletextpad=0.1,
            ncols=1 if len(labels) <= MAX_CLASSES else 2,
        )
        for handle in legend.legend_handles:
            handle.set(alpha=1, sizes=[28])


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
            original = schema.pictures(X)[:n_images]
            return cls(original=original, reconstructed=schema.pictures(vae.reconstruct(X))[:n_images]).plot(ax=ax)
        shown = picked(schema.modelled, columns, n_columns)
        original, reconstructed = entries(vae, X), entries(vae, vae.reconstruct(X))
        rows = selected(len(original), max_rows, random_state)
        return cls(
            original=original[rows][:, shown],
            reconstructed=reconstructed[rows][:, shown],
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
        if not column.is_discrete:
            low, high = np.nanmin([x, y]), np.nanmax([x, y])
            ax.plot([low, high], [low, high], color=_MUTED, linewidth=1, zorder=0)
            ax.scatter(x, y, s=8, alpha=0.5, linewidths=0, color=_MODEL)
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
                for shift, x, colour, label in ((-0.2, real, _REAL, "real"), (0.2, new, _MODEL, "sampled")):
                    share = np.bincount(codes(x), minlength=len(names)) / max(len(x), 1)
                    ax.bar(places + shift, share, 0.4, color=colour, label=label)
                ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
                ax.set_ylabel("share")
            else:
                bins = edges(column, real)
                for x, colour, label in ((real, _REAL, "real"), (new, _MODEL, "sampled")):
                    style = {"alpha": 0.45} if label == "real" else {"histtype": "step", "linewidth": 1.6}
                    ax.hist(np.clip(x, bins[0], bins[-1]), bins, density=True, color=colour, label=label, **style)
                ax.set_yticks([])
                ax.set_ylabel("density")
                label_dates(ax, column, "x")
            ax.set_title(column.name, fontsize="medium")
            bare(ax)
        self._legend(panels)
        return self


class TraversalDisplay(Display):
    """What changes when one latent does, the others staying where they are.

    Parameters
    ----------
    steps : ndarray [T]
        Values of the latent.
    decoded : ndarray
        Images [L, T, …] for each of L latents; of a table expected values [L, T, C], in standard deviations of the
        columns.
    latents : sequence of int
    columns : sequence of Column or None
        Of a table.
    """

    def __init__(
        self,
        *,
        steps: np.ndarray,
        decoded: np.ndarray,
        latents: Sequence[int],
        columns: Sequence[Column] | None = None,
    ) -> None:
        self.steps, self.decoded, self.latents, self.columns = steps, decoded, latents, columns

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        latents: Sequence[int] | None = None,
        n_latents: int = 6,
        n_steps: int = 11,
        span: float = 2.5,
        n_columns: int = 6,
        ax: Any = None,
    ) -> Self:
        """Walk along latents.

        Parameters
        ----------
        estimator : fitted VAE, or an estimator that has one
        X : array, data frame or images, optional
            The walk starts from the mean latents of these rows, goes `span` of their standard deviations to both
            sides, and is made along the latents in which they differ most. Without X: from 0, along the first ones.
        latents : sequence of int, optional
            Which ones, in place of the `n_latents` chosen.
        n_steps : int
        span : float
        n_columns : int
            Of a table, how many columns are drawn for each latent, those that change most.
        ax : matplotlib Axes, optional

        Returns
        -------
        display
        """
        vae = vae_of(estimator)
        n = vae.model_.latent_dim
        means = np.zeros((1, n)) if X is None else vae.transform(X)
        centre, spread = means.mean(0), (np.ones(n) if X is None else np.maximum(means.std(0), 1e-3))
        if latents is None:
            order = np.arange(n) if X is None else np.argsort(-spread, kind="stable")
            latents = sorted(order[:n_latents].tolist())
        if wrong := [k for k in latents if not 0 <= k < n]:
            raise ValueError(f"latents={list(latents)!r}: there is no latent {wrong[0]}; the model has {n}")
        steps = np.linspace(-span, span, n_steps)
        z = np.tile(centre, (len(latents), n_steps, 1))
        for row, k in enumerate(latents):
            z[row, :, k] += steps * spread[k]
        answers = vae.inverse_transform(z.reshape(-1, n).astype(np.float32))
        schema = vae.schema_
        if isinstance(schema, ImageSchema):
            pictures = schema.pictures(answers)
            return cls(
                steps=steps, decoded=pictures.reshape(len(latents), n_steps, *pictures.shape[1:]), latents=latents
            ).plot(ax=ax)
        # Nominal levels have no order in which they could rise or fall.
        shown = [j for j, column in enumerate(schema.modelled) if column.kind != Kind.CATEGORICAL]
        if not shown:
            raise ValueError("a traversal needs columns of numbers or of ordered levels, and the table has none")
        columns = [schema.modelled[j] for j in shown]
        offset, scale = (np.array([getattr(c, name) for c in columns]) for name in ("offset", "scale"))
        numbers = ((entries(vae, answers)[:, shown] - offset) / scale).reshape(len(latents), n_steps, -1)
        return cls(steps=steps, decoded=numbers, latents=latents, columns=columns).plot(ax=ax, n_columns=n_columns)

    def plot(self, *, ax: Any = None, n_columns: int = 6) -> Self:
        """Draw."""
        if self.columns is None:
            rows = [tiled(images, len(images)) for images in self.decoded]
            picture = stacked(rows, 0)
            (ax,) = self._open(ax, size=size_of(picture))
            show(ax, picture)
            height = len(rows[0])
            ax.set_axis_on()
            ax.spines[:].set_visible(False)
            ax.set_yticks(height * (np.arange(len(rows)) + 0.5) - 0.5, [f"latent {k}" for k in self.latents])
            width = picture.shape[1] / len(self.steps)
            some = sorted({0, len(self.steps) // 2, len(self.steps) - 1})
            ax.set_xticks([width * (k + 0.5) - 0.5 for k in some], [f"{self.steps[k]:+.1f} σ" for k in some])
            ax.tick_params(length=0)
            return self
        most = np.argsort(-np.ptp(self.decoded, axis=1).max(0), kind="stable")[:n_columns]
        palette = colours(len(most))
        panels = self._open(ax, len(self.latents), (3.2, 2.6))
        for panel, k, values in zip(panels, self.latents, self.decoded, strict=True):
            for j, colour in zip(most, palette, strict=True):
                panel.plot(self.steps, values[:, j], color=colour, label=self.columns[j].name)
            panel.set_title(f"latent {k}", fontsize="medium")
            panel.set_ylim(self.decoded[..., most].min() - 0.1, self.decoded[..., most].max() + 0.1)
            panel.set_xlabel("latent, in σ", fontsize="small")
            bare(panel)
        panels[0].set_ylabel("columns, in σ", fontsize="small")
        self._legend(panels)
        return self


class TrainingCurveDisplay(Display):
    """A term of the objective over the epochs, of training and of held-out rows.

    Parameters
    ----------
    curves : dict of str to ndarray
        Values per epoch by name; those of training begin with "train_".
    best_epoch : int
        That whose weights were kept.
    """

    def __init__(self, *, curves: dict[str, np.ndarray], best_epoch: int) -> None:
        self.curves, self.best_epoch = curves, best_epoch

    @classmethod
    def from_estimator(cls, estimator: Any, *, term: str = "bound", ax: Any = None) -> Self:
        """Show how training went.

        Parameters
        ----------
        estimator : fitted VAE, or an estimator that has one
        term : str
            "bound", "loss", or another named term of the history.
        ax : matplotlib Axes, optional

        Returns
        -------
        display
        """
        history = vae_of(estimator).history_
        names = [f"{part}_{term}" for part in ("train", "validation")]
        found = {name: np.array(history[name], dtype=float) for name in names if name in history.epochs[-1]}
        if not found:
            known = sorted(n.removeprefix("train_") for n in history.epochs[-1] if n.startswith("train_"))
            raise ValueError(f"term={term!r}: the history has no such term; it has {known}")
        return cls(curves=found, best_epoch=history.info["best_epoch"]).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw; the first epochs may lie below the frame."""
        (ax,) = self._open(ax, size=(5.6, 3.8))
        for (name, values), colour in zip(self.curves.items(), (_MUTED, _MODEL), strict=False):
            ax.plot(np.arange(1, len(values) + 1), values, color=colour, label=name.split("_")[0], linewidth=1.6)
        n_epochs = len(next(iter(self.curves.values())))
        if len(self.curves) > 1 and self.best_epoch < n_epochs:
            ax.axvline(self.best_epoch, color="0.3", linewidth=0.8, linestyle=":", label=f"best, {self.best_epoch}")
        late = np.concatenate([values[len(values) // 10 :] for values in self.curves.values()])
        margin = 0.06 * max(np.ptp(late), 1e-9)
        if n_epochs >= 10:
            ax.set_ylim(late.min() - margin, late.max() + margin)
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{next(iter(self.curves)).partition('_')[2]}, nats per row")
        ax.legend(frameon=False)
        bare(ax)
        return self
