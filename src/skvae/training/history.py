"""What happened during training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class History:
    """A record per epoch, and what was decided about the whole run.

    Attributes
    ----------
    epochs : list of dict
        Each with "epoch", "step" (steps done so far), "seconds" (since the start), "learning_rate",
        "skipped_steps" (in this epoch, for a non-finite gradient) and the means over rows of the loss, the
        bound and every named term, as "train_…" and "validation_…", in nats.
    info : dict
        "best_epoch", "judged" (what was best in it: as a rule the held-out bound, nats; None without held-out rows),
        "stopped" (why), "n_train", "n_validation", "n_steps", "compiled", "device", "threads".

    Examples
    --------
    `history["validation_bound"]` is the list of that value over epochs.
    """

    def __init__(self, epochs: list[dict[str, Any]] | None = None, info: dict[str, Any] | None = None) -> None:
        self.epochs = epochs if epochs is not None else []
        self.info = info if info is not None else {}

    def __getitem__(self, name: str) -> list[Any]:
        if self.epochs and not any(name in record for record in self.epochs):
            raise KeyError(f"the history has no '{name}'; it has {sorted(self.epochs[-1])}")
        return [record.get(name) for record in self.epochs]

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.epochs)

    def to_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "info": self.info}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> History:
        return cls(state["epochs"], state["info"])

    def __repr__(self) -> str:
        if not self.epochs:
            return "History of 0 epochs"
        last = self.epochs[-1]
        shown = [f"{name}={last[name]:.4g}" for name in ("train_bound", "validation_bound") if name in last]
        best = f", best epoch {self.info['best_epoch']}" if self.info.get("best_epoch") else ""
        return f"History of {len(self)} epochs ({', '.join(shown)}{best})"


def summed(record: dict[str, Tensor], weight: Tensor | None) -> Tensor:
    """The sum of the rows' weights, and the weighted sum of each named value [B]: [1 + names]."""
    values = torch.stack(list(record.values()))
    w = torch.ones_like(values[0]) if weight is None else weight
    return torch.cat([w.sum().unsqueeze(0), values @ w])


class Tally:
    """Means over the rows of many steps; values stay on the device until `look`."""

    def __init__(self) -> None:
        self.skipped_in_a_row = 0
        self.clear()

    def clear(self) -> None:
        """Begin a new mean; the run of skipped steps goes on."""
        self._pending: list[Tensor] = []
        self._names: list[str] = []
        self._sums: dict[str, float] = {}
        self._weight = 0.0
        self.skipped = 0

    def add(self, names: list[str], summary: Tensor, norm: Tensor) -> None:
        """One step: names, their `summed` values, and the gradient norm."""
        self._names = names
        self._pending += [norm.view(1), summary]

    def look(self) -> None:
        """Fetch what was added since the last look, in one go; steps with a non-finite norm are left out."""
        names = self._names
        fetched = torch.cat(self._pending).view(-1, 2 + len(names)).tolist()
        self._pending = []
        for norm, weight_sum, *sums in fetched:
            if not math.isfinite(norm):
                self.skipped += 1
                self.skipped_in_a_row += 1
                continue
            self.skipped_in_a_row = 0
            self._weight += weight_sum
            for name, value in zip(names, sums, strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Weighted means by name; NaN if every step was skipped."""
        return {name: value / self._weight for name, value in self._sums.items()} or {"bound": math.nan}
