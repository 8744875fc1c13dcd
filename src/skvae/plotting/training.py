"""How training went."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from skvae.plotting.drawing import MODEL, MUTED, Display, bare, vae_of


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
        for (name, values), colour in zip(self.curves.items(), (MUTED, MODEL), strict=False):
            ax.plot(np.arange(1, len(values) + 1), values, color=colour, label=name.split("_")[0], linewidth=1.6)
        n_epochs = len(next(iter(self.curves.values())))
        if len(self.curves) > 1 and self.best_epoch < n_epochs:
            ax.axvline(self.best_epoch, color="0.3", linewidth=0.8, linestyle=":", label=f"best, {self.best_epoch}")
        late = np.concatenate([values[len(values) // 10 :] for values in self.curves.values()])
        late = late[np.isfinite(late)]  # epochs of `partial_fit` have no held-out rows
        if n_epochs >= 10 and len(late):
            margin = 0.06 * max(np.ptp(late), 1e-9)
            ax.set_ylim(late.min() - margin, late.max() + margin)
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{next(iter(self.curves)).partition('_')[2]}, nats per row")
        ax.legend(frameon=False)
        bare(ax)
        return self
