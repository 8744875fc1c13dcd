"""The predictive distribution of the targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skvae.data.columns import Column
from skvae.inference.recall import Recalled
from skvae.model.likelihoods import Distribution
from skvae.model.likelihoods.base import bisect
from skvae.model.likelihoods.kernels import Kernels
from skvae.model.likelihoods.stretched import Stretched
from skvae.model.likelihoods.table import TableDistribution

# Values that stand for the distribution of a target in the CRPS, and in its spread.
_N_VALUES, _N_SCORES = 256, 64
_HALVINGS = 40


class Predictive:
    """p(y|x) of n rows and T targets: a mixture with equal shares of what each model, and each draw of z, says, and
    of what is recalled of other rows.

    All answers are in the units of the data, [n], or [n, T] of several targets.

    Parameters
    ----------
    pieces : sequence of sequence of Distribution
        For consecutive rows, the distributions [S, B, T] of every model.
    columns : sequence of Column
        The targets.
    spread : array [T], optional
        Factor by which what the models say is stretched about its mean (see `Stretched`).
    squeeze : bool
        Whether answers about a single target lose their last axis.
    recalled : sequence of Recalled, optional
        For the same consecutive rows.
    """

    def __init__(
        self,
        pieces: Sequence[Sequence[Distribution]],
        columns: Sequence[Column],
        spread: np.ndarray | None = None,
        squeeze: bool = True,
        recalled: Sequence[Recalled] | None = None,
    ) -> None:
        self._core, self._columns, self._recalled = pieces, columns, recalled
        self._offset = np.array([column.offset for column in columns])
        self._scale = np.array([column.scale for column in columns])
        self._squeeze = squeeze and len(columns) == 1
        stretched = self._core
        if spread is not None and (spread != 1).any():
            stretched = [self._stretched(piece, spread) for piece in self._core]
        self._pieces = [
            self._mixed(piece, None if recalled is None else recalled[k], core[0])
            for k, (piece, core) in enumerate(zip(stretched, self._core, strict=True))
        ]

    @classmethod
    def joined(cls, predictions: Sequence[Predictive]) -> Predictive:
        """The predictions of several sets of rows, of the same targets, one after another; unstretched."""
        first = predictions[0]
        recalled = None
        if first._recalled is not None:
            recalled = [one for part in predictions for one in part._recalled or ()]
        pieces = [piece for part in predictions for piece in part._core]
        return cls(pieces, first._columns, None, first._squeeze, recalled)

    def stretched(self, spread: np.ndarray | None) -> Predictive:
        """The same prediction with another spread."""
        return Predictive(self._core, self._columns, spread, self._squeeze, self._recalled)

    def mean(self) -> np.ndarray:
        """Expected values."""
        return self._in_units(torch.cat([piece.mean() for piece in self._pieces]))

    def std(self) -> np.ndarray:
        """Standard deviations: of the spread within the distributions mixed and of that between their means."""
        return self._shaped(torch.cat([piece.std() for piece in self._pieces]).double().cpu().numpy() * self._scale)

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
        is_whole = is_mass(self._core[0][0], len(self._columns))
        found = []
        for p in wanted:
            values = self._of_columns(torch.cat([piece.quantile(float(p)) for piece in self._pieces]))
            # Of whole numbers, the search and the float32 of standardised ones miss a little; + 0.0 turns −0 into 0.
            found.append(self._shaped(np.where(is_whole, np.rint(values) + 0.0, values)))
        return found[0] if np.ndim(q) == 0 else np.stack(found, axis=-1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """P(target ≤ y) for `y` of one value per row."""
        answers = [piece.cdf(values) for piece, values in zip(self._pieces, self._split(y), strict=True)]
        return self._shaped(torch.cat(answers).double().cpu().numpy())

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log-density (log-probability of whole numbers and levels) of `y`, nats."""
        answers = [piece.log_prob(values) for piece, values in zip(self._pieces, self._split(y), strict=True)]
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
            drawn, share = piece.values()  # [N, B, T], [N, B, 1]
            drawn, order = drawn.sort(0)
            share = share.expand_as(drawn).gather(0, order)
            rank = share * (2 * share.cumsum(0) - share - 1)
            answers.append((share * (drawn - value).abs() - rank * drawn).sum(0))
        return self._shaped(torch.cat(answers).double().cpu().numpy() * self._scale)

    def draw(self, u: Tensor) -> np.ndarray:
        """Draws for `u` [n, 1 + T] uniform on (0, 1): the first chooses the distribution mixed."""
        u = u.to(self._pieces[0].parts[0].mean.device)
        drawn = [
            piece.draw(own) for piece, own in zip(self._pieces, u.split([len(p) for p in self._pieces]), strict=True)
        ]
        return self._in_units(torch.cat(drawn))

    def _mixed(self, parts: Sequence[Distribution], recalled: Recalled | None, core: Distribution) -> _Mixture:
        """What the models say, in equal shares, and what is recalled, where `core` says what has a probability."""
        n_draws = sum(len(part.mean) for part in parts)
        like = parts[0].mean
        log_share = like.new_full((1, 1, 1), -math.log(n_draws))
        if recalled is not None:
            log_share = log_share + recalled.log_model_share.unsqueeze(-1)
        mixed = _Mixture(list(parts), [log_share.expand(len(part.mean), -1, -1) for part in parts], n_draws)
        if recalled is not None:
            mixed.parts.append(Kernels(recalled.targets, recalled.width, self._columns, core))
            mixed.log_shares.append(recalled.log_shares.unsqueeze(-1))
        return mixed

    def _stretched(self, piece: Sequence[Distribution], spread: np.ndarray) -> list[Distribution]:
        centre = self._mixed(piece, None, piece[0]).mean()
        steps = [column.resolution for column in self._columns]
        cell = np.where(is_mass(piece[0], len(self._columns)), steps, 0.0) / self._scale
        origin = (np.array([column.lower for column in self._columns]) - self._offset) / self._scale
        factor, cell, origin = (torch.from_numpy(x.astype(np.float32)).to(centre) for x in (spread, cell, origin))
        return [Stretched(part, centre, factor, cell, origin) for part in piece]

    def _split(self, y: np.ndarray) -> list[Tensor]:
        standardised = (np.asarray(y, dtype=np.float64).reshape(-1, len(self._columns)) - self._offset) / self._scale
        sizes = [len(piece) for piece in self._pieces]
        if len(standardised) != sum(sizes):
            raise ValueError(f"y has {len(standardised)} rows; the prediction is of {sum(sizes)}")
        return list(
            torch.from_numpy(standardised.astype(np.float32)).to(self._pieces[0].parts[0].mean.device).split(sizes)
        )

    def _in_units(self, values: Tensor) -> np.ndarray:
        return self._shaped(self._of_columns(values))

    def _of_columns(self, values: Tensor) -> np.ndarray:
        """Standardised values in units of their columns, [n, T]."""
        return values.double().cpu().numpy() * self._scale + self._offset

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._squeeze else values


