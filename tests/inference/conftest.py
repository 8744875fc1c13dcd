"""A linear Gaussian model, of which everything is known: x = W z + b + σ ε, in standardised units."""

import math
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model import MLP, DiagonalNormal, Gaussian, LatentVariableModel, StandardNormal, Table
from skvae.model.networks import Custom

SIGMA = 0.6
UNITS = (10.0, 0.2, 3.0, 1.0)
C = len(UNITS)


class Posterior(nn.Module):
    """The exact posterior's mean and marginal scales, `widen` times as wide and `shift` scales off."""

    def __init__(self, weight: Tensor, bias: Tensor, widen: float, shift: float) -> None:
        super().__init__()
        self.weight, self.bias, self.widen, self.shift = weight, bias, widen, shift

    def forward(self, features: Tensor) -> Tensor:
        x, seen = features.double().chunk(2, -1)
        precision = torch.einsum("nc,ci,cj->nij", seen, self.weight, self.weight) / SIGMA**2
        covariance = torch.linalg.inv(precision + torch.eye(precision.shape[-1]))
        mean = torch.einsum("nij,nj->ni", covariance, ((x - self.bias) * seen) @ self.weight / SIGMA**2)
        scale = covariance.diagonal(dim1=1, dim2=2).sqrt() * self.widen
        out = torch.cat([mean + self.shift * scale, 6 * torch.atanh(scale.log() / 6)], -1)  # undoes the soft limit
        return out.to(features.dtype)


@dataclass
class LinearGaussian:
    model: LatentVariableModel
    weight: Tensor  # [C, D]
    bias: Tensor  # [C]

    def rows(self, n: int, holes: bool = False, seed: int = 0) -> Batch:
        stream = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.weight.shape[1], generator=stream, dtype=torch.float64)
        x = z @ self.weight.T + self.bias + SIGMA * torch.randn(n, C, generator=stream, dtype=torch.float64)
        if not holes:
            return Batch(x)
        observed = torch.rand(n, C, generator=stream) < 0.6
        observed[0] = True
        observed[1] = False
        return Batch(torch.where(observed, x, 0.0), observed=observed)

    def log_p(self, rows: Batch) -> Tensor:
        """Exact marginal density of what is observed, in the units of the data, [n]."""
        covariance = self.weight @ self.weight.T + SIGMA**2 * torch.eye(C)
        answers = []
        for b, x in enumerate(rows.values):
            seen = torch.ones(C, dtype=torch.bool) if rows.mask is None else rows.mask[b]
            density = 0.0
            if seen.any():
                exact = stats.multivariate_normal(self.bias[seen], covariance[seen][:, seen])
                density = exact.logpdf(x[seen]) - torch.tensor(UNITS)[seen].log().sum().item()
            answers.append(density)
        return torch.tensor(answers, dtype=torch.float64)

    def posterior(self, rows: Batch) -> torch.distributions.MultivariateNormal:
        """Exact p(z | x_seen)."""
        seen = torch.ones_like(rows.values) if rows.mask is None else rows.mask.double()
        precision = (
            torch.eye(self.weight.shape[1]) + torch.einsum("nc,ci,cj->nij", seen, self.weight, self.weight) / SIGMA**2
        )
        slope = ((rows.values - self.bias) * seen) @ self.weight / SIGMA**2
        mean = torch.linalg.solve(precision, slope.unsqueeze(-1)).squeeze(-1)
        return torch.distributions.MultivariateNormal(mean, precision_matrix=precision)

    def given_seen(self, rows: Batch) -> tuple[Tensor, Tensor]:
        """Exact mean [n, C] and covariance [n, C, C] of a new x with the z of the row."""
        q = self.posterior(rows)
        covariance = self.weight @ q.covariance_matrix @ self.weight.T + SIGMA**2 * torch.eye(C)
        return q.mean @ self.weight.T + self.bias, covariance


def make_linear_gaussian(
    latent_dim: int = 2, *, widen: float = 1.0, shift: float = 0.0, orthogonal: bool = False, unused: int = 0
) -> LinearGaussian:
    """`orthogonal` loadings make the posterior of whole rows diagonal; the last `unused` latents do nothing."""
    stream = torch.Generator().manual_seed(7)
    weight = torch.randn(C, latent_dim, generator=stream, dtype=torch.float64)
    if orthogonal:
        weight = torch.linalg.qr(weight).Q * torch.linspace(1.5, 0.7, latent_dim)
    weight[:, latent_dim - unused :] = 0.0
    bias = torch.linspace(-1, 1, C, dtype=torch.float64)
    columns = [Column(f"x{c}", Kind.CONTINUOUS, "float64", offset=5.0, scale=unit) for c, unit in enumerate(UNITS)]
    model = LatentVariableModel(
        columns,
        latent_dim=latent_dim,
        encoder=Custom(Posterior(weight, bias, widen, shift)),
        decoder=MLP(()),
        posterior=DiagonalNormal(),
        prior=StandardNormal(),
        likelihood=Table(Gaussian(scale="shared")),
        masks=True,
    ).double()
    with torch.no_grad():
        model.output.weight.copy_(weight)
        model.output.bias.copy_(bias)
        model.posterior.linear.weight.copy_(torch.eye(2 * latent_dim))
        model.posterior.linear.bias.zero_()
        model.likelihood.parts[0].log_scale.fill_(5 * math.atanh(math.log(SIGMA) / 5))
    return LinearGaussian(model.eval(), weight, bias)


@pytest.fixture
def linear_gaussian():
    return make_linear_gaussian


@pytest.fixture
def noise():
    def make(*shape: int, seed: int = 11) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return make
