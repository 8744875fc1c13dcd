"""Questions to a model with each pair of posterior and prior, against integrals on a grid and exact formulas."""

import math

import pytest
import torch
from torch import nn

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.inference import log_likelihood as module
from skvae.inference.conditional import conditional_centre, conditional_draws
from skvae.inference.log_likelihood import elbo, kl_per_dimension, log_likelihood, log_weights, rows_at_once
from skvae.model import (
    MLP,
    AutoregressivePrior,
    Deterministic,
    DiagonalNormal,
    FlowPosterior,
    FlowPrior,
    FullNormal,
    GaussianMixture,
    LatentVariableModel,
    StandardNormal,
    Table,
    VampPrior,
)
from skvae.model.networks import Custom

N, D = 4, 2
COLUMNS = [
    Column("cm", Kind.CONTINUOUS, "float64", offset=170.0, scale=10.0),
    Column("city", Kind.CATEGORICAL, "str", levels=tuple("abc")),
    Column("flag", Kind.BINARY, "bool", levels=(False, True), offset=0.5, scale=0.5),
]
POSTERIORS = {
    "diagonal": DiagonalNormal(),
    "full": FullNormal(),
    "flow": FlowPosterior(2, (8,)),
    "deterministic": Deterministic(),
}
PRIORS = {
    "normal": StandardNormal(),
    "mixture": GaussianMixture(3),
    "vamp": VampPrior(5),
    "flow": FlowPrior(2, (8,)),
    "autoregressive": AutoregressivePrior(4, 12, 1),
}
PAIRS = [(q, p) for q in POSTERIORS for p in PRIORS if p != "vamp" or q in ("diagonal", "full")]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
every_pair_with_density = pytest.mark.parametrize("pair", [p for p in PAIRS if p[0] != "deterministic"], ids="-".join)


def make_model(pair):
    torch.manual_seed(0)
    posterior, prior = pair
    model = LatentVariableModel(
        COLUMNS,
        latent_dim=D,
        encoder=MLP((6,)),
        decoder=MLP((6,)),
        posterior=POSTERIORS[posterior].fresh(),
        prior=PRIORS[prior].fresh(),
        likelihood=Table(),
        masks=True,
    ).double()
    with torch.no_grad():
        for part in (model.posterior, model.prior):
            for parameter in part.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.output.weight.mul_(3)
        if posterior != "deterministic":
            model.posterior.linear.bias[D : 2 * D] = 0.3  # wide enough for importance weights
    return model.eval()


def make_rows(n=N):
    stream = torch.Generator().manual_seed(1)
    values = torch.stack(
        [
            torch.randn(n, generator=stream),
            torch.randint(3, (n,), generator=stream).float(),
            torch.randint(2, (n,), generator=stream).float(),
        ],
        dim=1,
    ).double()
    observed = torch.rand(n, 3, generator=stream) < 0.8
    return Batch(torch.where(observed, values, 0.0), observed=observed)


@every_pair_with_density
def test_log_p_is_the_integral_over_latents(pair, noise):
    model, rows = make_model(pair), make_rows()
    line = torch.linspace(-8, 8, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line).unsqueeze(1).expand(-1, N, -1)
    with torch.no_grad():
        log_p_x = (model.decode(grid).log_prob(rows.values) * rows.mask).sum(-1)
        log_p = (log_p_x + model.prior.log_prob(grid)).logsumexp(0) + 2 * math.log(0.2)
    answer = log_likelihood(model, model.prior, rows, noise(10_000, D))
    assert answer.effective_draws.min() > 1_000
    assert ((answer.log_p - log_p).abs() < 4 / answer.effective_draws.sqrt()).all()
    bound = elbo(model, rows, noise(10_000, D))
    assert (bound < log_p + 0.02).all()
    # E_q[log w], with the draws' own log q and a divergence that adds up.
    torch.testing.assert_close(
        bound, log_weights(model, model.prior, rows, noise(10_000, D))[1].mean(0), rtol=0, atol=0.05
    )


@every_pair
def test_kl_per_dimension(pair):
    kl = kl_per_dimension(make_model(pair), make_rows())
    assert (kl is not None) == (pair in [("diagonal", "normal"), ("full", "normal")])
    assert kl is None or kl.shape == (N, D)


