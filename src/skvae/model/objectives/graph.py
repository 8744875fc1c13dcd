"""What regularisers on the graph of nearest neighbours have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.checks import check, check_weight, check_whole, is_number
from skvae.model.neighbour_graph import Projection, nearest
from skvae.model.objectives.base import Penalty
from skvae.model.objectives.sums import Regulariser
from skvae.model.oriented_gradients import has_outlines, oriented_gradients
from skvae.model.vae import LatentVariableModel, Terms

_ROWS_AT_ONCE = 8192
SPACES = ("rows", "latents")


class OnGraph(Regulariser):
    """A regulariser on the graph of the nearest neighbours of training rows.

    Parameters
    ----------
    weight : float
        Nats per nat of the term and column.
    n_neighbors : int
    space : {"rows", "latents"}
        Where neighbours are near: as the encoder sees rows, or at the posterior means of the model as it is then.
    hog : float
        Of images, share of their histograms of oriented gradients in the squared distance.
    """

    compares_latents = False

    def __init__(self, weight: float, n_neighbors: int, space: str, hog: float) -> None:
        super().__init__()
        self.weight = weight
        self.n_neighbors = n_neighbors
        self.space = space
        self.hog = hog

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check_weight(self, "weight")
        check_whole(self, "n_neighbors", 1)
        check(self, "space", lambda v: v in SPACES, f"one of {SPACES}")
        check(self, "hog", lambda v: is_number(v) and 0 <= v <= 1, "a share from 0 to 1")

    def _neighbours(self, model: LatentVariableModel, rows: Batch) -> tuple[Tensor, Tensor]:
        """The nearest others of each different row, nearest first, [m, k], and which of these each row is, [n].

        Copies of a row are one point, and no neighbours: nothing would be learned from drawing them together.

        Raises
        ------
        ValueError
            If there is no second row.
        """
        if len(rows) < 2:
            raise ValueError(f"{self!r} compares rows with their neighbours, and there is a single row")
        self._factors: list[Tensor] | None = None
        features = self._features(model, rows)
        different, point = torch.unique(features, dim=0, return_inverse=True)
        n = torch.arange(len(point), device=point.device)
        self._row = torch.empty_like(n[: len(different)]).scatter_reduce(0, point, n, "amin", include_self=False)
        self._projection = Projection.of(features)
        self._points = self._projection(different)
        if len(different) == 1:
            return torch.zeros_like(self._row).unsqueeze(1), point
        return nearest(self._points, self._points, min(self.n_neighbors, len(different) - 1), others=True), point

    def _neighbours_of_others(self, model: LatentVariableModel, rows: Batch, n_neighbors: int) -> Tensor:
        """Of rows that are not trained on, the nearest different training rows, [n, k]."""
        return nearest(self._projection(self._features(model, rows)), self._points, n_neighbors)

    def _penalty(self, name: str, term: Tensor, terms: Terms) -> Penalty:
        """What a term of each row [B] costs; where labels are summed out, each of the copies of a row."""
        n_terms, n_columns = terms.batch.values.shape
        term = term.repeat(n_terms // len(term))
        return Penalty(loss=self.weight * n_columns * term, named={name: term})

    def _features(self, model: LatentVariableModel, rows: Batch) -> Tensor:
        """Where the rows are, [n, F]."""
        hog = self.hog if self.hog and has_outlines(model.image_shape) else 0.0
        shared = [(where, share) for where, share in ((_outlines, hog), (self._place, 1 - hog)) if share]
        pieces = rows.chunks(_ROWS_AT_ONCE)
        parts = [torch.cat([where(model, piece) for piece in pieces]) for where, _ in shared]
        if len(parts) == 1:
            return parts[0]
        if self._factors is None:  # of training rows, which come first
            self._factors = [math.sqrt(share) / _spread(part) for part, (_, share) in zip(parts, shared, strict=True)]
        return torch.cat([part * factor for part, factor in zip(parts, self._factors, strict=True)], dim=1)

    def _place(self, model: LatentVariableModel, rows: Batch) -> Tensor:
        if self.space == "latents":
            return model.encode(rows).mean
        return model.embedding(rows.values, rows.mask)


def _outlines(model: LatentVariableModel, rows: Batch) -> Tensor:
    assert model.image_shape is not None
    shown = None if rows.mask is None else rows.mask.unflatten(1, model.image_shape)
    return oriented_gradients(rows.values.unflatten(1, model.image_shape), shown)


def _spread(features: Tensor) -> Tensor:
    """The root of the total variance, or 1 where there is none."""
    spread = features.var(0).sum().sqrt()
    return torch.where(spread > 0, spread, 1.0)
