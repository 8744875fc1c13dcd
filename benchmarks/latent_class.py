"""Baselines for densities of tables: independent columns, and a latent-class mixture fitted by EM.

Both score columns as `likelihood="auto"` does (a normal variable rounded to whole numbers for integer columns,
a normal density for other numbers, probabilities for levels) and read the same encoded rows, so that figures
are comparable to the VAE's.
"""

import math

import torch
from torch import Tensor

from skvae.data import Batch, Column, Kind
from skvae.model.likelihoods.contaminated import Contaminated
from skvae.model.likelihoods.normal import Normal, RoundedNormal

# Added to every level's count, so that a level never has probability 0.
_PSEUDO_COUNT = 0.5


class LatentClass:
    """p(x) = Σ_k π_k Π_c p_k(x_c); with one component, independent columns.

    Parameters
    ----------
    columns : sequence of Column
    n_components : int
    n_iterations : int
        EM stops earlier when the mean log-likelihood improves by less than 1e-4 nats.
    seed : int
    """

    def __init__(self, columns: list[Column], n_components: int, n_iterations: int = 200, seed: int = 0) -> None:
        self.columns = list(columns)
        self.n_components = n_components
        self.n_iterations = n_iterations
        self.seed = seed
        self.numeric = [j for j, c in enumerate(columns) if not c.is_discrete]
        self.discrete = [j for j, c in enumerate(columns) if c.is_discrete]
        chosen = [columns[j] for j in self.numeric]
        scale = torch.tensor([c.scale for c in chosen], dtype=torch.float64)
        self.is_whole = torch.tensor([c.kind == Kind.INTEGER for c in chosen])
        self.cell = torch.where(self.is_whole, 1.0, 1e-9) / scale
        self.log_unit = scale.log()
        # The floors of the VAE's likelihoods: an eighth of a cell, or e^-5 standard deviations.
        self.floor = torch.where(self.is_whole, self.cell / 8, math.exp(-5.0))

    def fit(self, rows: Batch) -> "LatentClass":
        x, seen = rows.values.double(), _seen(rows)
        generator = torch.Generator().manual_seed(self.seed)
        r = torch.rand(len(x), self.n_components, generator=generator, dtype=torch.float64) ** 4
        r /= r.sum(1, keepdim=True)
        before = -math.inf
        for _ in range(self.n_iterations):
            self._maximise(x, seen, r)
            log_joint = self._log_joint(x, seen)
            now = log_joint.logsumexp(1).mean().item()
            if now - before < 1e-4:
                break
            before = now
            r = log_joint.softmax(1)
        return self

    def log_p(self, rows: Batch) -> Tensor:
        """log p(x) of each row, nats, [n]."""
        x, seen = rows.values.double(), _seen(rows)
        return self._log_joint(x, seen).logsumexp(1)

    def _maximise(self, x: Tensor, seen: Tensor, r: Tensor) -> None:
        self.log_share = (r.mean(0) + 1e-12).log()
        numbers, s = x[:, self.numeric], seen[:, self.numeric]
        weight = r.T @ s + 1e-9  # [K, C]
        self.mean = (r.T @ (numbers * s)) / weight
        square = (r.T @ (numbers.square() * s)) / weight
        self.scale = (square - self.mean.square()).clamp(min=0).sqrt().maximum(self.floor)
        self.log_levels = []
        for j in self.discrete:
            one_hot = torch.nn.functional.one_hot(x[:, j].long(), self.columns[j].cardinality).double()
            counts = r.T @ (one_hot * seen[:, j : j + 1]) + _PSEUDO_COUNT / self.columns[j].cardinality
            self.log_levels.append((counts / counts.sum(1, keepdim=True)).log())

    def _log_joint(self, x: Tensor, seen: Tensor) -> Tensor:
        """log π_k + log p_k(x), [n, K]."""
        mean = self.mean.unsqueeze(1).expand(-1, len(x), -1)  # [K, n, C]
        log_scale = self.scale.log().unsqueeze(1)
        numbers, s = x[:, self.numeric], seen[:, self.numeric]
        density = Normal(mean, log_scale, self.log_unit).log_prob(numbers)  # [K, n, C]
        mass = RoundedNormal(mean, log_scale, self.cell, torch.zeros_like(self.cell)).log_prob(numbers)
        log_p = self.log_share + (torch.where(self.is_whole, mass, density) * s).sum(-1).T
        for log_level, j in zip(self.log_levels, self.discrete, strict=True):
            log_p = log_p + log_level[:, x[:, j].long()].T * seen[:, j : j + 1]
        return log_p


def _seen(rows: Batch) -> Tensor:
    return torch.ones_like(rows.values).double() if rows.mask is None else rows.mask.double()
