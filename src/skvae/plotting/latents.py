"""Where rows lie among the latents, and what a latent does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_random_state

from skvae.data.columns import Column, Kind
from skvae.data.image_schema import ImageSchema
from skvae.plotting.drawing import (
    MAX_CLASSES,
    MUTED,
    REAL,
    Display,
    as_color,
    bare,
    colours,
    entries,
    projected,
    selected,
    show,
    size_of,
    sort_key,
    stacked,
    tiled,
    vae_of,
)


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
            ax.scatter(x, y, **{"color": REAL, **style})
        elif self.color.dtype == object:
            self._scatter_classes(ax, x, y, style)
        else:
            known = ~np.isnan(self.color)
            ax.scatter(x[~known], y[~known], color=MUTED, **style)
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
            ax.scatter(x[missing], y[missing], color=MUTED, label="missing", **style)
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
