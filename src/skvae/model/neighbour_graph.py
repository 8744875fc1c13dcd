"""The nearest neighbours of rows."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

# Up to this many rows neighbours are found exactly, by comparing all; more need no more dimensions than this.
_EXACT_ROWS, _MAX_DIMENSIONS = 20_000, 50
# Distances computed at once.
_AT_ONCE = 2**24


def nearest(queries: Tensor, points: Tensor, n_neighbors: int, *, others: bool = False) -> Tensor:
    """Positions of the nearest `points` [n, F] of each of `queries` [m, F], nearest first, [m, n_neighbors].

    By Euclidean distance, exactly, except for more than 20,000 queries on the CPU where pynndescent (Dong, Moses & Li
    2011) is installed, the extra 'neighbors': its neighbours are approximate and found in a small part of the time.

    Parameters
    ----------
    others : bool
        Whether queries and points are the same rows, of which none is its own neighbour.
    """
    by_descent = others and len(queries) > _EXACT_ROWS and not queries.is_cuda
    if by_descent and importlib.util.find_spec("pynndescent") is not None:
        return _by_descent(points, n_neighbors)
    squares = points.square().sum(1)  # [n]
    found = []
    for start, piece in _pieces(queries, max(1, _AT_ONCE // len(points))):
        distance = torch.addmm(squares, piece, points.T, alpha=-2.0)  # less the query's own square, [b, n]
        if others:
            own = torch.arange(len(piece), device=piece.device)
            distance[own, own + start] = torch.inf
        found.append(distance.topk(n_neighbors, largest=False).indices)
    return torch.cat(found)


def _by_descent(points: Tensor, n_neighbors: int) -> Tensor:
    import pynndescent

    seed = int(torch.randint(2**31 - 1, (1,)))
    index = pynndescent.NNDescent(points.cpu().numpy(), n_neighbors=n_neighbors + 1, random_state=seed)
    found = torch.from_numpy(index.neighbor_graph[0]).to(points.device, torch.int64)  # [n, k + 1], itself among them
    own = found == torch.arange(len(points), device=points.device).unsqueeze(1)
    own[:, -1] |= ~own.any(1)  # a row with many doubles may be missing from its own list
    return found[~own].view(len(points), n_neighbors)


def _pieces(rows: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(start, rows[start : start + size]) for start in range(0, len(rows), size)]


class Projection:
    """Rows of features in at most 50 dimensions: those in which they vary most.

    Distances among thousands of pixels are no better than among their first 50 principal components, and cost more.

    Parameters
    ----------
    centre : Tensor [F]
    axes : Tensor [F, 50] or None
    """

    def __init__(self, centre: Tensor, axes: Tensor | None) -> None:
        self.centre, self.axes = centre, axes

    @classmethod
    def of(cls, features: Tensor) -> Projection:
        """That of rows of `features` [n, F]."""
        centre = features.mean(0)
        if features.shape[1] <= _MAX_DIMENSIONS:
            return cls(centre, None)
        centred = features - centre
        # In double precision, as in single it fails where many features never vary.
        covariance = (centred.T @ centred).cpu().double()
        axes = torch.linalg.eigh(covariance).eigenvectors[:, -_MAX_DIMENSIONS:].to(features)
        return cls(centre, axes.contiguous())  # a view would keep all the others

    def __call__(self, features: Tensor) -> Tensor:
        centred = features - self.centre
        return centred if self.axes is None else centred @ self.axes