def is_mass(distribution: Distribution, n_columns: int) -> np.ndarray:
    """Whether each column has a mass, and not a density, [C]."""
    if not isinstance(distribution, TableDistribution):
        return np.full(n_columns, distribution.log_unit is None)
    return np.array([distribution.part_of(j)[0].log_unit is None for j in range(n_columns)])


@dataclass
class _Mixture:
    """Distributions of B rows and T targets, each of several draws, with their shares.

    Attributes
    ----------
    parts : list of Distribution
        [S, B, T] each.
    log_shares : list of Tensor
        Of each draw of each part, [S, B, 1], or [S, 1, 1] where they are those of all rows.
    n_draws : int
        Draws that are a model's.
    """

    parts: list[Distribution]
    log_shares: list[Tensor]
    n_draws: int

    def __len__(self) -> int:
        return self.parts[0].mean.shape[1]

    @property
    def _shares(self) -> list[Tensor]:
        return [log_share.exp() for log_share in self.log_shares]

    @property
    def _every_share(self) -> Tensor:
        """Of all that is mixed and all rows, [M, B, 1]."""
        return torch.cat([share.expand(-1, len(self), -1) for share in self._shares])

    def mean(self) -> Tensor:
        return self._expected([part.mean for part in self.parts])

    def log_prob(self, values: Tensor) -> Tensor:
        each = [share + part.log_prob(values) for part, share in zip(self.parts, self.log_shares, strict=True)]
        return torch.cat(each).logsumexp(0)

    def cdf(self, values: Tensor) -> Tensor:
        return self._expected([part.cdf(values) for part in self.parts])

    def _expected(self, answers: list[Tensor]) -> Tensor:
        """The mean of the answers [S, B, T] of all parts, by their shares."""
        pairs = zip(answers, self._shares, strict=True)
        return torch.stack([(share * answer).sum(0) for answer, share in pairs]).sum(0)

    def _icdf(self, p: float) -> Tensor:
        """The quantiles of all that is mixed, [M, B, T]."""
        return torch.cat([part.icdf(torch.full_like(part.mean, p)) for part in self.parts])

    def quantile(self, p: float) -> Tensor:
        """That of the mixture lies between the least and the largest of those mixed."""
        each = self._icdf(p)
        lower, upper = each.min(0).values, each.max(0).values
        if len(each) == 1:
            return lower
        return bisect(self.cdf, torch.full_like(lower, p), lower, upper, _HALVINGS)

    def values(self) -> tuple[Tensor, Tensor]:
        """Values [N, B, T] that stand for the mixture, the same quantiles of all that is mixed, and their shares."""
        n_each = self._n_levels(_N_VALUES)
        levels = ((torch.arange(n_each) + 0.5) / n_each).tolist()
        shares = (self._every_share / n_each).repeat(n_each, 1, 1)
        return torch.cat([self._icdf(p) for p in levels]), shares

    def std(self) -> Tensor:
        """Standard deviations [B, T], by the trapezoid rule over normal scores, which does not cut off the tails."""
        scores = torch.linspace(-4, 4, self._n_levels(_N_SCORES), device=self.parts[0].mean.device)
        values = torch.stack([self._icdf(float(p)) for p in torch.special.ndtr(scores)])  # [N, M, B, T]
        weights = (-0.5 * scores.square()).softmax(0).view(-1, 1, 1, 1) * self._every_share
        mean = (weights * values).sum((0, 1))
        return (weights * (values - mean).square()).sum((0, 1)).sqrt()

    def draw(self, u: Tensor) -> Tensor:
        """Draws [B, T] for `u` [B, 1 + T]."""
        each = torch.cat([part.icdf(u[:, 1:].expand(len(part.mean), -1, -1)) for part in self.parts])  # [M, B, T]
        cumulative = self._every_share.cumsum(0).squeeze(-1)
        chosen = (cumulative < u[:, 0] * cumulative[-1]).sum(0)
        return each[chosen, torch.arange(len(u), device=u.device)]

    def _n_levels(self, n_wanted: int) -> int:
        """Values that each distribution mixed is to give, so that there are enough of all."""
        return max(8, n_wanted // self.n_draws)
