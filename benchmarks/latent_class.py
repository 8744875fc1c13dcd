"""Baselines for densities of tables: independent columns, and a latent-class mixture fitted by EM.

Both score columns by the very likelihoods that `likelihood="auto"` uses and read the same encoded rows, so that
figures are comparable to the VAE's.
"""

import math

import torch
from torch import Tensor

from skvae.data import Batch, Column, Kind
from skvae.model.likelihoods.normal import Normal, RoundedNormal

# Of the default likelihood of numeric columns: the share and the width of its broad component.
_OUTLIERS, _BROAD = 1e-3, math.log(3.0)
# Added to every level's count, so that a level never has probability 0.
_PSEUDO_COUNT = 0.5


class LatentClass:
    """p(x) = Σ_k π_k Π_c p_k(x_c); with one component, independent columns.

    Parameters
    ----------
    columns : sequence of Column
    n_components : int
    n_iterations : int
        EM stops earlier when the mean log-likelihood improves by less than 1e-3 nats.
    seed : int
    """

    def __init__(self, columns: list[Column], n_components: int, n_iterations: int = 100, seed: int = 0) -> None:
        self.columns = list(columns)
        self.n_components = n_components
        self.n_iterations = n_iterations
        self.seed = seed
        self.parameters: list[tuple[Tensor, ...]] = []

    def fit(self, rows: Batch) -> "LatentClass":
        # Columns repeat few values: each is scored once, and looked up.
        columns = self._distinct(rows)
        generator = torch.Generator().manual_seed(self.seed)
        r = torch.rand(len(rows), self.n_components, generator=generator) ** 8
        r /= r.sum(1, keepdim=True)
        self.parameters = [self._start(j) for j in range(len(self.columns))]
        before = -math.inf
        for _ in range(self.n_iterations):
            self.log_share = (r.mean(0) + 1e-12).log()
            self.parameters = [self._maximise(j, *columns[j], r) for j in range(len(self.columns))]
            log_joint = self._log_joint(columns)
            now = log_joint.logsumexp(1).mean().item()
            if now - before < 1e-3:
                break
            before = now
            r = log_joint.softmax(1)
        return self

    def log_p(self, rows: Batch) -> Tensor:
        """log p(x) of each row, nats, [n]."""
        return self._log_joint(self._distinct(rows)).logsumexp(1)

    def _distinct(self, rows: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Distinct values [U], where each row has them [n], and which rows have one [n], by column."""
        seen = torch.ones_like(rows.values) if rows.mask is None else rows.mask.float()
        return [(*torch.unique(rows.values[:, j], return_inverse=True), seen[:, j]) for j in range(len(self.columns))]

    def _start(self, j: int) -> tuple[Tensor, ...]:
        return (torch.zeros(self.n_components), torch.full((self.n_components,), 0.0))

    def _maximise(self, j: int, values: Tensor, at: Tensor, seen: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        column = self.columns[j]
        counts = torch.zeros(len(values), self.n_components).index_add_(0, at, r * seen.unsqueeze(1))  # [U, K]
        if column.is_discrete:
            levels = torch.full((column.cardinality, self.n_components), _PSEUDO_COUNT / column.cardinality)
            levels[values.long()] += counts
            return ((levels / levels.sum(0)).log(),)
        core, broad = self._numeric(j, values, *self.parameters[j])
        counts = counts * torch.sigmoid(core - broad)  # entries of the broad component say nothing of the core
        weight = counts.sum(0) + 1e-6
        mean = (counts * values.unsqueeze(1)).sum(0) / weight
        variance = (counts * (values.unsqueeze(1) - mean).square()).sum(0) / weight
        # The floors of the VAE's likelihoods: an eighth of a cell, or e^-5 standard deviations.
        floor = 1 / (8 * column.scale) if column.kind == Kind.INTEGER else math.exp(-5.0)
        return mean, variance.sqrt().clamp(min=floor).log()

    def _numeric(self, j: int, values: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted log-probabilities of both parts of the likelihood, [U, K]."""
        column = self.columns[j]

        def log_prob(mean: Tensor, log_scale: Tensor) -> Tensor:
            if column.kind == Kind.INTEGER:
                cell = torch.tensor(1 / column.scale)
                return RoundedNormal(mean, log_scale, cell, torch.zeros(())).log_prob(values.unsqueeze(1))
            unit = torch.tensor(math.log(column.scale))
            return Normal(mean, log_scale, unit).log_prob(values.unsqueeze(1))

        mean = mean.expand(len(values), -1)
        core = log_prob(mean, log_scale) + math.log1p(-_OUTLIERS)
        broad = log_prob(torch.zeros_like(mean), torch.full_like(log_scale, _BROAD)) + math.log(_OUTLIERS)
        return core, broad

    def _log_joint(self, columns: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """log π_k + log p_k(x), [n, K]."""
        log_p = self.log_share
        for j, (values, at, seen) in enumerate(columns):
            if self.columns[j].is_discrete:
                scores = self.parameters[j][0][values.long()]
            else:
                scores = torch.logaddexp(*self._numeric(j, values, *self.parameters[j]))
            log_p = log_p + scores[at] * seen.unsqueeze(1)
        return log_p
