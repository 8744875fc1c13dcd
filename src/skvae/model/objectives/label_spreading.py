"""Labels that spread over the graph of nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from sklearn.semi_supervised import LabelSpreading as SpreadLabels
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.checks import check, is_number
from skvae.model.objectives.base import Penalty
from skvae.model.objectives.graph import OnGraph
from skvae.model.vae import LatentVariableModel, Terms

# At alpha=.99 what is left out is e⁻²⁰.
_MAX_ITER, _TOLERANCE = 2_000, 1e-6
# Added to probabilities whose logarithm is taken.
_LEAST = 1e-6


class LabelSpreading(OnGraph):
    r"""Rows without a label learn the one that comes to them over the graph of nearest neighbours.

    .. math::
        -w C \, c_i \sum_y \pi_i(y) \log q(y|x_i), \qquad \Pi \propto (I - \alpha S)^{-1} Y,
        \qquad c_i = 1 - H(\pi_i) / \log K

    for each row i without a label, with C the number of columns, Y the known labels, one-hot, and
    :math:`S = D^{-1/2} W D^{-1/2}` of the graph W in which two rows are joined if one is among the k nearest of the
    other (Zhou, Bousquet, Lal, Weston & Schölkopf 2004). As many rows come to each label as its share among the known
    ones (class mass normalisation: Zhu, Ghahramani & Lafferty 2003), and a row counts by the certainty of what has
    come to it, as in Iscen, Tolias, Avrithis & Chum (2019), equation 11. They are found once, before training, and
    are no labels: q(y|x) may disagree, and the bound is summed over it as ever.

    For a model with q(y|x), in which missing labels are summed out (structure="m2" of VAEClassifier, also on M1).
    Where all rows or none have a label, nothing changes.

    Parameters
    ----------
    weight : float
        w: nats per nat of the term and column. The bound too grows with the columns.
    n_neighbors : int
        k; fewer, where there are not so many other rows.
    alpha : float
        α, between 0 and 1: how much more counts what comes from afar.
    space, hog
        As in `Neighbours`.
    """

    alias = "label-spreading"
    spread: Tensor | None

    def __init__(
        self, weight: float = 1.0, n_neighbors: int = 10, alpha: float = 0.9, space: str = "rows", hog: float = 0.0
    ) -> None:
        super().__init__(weight, n_neighbors, space, hog)
        self.alpha = alpha
        self.register_buffer("spread", None, persistent=False)

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        super().check()
        check(self, "alpha", lambda v: is_number(v) and 0 < v < 1, "a number between 0 and 1")

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Spread the labels.

        Raises
        ------
        ValueError
            Of a model that has targets, but no q(y|x) of labels.
        """
        self.spread = None
        if rows.target is None:
            return
        if model.n_labels is None:
            raise ValueError(
                f"{self!r} is for labels that are summed out; set structure='m2' or 'm1+m2', or leave it out"
            )
        known = ~rows.target.isnan().squeeze(1)
        if known.all() or not known.any():
            return
        neighbours, point = self._neighbours(model, rows)
        labels = np.full(len(neighbours), -1)
        labels[point[known].cpu().numpy()] = rows.target[known].squeeze(1).cpu().numpy().astype(int)
        shares = self._spread(neighbours.cpu().numpy(), labels, model.n_labels)
        self.spread = torch.from_numpy(shares).to(rows.values)[point]

    def _spread(self, neighbours: np.ndarray, labels: np.ndarray, n_labels: int) -> np.ndarray:
        """c π of different rows, [m, K], given the nearest of each [m, k] and labels [m], −1 for none."""
        m, k = neighbours.shape
        edges = coo_array((np.ones(m * k), (np.arange(m).repeat(k), neighbours.ravel())), shape=(m, m))
        graph = edges.maximum(edges.T).tocoo()
        spreading = SpreadLabels(kernel=lambda X, y=None: graph, alpha=self.alpha, max_iter=_MAX_ITER, tol=_TOLERANCE)
        spreading.fit(np.zeros((m, 1)), labels)
        shares = np.zeros((m, n_labels))
        shares[:, spreading.classes_] = spreading.label_distributions_
        of_known = np.bincount(labels[labels >= 0], minlength=n_labels)
        shares *= of_known / of_known.sum() / np.maximum(shares.mean(0), _LEAST)
        total = shares.sum(1, keepdims=True)
        shares /= np.where(total > 0, total, 1.0)  # where no label comes to, all are 0
        log_shares = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        certainty = 1 + (shares * log_shares).sum(1, keepdims=True) / np.log(max(n_labels, 2))
        return shares * certainty

    def penalty(self, terms: Terms) -> Penalty:
        found = terms.supervision
        if self.spread is None or found is None or found.probs is None:
            return Penalty(loss=terms.z.new_zeros(len(terms.batch)))
        assert terms.batch.index is not None
        index = terms.batch.index[: len(found.probs)]
        # Held-out rows, whose positions are others, have labels.
        shares = self.spread.index_select(0, index.clamp(max=len(self.spread) - 1))
        term = (1 - found.labelled) * -(shares * (found.probs + _LEAST).log()).sum(-1)
        return self._penalty("label_spreading", term, terms)
