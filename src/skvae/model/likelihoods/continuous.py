"""Likelihoods of numeric columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from skvae.data.columns import NUMERIC, Column, Kind
from skvae.model.likelihoods.base import Distribution, Likelihood, soft_limit
from skvae.model.likelihoods.contaminated import Contaminated
from skvae.model.likelihoods.normal import Normal
from skvae.model.likelihoods.rounded import Rounded

SCALES = ("shared", "column", "row")

# log σ in standardised units lies within ±5: σ from 0.7 % to 148 times the column's spread.
_LOG_SCALE_LIMIT = 5.0


class Continuous(Likelihood):
    """What likelihoods of numeric columns have in common: the columns' units, and rounding to whole numbers.

    Parameters
    ----------
    rounded : bool
        Score whole numbers by the probability of their rounding cell instead of a density, which could grow
        without bound on a repeated value.
    """

    log_unit: Tensor
    cell: Tensor
    origin: Tensor
    narrowest: Tensor

    def __init__(self, rounded: bool = False) -> None:
        super().__init__()
        self.rounded = rounded

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        return frozenset({Kind.INTEGER}) if self.rounded else NUMERIC

    def bind(self, columns: Sequence[Column]) -> Self:
        unit = torch.tensor([column.scale for column in columns], dtype=torch.float64)
        self.register_buffer("log_unit", unit.log().float(), persistent=False)
        if self.rounded:
            cell = torch.tensor([column.resolution for column in columns], dtype=torch.float64) / unit
            origin = standardised([(column.lower,) for column in columns], columns).squeeze(1)
            # A probability cannot exceed 1, so σ may shrink well inside the cell.
            narrowest = torch.log(cell / 8).clamp(max=-_LOG_SCALE_LIMIT)
            self.register_buffer("cell", cell.float(), persistent=False)
            self.register_buffer("origin", origin.float(), persistent=False)
            self.register_buffer("narrowest", narrowest.float(), persistent=False)
        return self

    def limited(self, raw: Tensor) -> Tensor:
        """log σ [..., C] of a normal variable from a decoder's output."""
        return soft_limit(raw, self.narrowest if self.rounded else -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT)

    def finished(self, density: Distribution) -> Distribution:
        """The density, or its rounded form if that is asked for."""
        return Rounded(density, self.cell, self.origin) if self.rounded else density


class Gaussian(Continuous):
    """Normal likelihood with a learned standard deviation.

    Parameters
    ----------
    scale : {"shared", "column", "row"}
        One σ for all columns (in standardised units; with linear networks this is probabilistic PCA,
        Tipping & Bishop 1999), one per column (factor analysis), or one per entry, predicted by the decoder.
    rounded : bool
        Score whole numbers by the probability of their rounding cell instead of a density, which could grow
        without bound on a repeated value.
    outliers : float
        Share ε of entries that belong to a broad normal over the whole column instead (see `Contaminated`).
    """

    alias = "gaussian"

    def __init__(self, scale: str = "shared", rounded: bool = False, outliers: float = 0.0) -> None:
        super().__init__(rounded)
        self.scale = scale
        self.outliers = outliers

    @property
    def pools(self) -> bool:  # type: ignore[override]
        return self.scale == "shared"

    def bind(self, columns: Sequence[Column]) -> Gaussian:
        if self.scale not in SCALES:
            raise ValueError(f"Gaussian(scale={self.scale!r}) is not understood; expected one of {SCALES}")
        if not 0 <= self.outliers < 1:
            raise ValueError(f"Gaussian(outliers={self.outliers!r}): expected a share in [0, 1)")
        n_columns = len(columns)
        self.n_params = 2 * n_columns if self.scale == "row" else n_columns
        if self.scale != "row":
            self.log_scale = nn.Parameter(torch.zeros(1 if self.scale == "shared" else n_columns))
        return super().bind(columns)

    def forward(self, params: Tensor) -> Distribution:
        mean, raw = params.chunk(2, dim=-1) if self.scale == "row" else (params, self.log_scale)
        normal = Normal(mean, self.limited(raw), self.log_unit)
        return self.finished(Contaminated(normal, self.outliers) if self.outliers else normal)


def default_gaussian(kind: Kind) -> Gaussian:
    """The likelihood of a numeric column of which only the kind is known."""
    return Gaussian(scale="row", rounded=kind == Kind.INTEGER, outliers=1e-3)


def standardised(values: Sequence[Sequence[float]], columns: Sequence[Column]) -> Tensor:
    """Numbers in the units of the data, some for each column, as a Batch holds them; float64 [C, …]."""
    offset = torch.tensor([column.offset for column in columns], dtype=torch.float64).unsqueeze(1)
    scale = torch.tensor([column.scale for column in columns], dtype=torch.float64).unsqueeze(1)
    return (torch.tensor(values, dtype=torch.float64) - offset) / scale
