"""What answers of a fitted model are made with: noise fixed at fit, latents of rows, rows of latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.data.table import read_table
from skvae.estimators.base import BaseVAE, to_numpy
from skvae.training import Noise
from skvae.training.randomness import open_uniform

ROWS_AT_ONCE = 8192
# How far below an entry of a density its probability level is looked for too, in standard deviations, as a repeated
# value has a share of its own; and the least level, in float32, of which there is a quantile.
_BELOW, _LEAST = 1e-4, 2.0**-24


class Answers(BaseVAE):
    """The steps of which the methods of `VAE` are made."""

    @property
    def _noise(self) -> Noise:
        return Noise(self._noise_seed, self._device)

    def _shared_noise(self, n_draws: int) -> torch.Tensor:
        self._check_count(n_draws, "n_draws")
        half = self._noise.normal("shared", (n_draws + 1) // 2, self.model_.latent_dim)
        # In antithetic pairs: odd errors, the same for all rows, cancel.
        return torch.cat([half, -half])[:n_draws]

    def _matched_noise(self, n_draws: int) -> torch.Tensor:
        """Shared noise with the mean and covariance of N(0, I), where there are draws enough.

        Averages of quadratic functions are then exact; for importance weights it would be a bias.
        """
        eps = self._shared_noise(n_draws)
        if n_draws < 4 * eps.shape[1]:
            return eps
        centred = eps - eps.mean(0)
        factor = torch.linalg.cholesky(centred.T @ centred / n_draws)
        return torch.linalg.solve_triangular(factor, centred.T, upper=False).T

    def _check_count(self, value: Any, name: str) -> None:
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number ≥ 1")

    def _latents(self, Z: Any) -> tuple[torch.Tensor, Any]:
        """Latents [n, D], and the row index of a pandas frame."""
        table = read_table(Z)
        latent_dim = self.model_.latent_dim
        if table.numbers.shape[1] != latent_dim or np.isnan(table.numbers).any():
            raise ValueError(
                f"Z has shape {table.numbers.shape}; expected [n, {latent_dim}] finite latents, as `transform` "
                "gives them"
            )
        return torch.from_numpy(table.numbers.astype(np.float32)).to(self._device), table.index

    def _means(self, rows: Batch) -> torch.Tensor:
        """Posterior means, [n, D]."""
        with self._answering(len(rows)):
            return torch.cat([self.model_.encode(piece).mean for piece in rows.chunks(ROWS_AT_ONCE)])

    def _decode(
        self, z: torch.Tensor, draws: torch.Generator | None = None, index: Any = None, identifiers: Any = 0
    ) -> Any:
        """A table from latents [n, D]: draws if a stream is given, else means and modes; see `Schema.decode`."""
        pieces = []
        with self._answering(len(z)):
            for piece in z.split(ROWS_AT_ONCE):
                distribution = self.model_.decode(piece.unsqueeze(0))
                if draws is None:
                    pieces.append(distribution.centre(torch.ones(1, len(piece), device=z.device)))
                else:
                    u = open_uniform((1, len(piece), self.model_.n_columns), draws)
                    pieces.append(self.model_.missing.with_holes(distribution.icdf(u).squeeze(0), draws))
        return self.schema_.decode(to_numpy(torch.cat(pieces)), index=index, identifiers=identifiers)

    def _moved(
        self, rows: Batch, z: torch.Tensor, onto: torch.Tensor, stream: torch.Generator, of: Any = None
    ) -> Any:
        """A table of the rows as they would be at other latents, `onto` [n, D] instead of z [n, D].

        What z does not say of an entry, its probability level given z, stays as it is (abduction, action and
        prediction: Pearl 2009, section 7.1). The level of a discrete entry is drawn from the interval that stands for
        it; missing entries draw theirs too. Rows `of` a table keep its index and its identifiers.
        """
        half = torch.tensor([_half_step(column) for column in self.schema_.modelled], device=z.device)
        pieces = []
        with self._answering(len(z)):
            latents = zip(z.split(ROWS_AT_ONCE), onto.split(ROWS_AT_ONCE), strict=True)
            for piece, ends in zip(rows.chunks(ROWS_AT_ONCE), latents, strict=True):
                here, there = (self.model_.decode(end.unsqueeze(0)) for end in ends)
                drawn = open_uniform((1, len(piece), self.model_.n_columns), stream)
                level = torch.lerp(here.cdf(piece.values - half), here.cdf(piece.values), drawn)
                level = level if piece.observed is None else torch.where(piece.observed, level, drawn)
                pieces.append(there.icdf(level.clamp(_LEAST, 1 - _LEAST)).squeeze(0))
        own = {} if of is None else {"index": of.index, "identifiers": of}
        return self.schema_.decode(to_numpy(torch.cat(pieces)), **own)


def _half_step(column: Column) -> float:
    """How far below an entry that the column can hold, in encoded units, there is none of the others."""
    if column.is_discrete:
        return 0.5
    return 0.5 * column.resolution / column.scale if column.kind == Kind.INTEGER else _BELOW
