"""Baselines for densities of tables: independent columns, and a latent-class mixture fitted by EM.

Both score columns by the very likelihoods that the VAE uses and read the same encoded rows, so that figures are
comparable to the VAE's.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skvae import Table
from skvae.data import Batch, Column

# Adam's steps on the expected log-likelihood within each M-step (generalised EM), in the first one, and their size.
_STEPS, _FIRST_STEPS, _LEARNING_RATE = 10, 150, 0.05
# Distinct values of a column that such a step looks at, at most.
_MAX_VALUES = 2048


class LatentClass:
    """p(x) = Σ_k π_k Π_c p_c(x_c | θ_kc); with one component, independent columns.

    Parameters
    ----------
    likelihood : Table
        Bound; its choice for each column is used.
    columns : sequence of Column
    n_components : int
    n_iterations : int
        EM stops earlier when the mean log-likelihood improves by less than 1e-3 nats over five iterations.
    seed : int
    """

    def __init__(
        self, likelihood: Table, columns: Sequence[Column], n_components: int, n_iterations: int = 100, seed: int = 0
    ) -> None:
        self.columns = list(columns)
        self.n_components = n_components
        self.n_iterations = n_iterations
        self.generator = torch.Generator().manual_seed(seed)
        # A copy of the table's likelihood for every column by itself, with parameters for every component.
        self.parts = [Table(likelihood.likelihood, likelihood.chosen).bind([column]) for column in self.columns]
        self.parameters = [
            torch.randn(n_components, 1, part.n_params, generator=self.generator).mul_(0.1).requires_grad_()
            for part in self.parts
        ]
        shared = [p for part in self.parts for p in part.parameters()]
        self.optimizer = torch.optim.Adam([*self.parameters, *shared], lr=_LEARNING_RATE)

    def fit(self, rows: Batch) -> "LatentClass":
        # Columns repeat few values: each is scored once, and looked up.
        values = self._distinct(rows)
        r = torch.rand(len(rows), self.n_components, generator=self.generator) ** 8
        r /= r.sum(1, keepdim=True)
        scores: list[float] = []
        for iteration in range(self.n_iterations):
            self.log_share = (r.mean(0) + 1e-12).log()
            self._maximise(values, r, _STEPS if iteration else _FIRST_STEPS)
            log_joint = self._log_joint(values)
            scores.append(log_joint.logsumexp(1).mean().item())
            if len(scores) > 5 and scores[-1] - scores[-6] < 1e-3:
                break
            r = log_joint.softmax(1)
        return self

    def log_p(self, rows: Batch) -> Tensor:
        """log p(x) of each row, nats, [n]."""
        return self._log_joint(self._distinct(rows)).logsumexp(1)

    def _distinct(self, rows: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Distinct values [U], where each row has them [n], and which rows have one [n], by column."""
        seen = torch.ones_like(rows.values) if rows.mask is None else rows.mask.float()
        return [(*torch.unique(rows.values[:, j], return_inverse=True), seen[:, j]) for j in range(len(self.columns))]

    def _score(self, j: int, values: Tensor) -> Tensor:
        """log p_j of distinct values [U], [K, U]."""
        params = self.parameters[j].expand(-1, len(values), -1)
        return self.parts[j](params).log_prob(values.unsqueeze(1)).squeeze(-1)

    def _maximise(self, columns: list[tuple[Tensor, Tensor, Tensor]], r: Tensor, n_steps: int) -> None:
        """Raise Σ_i Σ_k r_ik log p(x_i | θ_k), which is a sum over distinct values."""
        counts = [
            torch.zeros(len(values), self.n_components).index_add_(0, at, r * seen.unsqueeze(1)).T / len(r)
            for values, at, seen in columns
        ]  # [K, U] each
        for _ in range(n_steps):
            expected = torch.zeros(())
            for j, (values, _, _) in enumerate(columns):
                weight = counts[j]
                if len(values) > _MAX_VALUES:
                    chosen = torch.randint(len(values), (_MAX_VALUES,), generator=self.generator)
                    values, weight = values[chosen], weight[:, chosen] * (len(values) / _MAX_VALUES)
                expected = expected + (weight * self._score(j, values)).sum()
            self.optimizer.zero_grad()
            (-expected).backward()
            # Adam's steps do not depend on a component's share: small ones are not left behind.
            self.optimizer.step()

    @torch.no_grad()
    def _log_joint(self, columns: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """log π_k + log p(x | θ_k), [n, K]."""
        log_p = self.log_share.expand(len(columns[0][1]), -1).clone()
        for j, (values, at, seen) in enumerate(columns):
            pieces = [self._score(j, piece) for piece in values.split(math.ceil(2**21 / self.n_components))]
            log_p += torch.cat(pieces, dim=1).T[at] * seen.unsqueeze(1)
        return log_p