@every_pair
@pytest.mark.parametrize("at_once", [1, 3])
def test_neither_pieces_nor_neighbours_matter(pair, noise, monkeypatch, at_once):
    model, rows, eps = make_model(pair), make_rows(), noise(5, D)

    def ask(rows):
        draws = conditional_draws(model, model.prior, rows, eps, 3, torch.Generator())
        answers = [conditional_centre(model, model.prior, rows, eps), draws.transpose(0, 1)]
        if pair[0] != "deterministic":
            answers += [log_likelihood(model, model.prior, rows, eps).log_p, elbo(model, rows, eps)]
        return answers

    whole = ask(rows)
    for one, other in zip(ask(rows.rows(torch.arange(2))), whole, strict=True):
        torch.testing.assert_close(one, other[:2])
    for name in ("log_likelihood", "conditional"):
        monkeypatch.setattr(f"skvae.inference.{name}.rows_at_once", lambda *_: at_once)
    for one, other in zip(ask(rows), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("prior", PRIORS)
def test_what_a_point_answers(prior, noise):
    """No log p(x); completion decodes the latents of what is seen, whatever the prior."""
    if prior == "vamp":
        return
    model, rows, eps = make_model(("deterministic", prior)), make_rows(), noise(5, D)
    message = "posterior='deterministic' has no density .* fit with posterior='diagonal'"
    with pytest.raises(ValueError, match=message):
        log_likelihood(model, model.prior, rows, eps)
    with pytest.raises(ValueError, match=message):
        elbo(model, rows, eps)
    z = model.encode(rows).mean.unsqueeze(0)
    expected = model.decode(z).centre(torch.ones(1, N))
    torch.testing.assert_close(conditional_centre(model, model.prior, rows, eps), expected)


def test_components_are_made_once_for_all_draws(noise, monkeypatch):
    model, rows = make_model(("diagonal", "vamp")), make_rows()
    made = []
    components = model.prior.components
    monkeypatch.setattr(model.prior, "components", lambda: made.append(1) or components())
    log_likelihood(model, model.prior, rows, noise(50, D))
    assert len(made) == 1
    monkeypatch.setattr(module, "rows_at_once", lambda *_: 2)
    log_likelihood(model, model.prior, rows, noise(50, D))
    assert len(made) == 1 + 2


def test_memory_counts_what_the_prior_and_the_posterior_hold():
    model = make_model(("diagonal", "normal"))
    before = rows_at_once(model, 100)
    for n in (500, 5_000):
        assert rows_at_once(model, 100, VampPrior(n).bind(D)) * 100 * 2 * n <= 2**24
        assert rows_at_once(model, 100, GaussianMixture(n).bind(D)) * 100 * 2 * n <= 2**24
    assert rows_at_once(model, 100, VampPrior(2).bind(40)) * 100 * 40**2 <= 2**24
    assert rows_at_once(model, 100, FlowPrior(hidden_sizes=(1000,)).bind(D)) * 100 * 1000 <= 2**24
    model.posterior = FlowPosterior(hidden_sizes=(1000,)).bind(6, D)
    assert rows_at_once(model, 100) * 100 * 1000 <= 2**24 < before * 100 * 1000


class ExactPosterior(nn.Module):
    """Mean and Cholesky factor of p(z|x) of a linear Gaussian model, for rows without holes."""

    def __init__(self, exact):
        super().__init__()
        self.exact = (exact,)

    def forward(self, features):
        x = features.double().chunk(2, -1)[0]
        q = self.exact[0].posterior(Batch(x))
        tril = torch.linalg.cholesky(q.covariance_matrix)
        raw = 6 * torch.atanh(tril.diagonal(dim1=1, dim2=2).log() / 6)  # undoes the soft limit
        i, j = torch.tril_indices(*tril.shape[1:], -1)
        return torch.cat([q.mean, raw, tril[:, i, j]], -1).to(features.dtype)


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_a_full_normal_posterior_reaches_log_p(linear_gaussian, noise, latent_dim):
    """ELBO = log p(x), where the posterior of a linear Gaussian model has correlations; each draw is exact."""
    exact = linear_gaussian(latent_dim)
    model, rows = exact.model, exact.rows(N)
    model.encoder = Custom(ExactPosterior(exact)).bind(model.embedding.n_out)
    model.posterior = FullNormal().bind(model.encoder.n_out, latent_dim).double()
    with torch.no_grad():
        model.posterior.linear.weight.copy_(torch.eye(model.encoder.n_out))
        model.posterior.linear.bias.zero_()
    log_p = exact.log_p(rows)
    torch.testing.assert_close(log_likelihood(model, model.prior, rows, noise(1, latent_dim)).log_p, log_p)
    nodes = math.sqrt(latent_dim) * torch.cat([torch.eye(latent_dim), -torch.eye(latent_dim)]).double()
    torch.testing.assert_close(elbo(model, rows, nodes), log_p)  # with the KL in closed form
    kl = kl_per_dimension(model, rows).sum(-1)
    prior = torch.distributions.MultivariateNormal(torch.zeros(latent_dim).double(), torch.eye(latent_dim).double())
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(exact.posterior(rows), prior))
