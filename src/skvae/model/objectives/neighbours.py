"""A term on the graph of nearest neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.model.checks import check, is_number
from skvae.model.objectives.base import Penalty
from skvae.model.objectives.graph import OnGraph
from skvae.model.vae import LatentVariableModel, Terms

# Share of the training in which exaggeration fades.
_EXAGGERATED = 0.5
# Added to the probability that two rows have the same label, whose logarithm is taken.
_LEAST_AFFINITY = 1e-6


class Neighbours(OnGraph):
    r"""Keeps neighbours together: a contrastive loss on the graph of nearest neighbours.

    .. math::
        \frac{wC}B \sum_i -a \log q(z_i, z_{p(i)})
        + \log \Big[q(z_i, z_{p(i)}) + \sum_{j \ne i} q(z_i, z_j) + q(z_i, z_{p(j)})\Big],
        \qquad q(z, z') = \frac1{1 + \lVert z - z'\rVert^2 / s^2}

    where C is the number of columns, p(i) is one of the k nearest neighbours of row i, drawn anew at every step, and
    z draws from q(z|x), one of each row of the batch and of its neighbour; copies of a row count as one. For a = 1
    this is InfoNCE with the Cauchy kernel (Damrich, Böhm, Hamprecht & Kobak 2023, section 4; Böhm, Berens & Kobak
    2023), whose maps are those of t-SNE, with an encoder; a = 4 is about as much attraction as in UMAP (Böhm, Berens
    & Kobak 2022; parametric: Sainburg, McInnes & Gentner 2021). Rows whose neighbourhoods overlap, m of them, fall
    into one place where a k > m, and groups without neighbours in each other drift apart for any a.

    Of draws, and in the unit of the prior, since means alone, or a scale that is learned, would let the map shrink
    below the noise of q(z|x), and no mixture of draws could tell the clusters apart. The prior gives a map a width of
    a few units: s, in these, decides how many kernels fit side by side, and so how fine it is.

    Of a model that sums labels out (structure="m2"), q is the probability that two rows have the same label,
    :math:`\sum_y q(y|x) q(y|x')`, and a is 1: neighbours are to have one label, and all labels are to be used
    (for clusters: Van Gansbeke, Vandenhende, Georgoulis, Proesmans & Van Gool 2020).

    The graph is made once, before training, from the embedded rows as the encoder sees them (of many features, their
    first 50 principal components); with `space="latents"` from the posterior means of the model as it is then,
    which is for models trained before. The best epoch is that of the best bound less w C times this term, where
    held-out rows are given neighbours among the training rows.

    Two images are near as their pixels are, to which brightness matters most; with `hog` as their outlines are, which
    tell things from one another far better, but the map is then no longer one of the pixels. Both may be mixed.

    Compares the rows of a batch: its value depends on which rows come together, and grows with their number. A map
    of two dimensions asks more of an encoder than a bound does: `encoder="residual"` follows the graph much closer
    than the default.

    Parameters
    ----------
    weight : float
        w: nats per nat of the term and column. The bound too grows with the columns; at 1 this term outweighs it.
    n_neighbors : int
        k; fewer, where there are not so many other rows.
    attraction : float
        a, of at least 1: that of t-SNE.
    scale : float
        s, the distance at which q is a half.
    space : {"rows", "latents"}
        Where neighbours are near.
    hog : float
        Of images of 4 × 4 pixels or more: share that their histograms of oriented gradients (Dalal & Triggs 2005;
        `oriented_gradients`) have in the squared distance, beside pixels or latents, each with a total variance of 1.
        Of other rows, as the latents that the second stage of structure="m1+m2" is given, nothing changes.
    early_exaggeration : float
        Factor of the attraction at first, from which it falls to 1 by half of the training, as in t-SNE (van der
        Maaten & Hinton 2008, section 3.4): groups find together before they are pushed apart.
    """

    alias = "neighbours"
    has_partners = True
    graph: Tensor | None

    def __init__(
        self,
        weight: float = 1.0,
        n_neighbors: int = 15,
        attraction: float = 1.0,
        scale: float = 0.3,
        space: str = "rows",
        hog: float = 0.0,
        early_exaggeration: float = 1.0,
    ) -> None:
        super().__init__(weight, n_neighbors, space, hog)
        self.attraction = attraction
        self.scale = scale
        self.early_exaggeration = early_exaggeration
        self.register_buffer("graph", None, persistent=False)

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        super().check()
        check(self, "attraction", lambda v: is_number(v) and 1 <= v < math.inf, "a number ≥ 1")
        check(self, "early_exaggeration", lambda v: is_number(v) and 1 <= v < math.inf, "a number ≥ 1")
        check(self, "scale", lambda v: is_number(v) and 0 < v < math.inf, "a finite number > 0")

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        """Make the graph.

        Raises
        ------
        ValueError
            If there is no second row.
        """
        found, point = self._neighbours(model, rows)
        self._n_columns = model.n_columns
        self.graph = self._row[found][point]

    def partners(self, rows: Tensor, stream: torch.Generator) -> Tensor:
        assert self.graph is not None
        drawn = torch.randint(self.graph.shape[1], (len(rows), 1), generator=stream, device=rows.device)
        return self.graph.index_select(0, rows).gather(1, drawn).squeeze(1)

    def partners_of_others(self, model: LatentVariableModel, rows: Batch, stream: torch.Generator) -> Tensor:
        assert self.graph is not None
        found = self._neighbours_of_others(model, rows, self.graph.shape[1])
        drawn = torch.randint(found.shape[1], (len(rows), 1), generator=stream, device=found.device)
        return self._row[found.gather(1, drawn).squeeze(1)]

    def penalty(self, terms: Terms) -> Penalty:
        assert terms.partners is not None
        probs = None if terms.supervision is None else terms.supervision.probs
        here, there = (terms.z[0] if probs is None else probs), terms.partners
        every = torch.cat([here, there])  # [2 B, D]
        if probs is None:
            log_q, together = self._log_cauchy(here, every), self._log_cauchy_of_pairs(here, there)
            attraction = self._attraction(terms.progress)
        else:
            log_q, together = _log(here @ every.mT), _log((here * there).sum(-1))
            attraction = 1.0  # with more, all rows fall into one label before they can spread
        own = torch.eye(len(here), dtype=torch.bool, device=here.device)
        log_q = torch.where(torch.cat([own, own], dim=1), -torch.inf, log_q)  # [B, 2 B]
        if terms.weight is not None:
            log_q = log_q + terms.weight[: len(here)].log().repeat(2)
        apart = torch.logaddexp(log_q.logsumexp(-1), together)
        return self._penalty("neighbours", apart - attraction * together, terms)

    def _attraction(self, progress: Tensor | float) -> Tensor | float:
        """a, more at first."""
        if self.early_exaggeration == 1:
            return self.attraction
        left = (1 - torch.as_tensor(progress) / _EXAGGERATED).clamp(min=0)
        return self.attraction * (1 + (self.early_exaggeration - 1) * left)

    def _log_cauchy(self, rows: Tensor, others: Tensor) -> Tensor:
        """log q of rows [B, D] and others [M, D], [B, M]."""
        rows, others = rows / self.scale, others / self.scale
        squared = rows.square().sum(-1).unsqueeze(-1) + others.square().sum(-1) - 2 * rows @ others.mT
        return -torch.log1p(squared.clamp(min=0))

    def _log_cauchy_of_pairs(self, rows: Tensor, others: Tensor) -> Tensor:
        """log q of each row and the other in its place, [B]."""
        return -torch.log1p(((rows - others) / self.scale).square().sum(-1))

    def judged_beside(self, means: dict[str, float]) -> float:
        return -self.weight * self._n_columns * means["neighbours"]


def _log(probability: Tensor) -> Tensor:
    return torch.log(probability + _LEAST_AFFINITY)
