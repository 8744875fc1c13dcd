"""Targets of near rows, mixed into what a model predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from skvae.data.columns import Column
from skvae.model.likelihoods import Distribution
from skvae.model.likelihoods.kernels import Kernels
from skvae.model.neighbour_graph import Projection, nearest

# Rows recalled for a prediction, and kept, at most; and of these the ones that say in which directions rows vary.
_N_NEAR, _N_KEPT, _N_FOR_PROJECTION = 10, 50_000, 10_000
# Tried: distances at which a row counts e^{-½}, in median distances to the nearest row; counts of the model; and
# widths of the kernels about targets, in standard deviations of these.
_BANDWIDTHS = (0.1, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.4)
_COUNTS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_WIDTHS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
# Standard errors by which held-out targets have to become likelier: the best of some hundred settings is better by
# two of chance alone. And the least that is made of what a model says of one, lest it decide alone.
_ENOUGH, _LEAST_LOG_P = 3.0, -50.0


class Recalled(NamedTuple):
    """What is recalled for B rows.

    Attributes
    ----------
    log_model_share : Tensor [B]
        Log of the share that the model keeps.
    log_shares : Tensor [K, B]
        Logs of those of the rows recalled.
    targets : Tensor [K, B, T]
        Theirs, standardised or encoded.
    width : Tensor [T]
        σ of the kernels about them.
    """

    log_model_share: Tensor
    log_shares: Tensor
    targets: Tensor
    width: Tensor


class Recall(nn.Module):
    r"""Rows with known targets, by which predictions for rows near them are corrected.

    .. math::
        p(y|x) = \frac{c\, p_{model}(y|x) + \sum_i w_i\, k(y, y_i)}{c + \sum_i w_i}, \qquad
        w_i = \exp\Big(-\frac{\lVert x - x_i \rVert^2}{2 s^2}\Big)

    over the ten nearest rows as they enter the encoder (of over 50 features, their first 50 principal components),
    times their weights. k is normal about a target, within the range of those observed (see `Kernels`). The model
    counts as c rows: the prediction of a Dirichlet process whose base measure it is (Ferguson 1973), of which rows
    are observed as far as they are near (compare Dunson, Pillai & Park 2007; of language, Khandelwal, Levy, Jurafsky,
    Zettlemoyer & Lewis 2020). At most 50,000 rows are kept.

    Rows that belong together (repeated measurements, twins) recall one another: split them by groups, here too,
    where new rows will come without theirs.

    Parameters
    ----------
    n_rows, n_features, n_dimensions, n_targets : int
        Of the rows; before and after their projection, of which there is none where the two are alike.
    bandwidth : float
        s.
    count : float
        c.
    width : list of float
        σ of k for each target, standardised.
    """

    centre: Tensor
    axes: Tensor | None
    points: Tensor
    targets: Tensor
    log_weight: Tensor

    def __init__(
        self,
        n_rows: int,
        n_features: int,
        n_dimensions: int,
        n_targets: int,
        bandwidth: float = 1.0,
        count: float = 1.0,
        width: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.bandwidth, self.count, self.width = bandwidth, count, width or [1.0] * n_targets
        self.register_buffer("centre", torch.zeros(n_features))
        axes = None if n_features == n_dimensions else torch.zeros(n_features, n_dimensions)
        self.register_buffer("axes", axes)
        self.register_buffer("points", torch.zeros(n_rows, n_dimensions))
        self.register_buffer("targets", torch.zeros(n_rows, n_targets))
        self.register_buffer("log_weight", torch.zeros(n_rows))

    @classmethod
    def of(cls, features: Sequence[Tensor], targets: Tensor, weight: Tensor | None) -> Self:
        """That of rows of `features`, in pieces [B, F], with `targets` [n, T], which count by their weights [n]."""
        n_rows, n_features = len(targets), features[0].shape[1]
        every = max(1, n_rows // _N_FOR_PROJECTION)
        projection = Projection.of(torch.cat([piece[::every] for piece in features]))
        points = torch.cat([projection(piece) for piece in features])
        made = cls(n_rows, n_features, points.shape[1], targets.shape[1]).to(points.device)
        made.centre, made.axes, made.points, made.targets = projection.centre, projection.axes, points, targets
        if weight is not None:
            made.log_weight = weight.log()
        return made

    def fit(
        self,
        features: Tensor,
        own: Tensor,
        y: Tensor,
        log_p: Tensor,
        columns: Sequence[Column],
        like: Distribution,
    ) -> bool:
        """Choose s, c and the widths of k that make held-out targets likeliest.

        Parameters
        ----------
        features : Tensor [m, F]
            Rows that the model was not trained on.
        own : Tensor [m]
            Their positions among the rows kept, which do not answer for themselves.
        y : Tensor [m, T]
            Their targets.
        log_p : Tensor [m, T]
            What the model says of these, log p(y|x).
        columns : sequence of Column
            The targets.
        like : Distribution
            Of the targets; it says which have a probability.

        Returns
        -------
        bool
            Whether they become likelier than by the model alone, by three standard errors of the difference.
        """
        squared, log_weight, targets = self._near(features, own)
        nearest_one = torch.where(log_weight > -torch.inf, squared, torch.inf).min(0).values.sqrt()
        apart = nearest_one[(nearest_one > 0) & nearest_one.isfinite()]
        unit_distance = float(apart.median()) if len(apart) else 1.0

        def kernels(width: float) -> Kernels:
            return Kernels(targets, y.new_full((y.shape[1],), width), columns, like)

        widths = _WIDTHS[-1:] if bool(kernels(_WIDTHS[-1]).is_point.all()) else _WIDTHS
        log_k = torch.stack([kernels(width).log_prob(y) for width in widths])  # [H, K, m, T]
        log_p = log_p.nan_to_num(nan=_LEAST_LOG_P).clamp(min=_LEAST_LOG_P)
        most, gain = -math.inf, y.new_zeros(len(y))
        for bandwidth in (unit_distance * factor for factor in _BANDWIDTHS):
            log_w = log_weight - squared / (2 * bandwidth**2)  # [K, m]
            of_rows = (log_w.unsqueeze(-1) + log_k).logsumexp(1)  # [H, m, T]
            total = log_w.logsumexp(0).unsqueeze(-1)  # [m, 1]
            for count in _COUNTS:
                log_c = total.new_tensor(math.log(count))
                mixed = torch.logaddexp(log_p + log_c, of_rows) - torch.logaddexp(total, log_c)
                score, which = mixed.mean(1).max(0)  # of each target the best width
                if float(score.sum()) > most:
                    most, self.bandwidth, self.count = float(score.sum()), bandwidth, count
                    self.width = [widths[k] for k in which.tolist()]
                    gain = (mixed.gather(0, which.expand(1, len(y), -1)).squeeze(0) - log_p).sum(1)
        return float(gain.mean()) > _ENOUGH * float(gain.std()) / math.sqrt(len(gain))

    @torch.no_grad()
    def forward(self, features: Tensor, own: Tensor | None = None) -> Recalled:
        """What is recalled for rows of `features` [B, F], which may be kept themselves, at positions `own` [B]."""
        squared, log_weight, targets = self._near(features, own)
        log_w = log_weight - squared / (2 * self.bandwidth**2)
        log_c = log_w.new_tensor(math.log(self.count))
        total = torch.logaddexp(log_w.logsumexp(0), log_c)
        return Recalled(log_c - total, log_w - total, targets, targets.new_tensor(self.width))

    def _near(self, features: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of the nearest rows their squared distances [K, B], log-weights [K, B] and targets [K, B, T]."""
        queries = Projection(self.centre, self.axes)(features)
        rows = nearest(queries, self.points, min(_N_NEAR + (own is not None), len(self.points))).T  # [K, B]
        squared = torch.stack([(queries - self.points[its]).square().sum(1) for its in rows])
        log_weight = self.log_weight[rows]
        if own is not None:
            log_weight = torch.where(rows == own, -torch.inf, log_weight)
        return squared, log_weight, self.targets[rows]

    def to_dict(self) -> dict[str, Any]:
        """What to make it again with; the rows are its tensors."""
        return {
            "n_rows": len(self.points),
            "n_features": len(self.centre),
            "n_dimensions": self.points.shape[1],
            "n_targets": self.targets.shape[1],
            "bandwidth": self.bandwidth,
            "count": self.count,
            "width": self.width,
        }


def kept(n_rows: int) -> Tensor:
    """Positions of the rows to keep, evenly among `n_rows`."""
    if n_rows <= _N_KEPT:
        return torch.arange(n_rows)
    return torch.linspace(0, n_rows - 1, _N_KEPT, dtype=torch.float64).long()
