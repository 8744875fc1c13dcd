"""Columns of any shape, brought to a normal scale by their quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skvae.data.columns import Column
from skvae.model.likelihoods.base import Distribution
from skvae.model.likelihoods.columnwise import look_up, search
from skvae.model.likelihoods.continuous import Continuous, standardised
from skvae.model.likelihoods.normal import Normal
from skvae.model.likelihoods.transformed import IncreasingMap, Transformed

# Where the smallest and the largest value seen at fit go, as those of about a thousand rows would.
_END = 3.0
# Knots nearer to each other than this, in standardised units, are one: float32 holds no more steps between them.
_CLOSE = 1e-5
# Below this σ the inverse map is smooth in t, from there on the cdf is smooth in x.
_SMALL_SCALE = 0.3
_GAUSS_HERMITE = [
    (float(x), float(w / np.sqrt(2 * np.pi))) for x, w in zip(*np.polynomial.hermite_e.hermegauss(12), strict=True)
]
_GAUSS_LEGENDRE = np.polynomial.legendre.leggauss(3)


class QuantileMap(IncreasingMap):
    """A monotone rational-quadratic spline (Gregory & Delbourgo 1982) through knots, straight beyond them.

    Parameters
    ----------
    x, t : Tensor [C, K]
        Knots, increasing; a column with fewer knots than others repeats its last.
    slope : Tensor [C, K]
        t' at the knots.
    """

    x: Tensor
    t: Tensor
    slope: Tensor
    last: Tensor
    node: Tensor
    weight: Tensor

    def __init__(self, x: Tensor, t: Tensor, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x, persistent=False)
        self.register_buffer("t", t, persistent=False)
        self.register_buffer("slope", slope, persistent=False)
        self.register_buffer("last", (x < x[:, -1:]).sum(1) - 1, persistent=False)  # interval of each column
        # ∫ … dx between the knots.
        nodes, weights = (torch.tensor(a, dtype=x.dtype) for a in _GAUSS_LEGENDRE)
        half = 0.5 * torch.diff(x).unsqueeze(-1)  # [C, K − 1, 1]
        node = x[:, :-1].unsqueeze(-1) + half * (1 + nodes)
        self.register_buffer("node", self(node.flatten(1).T)[0], persistent=False)  # in t, [3 (K − 1), C]
        self.register_buffer("weight", (half * weights).flatten(1).T, persistent=False)

    def _interval(self, table: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Of the interval that `values` [..., C] lie in: left ends and widths in x and in t, slopes at both ends."""
        at = torch.minimum((search(table, values) - 1).clamp(min=0), self.last)
        x, t, slope = look_up(self.x, at), look_up(self.t, at), look_up(self.slope, at)
        return x, look_up(self.x, at + 1) - x, t, look_up(self.t, at + 1) - t, slope, look_up(self.slope, at + 1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        # Durkan, Bekasov, Murray & Papamakarios (2019), equations 4 and 5.
        x, width, t, height, left, right = self._interval(self.x, values)
        secant = height / width
        place = (values - x) / width
        share = place.clamp(0.0, 1.0)
        product = share * (1 - share)
        denominator = secant + (left + right - 2 * secant) * product
        inside = t + height * (secant * share.square() + left * product) / denominator
        beyond = torch.where(place < 0, left, right) * (place - share) * width
        numerator = right * share.square() + 2 * secant * product + left * (1 - share).square()
        return inside + beyond, 2 * (secant / denominator).log() + numerator.log()

    def inverse(self, t: Tensor) -> Tensor:
        # Equations 6 to 8.
        x, width, start, height, left, right = self._interval(self.t, t)
        secant = height / width
        place = (t - start) / height
        share = place.clamp(0.0, 1.0)
        bend = share * (left + right - 2 * secant)
        a, b, c = secant - left + bend, left - bend, -secant * share
        root = 2 * c / (-b - torch.sqrt((b.square() - 4 * a * c).clamp(min=0.0)))
        beyond = (place - share) * height / torch.where(place < 0, left, right)
        return x + root * width + beyond

    def expectation(self, mean: Tensor, scale: Tensor) -> Tensor:
        """By quadrature: good to some hundredths of the column's deviation next to a gap, else much better."""
        local = torch.zeros_like(mean)
        for step, share in _GAUSS_HERMITE:
            local = torch.add(local, self.inverse(mean + step * scale), alpha=share)
        # E x = x_1 + ∫ P(X > x) dx between the knots, less and plus what lies on the straight lines beyond them.
        rate = 1 / scale
        broad = self.x[:, 0] - scale / self.slope[:, 0] * _excess((self.t[:, 0] - mean) * rate)
        broad = broad + scale / self.slope[:, -1] * _excess((mean - self.t[:, -1]) * rate)
        for node, weight in zip(self.node, self.weight, strict=True):
            broad = torch.addcmul(broad, weight, torch.special.ndtr((mean - node) * rate))
        return torch.where(scale < _SMALL_SCALE, local, broad)


class QuantileNormal(Continuous):
    """A smooth increasing map takes the column's quantiles to those of a normal variable, which is modelled.

    A column that is skewed, heavy-tailed or has several peaks looks normal to the network; the slope of the map
    counts in the density. With a mean of 0 and a deviation of 1 for every row, the distribution of the column
    itself results.

    Parameters
    ----------
    rounded : bool
        Score whole numbers by the probability of their rounding cell, as in `Gaussian`.
    """

    alias = "quantile-normal"

    def __init__(self, rounded: bool = False) -> None:
        super().__init__(rounded)

    def check(self, columns: Sequence[Column]) -> None:
        super().check(columns)
        for column in columns:
            if not column.quantiles:
                raise ValueError(
                    f"likelihood {self!r} needs the quantiles of column '{column.name}', which this schema, of an "
                    "earlier version, lacks: fit anew, or use likelihood='auto'"
                )

    def bind(self, columns: Sequence[Column]) -> QuantileNormal:
        self.n_params = 2 * len(columns)
        quantiles = standardised([column.quantiles for column in columns], columns).numpy()
        knots = [_knots(row) for row in quantiles]
        length = max(x.size for x, _, _ in knots)
        padded = [np.stack([np.pad(a, (0, length - a.size), "edge") for a in column]) for column in knots]
        self.map = QuantileMap(*torch.tensor(np.stack(padded, axis=1)).float())
        return super().bind(columns)

    def forward(self, params: Tensor) -> Distribution:
        mean, raw = params.chunk(2, dim=-1)
        return self.finished(Transformed(Normal(mean, self.limited(raw), self.log_unit), self.map))


def _excess(distance: Tensor) -> Tensor:
    """E max(0, d + ε) for a standard normal ε."""
    density = torch.exp(-0.5 * distance.square()) / math.sqrt(2 * math.pi)
    return torch.addcmul(density, distance, torch.special.ndtr(distance))


def _knots(quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, t and slopes at the knots for one column's standardised quantiles."""
    n = len(quantiles)
    is_first = np.append(True, np.diff(quantiles) > _CLOSE * np.maximum(1.0, np.abs(quantiles[1:])))
    group = np.cumsum(is_first) - 1
    size = np.bincount(group)
    if len(size) == 1:  # no shape that float32 could show
        return np.array([-1.0, 1.0]), np.array([-1.0, 1.0]), np.ones(2)
    x = np.bincount(group, quantiles) / size
    # Where many entries are alike, the middle of their probabilities.
    probability = torch.from_numpy(np.bincount(group, np.arange(n) / (n - 1)) / size)
    t = torch.special.ndtri(probability).clamp(-_END, _END).numpy()
    secant = np.diff(t) / np.diff(x)
    inner = 2 / (1 / secant[:-1] + 1 / secant[1:])
    return x, t, np.concatenate([secant[:1], inner, secant[-1:]])
