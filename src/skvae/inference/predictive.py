"""The predictive distribution of the targets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skvae.data.columns import Column
from skvae.model.likelihoods import Distribution
from skvae.model.likelihoods.base import bisect
from skvae.model.likelihoods.stretched import Stretched
from skvae.model.likelihoods.table import TableDistribution

# Values that stand for the distribution of a target in the CRPS, and in its spread.
_N_VALUES, _N_SCORES = 256, 64
_HALVINGS = 40


class Predictive:
    """p(y|x) of n rows and T targets: a mixture with equal shares of what each model, and each draw of z, says.

    All answers are in the units of the data, [n], or [n, T] of several targets.

    Parameters
    ----------
    pieces : sequence of sequence of Distribution
        For consecutive rows, the distributions [S, B, T] of every model.
    columns : sequence of Column
        The targets.
    spread : array [T], optional
        Factor by which deviations from the mean are stretched (see `Stretched`).
    squeeze : bool
        Whether answers about a single target lose their last axis.
    """

    def __init__(
        self,
        pieces: Sequence[Sequence[Distribution]],
        columns: Sequence[Column],
        spread: np.ndarray | None = None,
        squeeze: bool = True,
    ) -> None:
        self._core, self._columns = pieces, columns
        self._offset = np.array([column.offset for column in columns])
        self._scale = np.array([column.scale for column in columns])
        self._squeeze = squeeze and len(columns) == 1
        self._pieces = self._core
        if spread is not None and (spread != 1).any():
            self._pieces = [self._stretched(piece, spread) for piece in self._core]

    @classmethod
    def joined(cls, predictions: Sequence[Predictive]) -> Predictive:
        """The predictions of several sets of rows, of the same targets, one after another; unstretched."""
        first = predictions[0]
        return cls([piece for part in predictions for piece in part._core], first._columns, None, first._squeeze)

    def stretched(self, spread: np.ndarray | None) -> Predictive:
        """The same prediction with another spread."""
        return Predictive(self._core, self._columns, spread, self._squeeze)

    def mean(self) -> np.ndarray:
        """Expected values."""
        return self._in_units(torch.cat([_mean(piece) for piece in self._pieces]))

    def std(self) -> np.ndarray:
        """Standard deviations: of the spread within the distributions mixed and of that between their means."""
        return self._shaped(torch.cat([_std(piece) for piece in self._pieces]).double().cpu().numpy() * self._scale)

    def quantile(self, q: float | Sequence[float]) -> np.ndarray:
        """Quantiles at probabilities `q`: one, or several in a last axis of their own.

        Raises
        ------
        ValueError
            For a probability outside (0, 1).
        """
        wanted = np.atleast_1d(np.asarray(q, dtype=np.float64))
        if not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"quantile {wanted[~((wanted > 0) & (wanted < 1))][0]:g}: expected in (0, 1)")
        found = [self._in_units(torch.cat([_quantile(piece, float(p)) for piece in self._pieces])) for p in wanted]
        if is_mass(self._core[0][0], len(self._columns)).all():
            found = [np.rint(values) for values in found]  # what the float32 of standardised ones left of them
        return found[0] if np.ndim(q) == 0 else np.stack(found, axis=-1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """P(target ≤ y) for `y` of one value per row."""
        answers = [_cdf(piece, values) for piece, values in zip(self._pieces, self._split(y), strict=True)]
        return self._shaped(torch.cat(answers).double().cpu().numpy())

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log-density (log-probability of whole numbers and levels) of `y`, nats."""
        answers = [_log_prob(piece, values) for piece, values in zip(self._pieces, self._split(y), strict=True)]
        return self._shaped(torch.cat(answers).double().cpu().numpy())

    def best_spread(self, y: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Of each target, the factor by which deviations from the mean are to be stretched to make `y` likeliest."""
        shape = -1, len(self._columns)
        every = np.ones(len(self._columns))
        scores = [self.stretched(factor * every).log_prob(y).reshape(shape).mean(0) for factor in factors]
        return factors[np.argmax(scores, axis=0)]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Continuous ranked probability score E|Y − y| − ½ E|Y − Y′| (Gneiting & Raftery 2007, equation 21)."""
        answers = []
        for piece, value in zip(self._pieces, self._split(y), strict=True):
            drawn = _values(piece).sort(0).values  # [N, B, T]
            n = len(drawn)
            rank = (2 * torch.arange(1, n + 1, device=drawn.device) - n - 1).view(-1, 1, 1) / n**2
            answers.append((drawn - value).abs().mean(0) - (rank * drawn).sum(0))
        return self._shaped(torch.cat(answers).double().cpu().numpy() * self._scale)

    def draw(self, u: Tensor) -> np.ndarray:
        """Draws for `u` [n, 1 + T] uniform on (0, 1): the first chooses the distribution mixed."""
        drawn = []
        u = u.to(self._pieces[0][0].mean.device)
        for piece, own in zip(self._pieces, u.split([_n_rows(piece) for piece in self._pieces]), strict=True):
            each = torch.cat([part.icdf(own[:, 1:].expand(_n_draws(part), -1, -1)) for part in piece])  # [M, B, T]
            chosen = (own[:, 0] * len(each)).long().clamp(max=len(each) - 1)
            drawn.append(each[chosen, torch.arange(len(own), device=own.device)])
        return self._in_units(torch.cat(drawn))

    def _stretched(self, piece: Sequence[Distribution], spread: np.ndarray) -> list[Distribution]:
        centre = _mean(piece)
        steps = [column.resolution for column in self._columns]
        cell = np.where(is_mass(piece[0], len(self._columns)), steps, 0.0) / self._scale
        origin = (np.array([column.lower for column in self._columns]) - self._offset) / self._scale
        factor, cell, origin = (torch.from_numpy(x.astype(np.float32)).to(centre) for x in (spread, cell, origin))
        return [Stretched(part, centre, factor, cell, origin) for part in piece]

    def _split(self, y: np.ndarray) -> list[Tensor]:
        standardised = (np.asarray(y, dtype=np.float64).reshape(-1, len(self._columns)) - self._offset) / self._scale
        sizes = [_n_rows(piece) for piece in self._pieces]
        if len(standardised) != sum(sizes):
            raise ValueError(f"y has {len(standardised)} rows; the prediction is of {sum(sizes)}")
        return list(torch.from_numpy(standardised.astype(np.float32)).to(self._pieces[0][0].mean.device).split(sizes))

    def _in_units(self, values: Tensor) -> np.ndarray:
        return self._shaped(values.double().cpu().numpy() * self._scale + self._offset)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._squeeze else values


def is_mass(distribution: Distribution, n_columns: int) -> np.ndarray:
    """Whether each column has a mass, and not a density, [C]."""
    if not isinstance(distribution, TableDistribution):
        return np.full(n_columns, distribution.log_unit is None)
    return np.array([distribution.part_of(j)[0].log_unit is None for j in range(n_columns)])


def _n_draws(part: Distribution) -> int:
    return len(part.mean)


def _n_rows(piece: Sequence[Distribution]) -> int:
    return piece[0].mean.shape[1]


def _mean(piece: Sequence[Distribution]) -> Tensor:
    return torch.stack([part.mean.mean(0) for part in piece]).mean(0)


def _log_prob(piece: Sequence[Distribution], values: Tensor) -> Tensor:
    each = [part.log_prob(values).logsumexp(0) - math.log(_n_draws(part)) for part in piece]
    return torch.stack(each).logsumexp(0) - math.log(len(each))


def _cdf(piece: Sequence[Distribution], values: Tensor) -> Tensor:
    return torch.stack([part.cdf(values).mean(0) for part in piece]).mean(0)


def _quantile(piece: Sequence[Distribution], p: float) -> Tensor:
    """That of the mixture lies between the least and the largest of those mixed."""
    each = torch.cat([part.icdf(torch.full_like(part.mean, p)) for part in piece])
    lower, upper = each.min(0).values, each.max(0).values
    if len(each) == 1:
        return lower
    return bisect(lambda values: _cdf(piece, values), torch.full_like(lower, p), lower, upper, _HALVINGS)


def _values(piece: Sequence[Distribution]) -> Tensor:
    """Equally likely values [N, B, T]: the same quantiles of all that is mixed."""
    n_each = _n_levels(piece, _N_VALUES)
    levels = (torch.arange(n_each) + 0.5) / n_each
    return torch.cat([part.icdf(torch.full_like(part.mean, float(p))) for part in piece for p in levels])


def _std(piece: Sequence[Distribution]) -> Tensor:
    """Standard deviations [B, T], by the trapezoid rule over normal scores, which does not cut off the tails."""
    scores = torch.linspace(-4, 4, _n_levels(piece, _N_SCORES), device=piece[0].mean.device)
    each = [
        torch.cat([part.icdf(torch.full_like(part.mean, float(p))) for part in piece])
        for p in torch.special.ndtr(scores)
    ]
    values, weights = torch.stack(each), (-0.5 * scores.square()).softmax(0)  # [N, M, B, T], [N]
    mean = torch.tensordot(weights, values.mean(1), 1)
    return torch.tensordot(weights, (values - mean).square().mean(1), 1).sqrt()


def _n_levels(piece: Sequence[Distribution], n_wanted: int) -> int:
    """Values that each distribution mixed is to give, so that there are enough of all."""
    return max(8, n_wanted // sum(_n_draws(part) for part in piece))
