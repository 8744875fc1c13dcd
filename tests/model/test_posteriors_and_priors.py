"""q(z|x) and p(z) against scipy, torch.distributions, autograd, brute force and draws. A new one is a row."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td

from skvae.data.columns import Column, Kind
from skvae.model import (
    MLP,
    AutoregressivePrior,
    ConditionalNormal,
    Deterministic,
    DiagonalNormal,
    FlowMatchingPrior,
    FlowPosterior,
    FlowPrior,
    FullNormal,
    GaussianMixture,
    LatentVariableModel,
    StandardNormal,
    Table,
    VampPrior,
)
from skvae.model.posteriors import FullNormalPosterior, NormalPosterior
from skvae.model.priors import kl_divergence

S, B, D, H, N_CONTEXT = 5, 3, 2, 4, 2
CONTEXT = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, -1.0]], dtype=torch.float64)


def spread(part, by=0.3):
    """Double precision, and parameters other than those it starts from."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.double().parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
    return part


def model_with(prior, posterior=None):
    return LatentVariableModel(
        [Column(f"x{c}", Kind.CONTINUOUS, "float64") for c in range(3)],
        latent_dim=D,
        encoder=MLP((H,)),
        decoder=MLP(()),
        posterior=posterior or DiagonalNormal(),
        prior=prior,
        likelihood=Table("gaussian"),
        masks=False,
    )


def vamp(posterior, **params):
    """A VampPrior of a model whose posteriors are narrow enough to be told apart."""
    model = spread(model_with(VampPrior(**params), posterior))
    with torch.no_grad():
        model.posterior.linear.weight.mul_(2)
        model.posterior.linear.bias[D:] -= 0.5
    return model.prior


def make_posteriors():
    torch.manual_seed(0)
    hidden = torch.randn(B, H, dtype=torch.float64)
    unbound = {
        "diagonal": DiagonalNormal(),
        "full": FullNormal(),
        "flow": FlowPosterior(2, (8,)),
        "flow, splines": FlowPosterior(2, (8,), transform="spline"),
        "flow, linear coupling": FlowPosterior(2, (), passes=2, n_context=3),
    }
    return {name: (spread(part.bind(H, D), 0.5 if part.is_normal else 0.2), hidden) for name, part in unbound.items()}


def make_priors():
    torch.manual_seed(0)
    priors = {
        "normal": StandardNormal().bind(D),
        "mixture": spread(GaussianMixture(4).bind(D), by=0.5),
        "vamp": vamp(DiagonalNormal(), n_pseudo_inputs=5),
        "vamp, full": vamp(FullNormal(), n_pseudo_inputs=6, learn_weights=True),
        "flow": spread(FlowPrior(2, (8,)).bind(D)),
        "flow, splines": spread(FlowPrior(2, (8,), transform="spline", passes=2).bind(D)),
        "flow, context": spread(FlowPrior(2, (8,)).bind(D, N_CONTEXT)),
        "conditional": spread(ConditionalNormal().bind(D, N_CONTEXT)),
        "autoregressive": spread(AutoregressivePrior(3, 12).bind(D)),
        "autoregressive, context": spread(AutoregressivePrior(2, 8, 1).bind(D, N_CONTEXT)),
        "flow matching": spread(FlowMatchingPrior(8, 1).bind(D)),
        "flow matching, context": spread(FlowMatchingPrior(8, 1).bind(D, N_CONTEXT)),
        "mixture, full": spread(GaussianMixture(4, covariance="full").bind(D), by=0.5),
    }
    return {
        name: (prior, CONTEXT if name == "conditional" or name.endswith(", context") else None)
        for name, prior in priors.items()
    }


POSTERIORS, PRIORS = make_posteriors(), make_priors()
NORMAL = ("diagonal", "full")
every_posterior = pytest.mark.parametrize("name", POSTERIORS)
every_normal_posterior = pytest.mark.parametrize("name", NORMAL)
every_prior = pytest.mark.parametrize("name", PRIORS)
every_closed_pair = pytest.mark.parametrize(
    "pair", [(q, p) for q in NORMAL for p in ("normal", "conditional")], ids="-".join
)


def posterior(name):
    part, hidden = POSTERIORS[name]
    return part(hidden)


def normal_posterior(seed=0):
    stream = torch.Generator().manual_seed(seed)
    mean = torch.randn(B, D, generator=stream, dtype=torch.float64)
    return NormalPosterior(mean, 0.7 * torch.randn(B, D, generator=stream, dtype=torch.float64))


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_torch(q):
    """What torch.distributions calls a normal posterior."""
    tril = q.scale_tril if isinstance(q, FullNormalPosterior) else torch.diag_embed(q.scale)
    return td.MultivariateNormal(q.mean, scale_tril=tril)


def prior_in_torch(name):
    prior, context = PRIORS[name]
    if name == "normal":
        return td.MultivariateNormal(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    scale = 6 * torch.tanh(prior.raw_log_scale / 6)
    return td.MultivariateNormal(prior.linear(context), scale_tril=torch.diag(scale.exp()))


def jacobians(function, x):
    """∂ function(x)_sb / ∂ x_sb of each draw and row, [S, B, D, D], one dimension at a time."""
    x = x.clone().requires_grad_()
    y = function(x)
    return torch.stack([torch.autograd.grad(y[..., d].sum(), x, retain_graph=True)[0] for d in range(D)], dim=-2)


def assert_fits(draws, log_prob, n_lines=160):
    """A χ² test of draws [n, 2] against the density, integrated over 36 cells in coordinates of the draws."""
    mean, tril = draws.mean(0), torch.linalg.cholesky(draws.T.cov())
    step = 12 / n_lines
    line = torch.linspace(-6 + step / 2, 6 - step / 2, n_lines, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    log_density = log_prob((mean + grid @ tril.T).unsqueeze(1)).squeeze(1) + tril.diagonal().log().sum()
    mass = log_density.exp() * step**2
    assert mass.sum().item() == pytest.approx(1.0, abs=2e-3)
    edges = torch.linspace(-1.2, 1.2, 5).double()  # each between two lines of the grid

    def cell(y):
        i, j = (torch.searchsorted(edges, y[:, d].contiguous()) for d in range(D))
        return 6 * i + j

    standardised = torch.linalg.solve_triangular(tril, (draws - mean).T, upper=False).T
    counts = torch.bincount(cell(standardised), minlength=36)
    expected = torch.zeros(36, dtype=torch.float64).index_add(0, cell(grid), mass)
    expected = expected / expected.sum() * len(draws)
    few = expected < 5
    counts, expected = (torch.cat([x[~few], x[few].sum().unsqueeze(0)]) for x in (counts, expected))
    assert stats.chisquare(counts + 1e-9, expected + 1e-9).pvalue > 1e-3


@every_normal_posterior
def test_log_prob_of_a_normal_posterior(name):
    q, z = posterior(name), noise(S, B, D)
    torch.testing.assert_close(q.log_prob(z), in_torch(q).log_prob(z))
    torch.testing.assert_close(q.variance, in_torch(q).variance)
    assert q.log_prob(noise(S, 1, D)).shape == (S, B)


@pytest.mark.parametrize("name", [name for name in POSTERIORS if name not in NORMAL])
def test_log_prob_of_a_flow_posterior(name):
    """Change of variables with the determinant by autograd; the density of draws and of any latent agree."""
    q, eps = posterior(name), noise(S, B, D)
    z = q.rsample(eps)
    expected = stats.norm.logpdf(eps).sum(-1) - jacobians(q.rsample, eps).det().abs().log().numpy()
    z = q.rsample(eps)
    np.testing.assert_allclose(q.log_prob(z).detach(), expected)
    np.testing.assert_allclose(q.log_prob(z.clone()).detach(), expected)


def test_draws_are_not_inverted(monkeypatch):
    q = posterior("flow")
    inverted = []
    flow = q.flow
    q.flow = lambda *args, inverse=False: inverted.append(inverse) or flow(*args, inverse=inverse)
    z = q.rsample(noise(S, B, D))
    q.log_prob(z)
    assert inverted == [False]
    q.log_prob(z + 1)
    assert inverted == [False, True]


@every_posterior
def test_draws_of_a_posterior(name):
    q, n = posterior(name), 5_000
    z = q.rsample(noise(n, B, D)).detach()
    assert z.shape == (n, B, D)
    rows = np.corrcoef(z[:, :, 0].T)
    assert np.abs(rows - np.eye(B)).max() < 0.06  # rows are independent
    part, hidden = POSTERIORS[name]
    one = part(hidden[:1])
    with torch.no_grad():
        assert_fits(z[:, 0], one.log_prob)


@every_posterior
def test_noise_shared_by_all_rows(name):
    q, eps = posterior(name), noise(S, 1, D)
    z = q.rsample(eps)
    log_q = q.log_prob(z)
    assert z.shape == (S, B, D)
    assert log_q.shape == (S, B)
    torch.testing.assert_close(q.rsample(eps.expand(S, B, D)), z)
    torch.testing.assert_close(q.log_prob(z.clone()), log_q)


@every_posterior
def test_a_row_does_not_depend_on_the_others(name):
    part, hidden = POSTERIORS[name]
    eps = noise(S, B, D)
    z = part(hidden).rsample(eps)
    for b in range(B):
        alone = part(hidden[b : b + 1])
        torch.testing.assert_close(alone.rsample(eps[:, b : b + 1]), z[:, b : b + 1])
        torch.testing.assert_close(alone.mean, part(hidden).mean[b : b + 1])


@every_posterior
def test_mean(name):
    """The same at every call: the image of no noise, which is the expected value of a normal posterior."""
    q = posterior(name)
    assert torch.equal(q.mean, posterior(name).mean)
    torch.testing.assert_close(q.rsample(torch.zeros(1, B, D, dtype=torch.float64))[0], q.mean)


@every_posterior
def test_detached_posterior(name):
    """Its log q is a function of z alone; path and score make up the whole derivative of log q of a draw."""
    part, hidden = POSTERIORS[name]
    parameters = list(part.parameters())
    q = part(hidden)
    z = q.rsample(noise(S, B, D))
    whole, detached = q.log_prob(z), q.detach().log_prob(z)
    torch.testing.assert_close(detached, whole)
    score = part(hidden).log_prob(z.detach())  # parameters alone
    assert q.detach().log_prob(z.detach()).requires_grad is False

    by_z = torch.autograd.grad(detached.sum(), z, retain_graph=True)[0]
    other = z.detach().clone().requires_grad_()
    torch.testing.assert_close(by_z, torch.autograd.grad(part(hidden).log_prob(other).sum(), other)[0])

    def gradient(value):
        return torch.autograd.grad(
            value.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    for total, path, direct in zip(*map(gradient, (whole, detached, score)), strict=True):
        torch.testing.assert_close(total, path + direct)


@every_normal_posterior
def test_density_under_every_row(name):
    q, z = posterior(name), noise(S, 7, D)
    expected = in_torch(q).log_prob(z.unsqueeze(-2))
    assert expected.shape == (S, 7, B)
    torch.testing.assert_close(q.log_prob_by_row(z), expected)
    some = torch.tensor([2, 0, 0])
    torch.testing.assert_close(q.rows(some).log_prob_by_row(z), expected[..., some])


@every_normal_posterior
def test_pieces_are_joined(name):
    q, z = posterior(name), noise(S, 2 * B, D)
    both = type(q).joined([q, q.rows(torch.tensor([2, 0, 1]))])
    expected = torch.cat([q.log_prob(z[:, :B]), q.rows(torch.tensor([2, 0, 1])).log_prob(z[:, B:])], dim=1)
    torch.testing.assert_close(both.log_prob(z), expected)


@pytest.mark.parametrize("cls", [NormalPosterior, FullNormalPosterior])
def test_narrow_components_far_from_zero(cls):
    """In single precision a multiplied-out square would be off by nats."""
    mean = torch.tensor([[4.0, -3.0], [2.0, 5.0]])
    log_scale = torch.full((2, D), -5.0)
    q = cls(mean, log_scale, *([torch.diag_embed(log_scale.exp())] if cls is FullNormalPosterior else []))
    z = mean + 0.01 * torch.tensor([1.0, -0.5])
    expected = q.log_prob(z.unsqueeze(0))[0]
    found = q.log_prob_by_row(z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.diagonal(), expected, rtol=0, atol=1e-3)


def test_posterior_of_hidden_units():
    part = DiagonalNormal().bind(H, D)
    with torch.no_grad():
        part.linear.weight.mul_(1000)  # far beyond what the scale may be
    hidden = torch.randn(7, H)
    q = part(hidden)
    assert q.mean.shape == q.scale.shape == (7, D)
    assert (q.log_scale.abs() <= 6.0).all()
    torch.testing.assert_close(q.mean, part.linear(hidden)[:, :D])


@pytest.mark.parametrize("latent_dim", [1, 4])
def test_full_covariance_of_hidden_units(latent_dim):
    part = FullNormal().bind(H, latent_dim)
    assert part.linear.out_features == latent_dim * (latent_dim + 3) // 2
    hidden = torch.randn(7, H)
    q = part(hidden)
    tril = q.scale_tril
    torch.testing.assert_close(tril.diagonal(dim1=1, dim2=2), q.log_scale.exp())
    assert (tril.triu(1) == 0).all()
    i, j = torch.tril_indices(latent_dim, latent_dim, -1)
    torch.testing.assert_close(tril[:, i, j], part.linear(hidden)[:, 2 * latent_dim :])


def test_deterministic():
    part = Deterministic().bind(H, D)
    hidden = torch.randn(B, H)
    q = part(hidden)
    torch.testing.assert_close(q.mean, part.linear(hidden))
    assert torch.equal(q.rsample(torch.randn(S, 1, D)), q.mean.expand(S, B, D))
    assert q.rsample(torch.randn(S, B, D)).requires_grad
    assert not q.detach().mean.requires_grad
    with pytest.raises(ValueError, match="posterior='deterministic' has no density"):
        q.log_prob(torch.zeros(S, B, D))
    for prior, context in PRIORS.values():
        assert kl_divergence(q, prior, context) is None


@every_closed_pair
def test_closed_form_kl_against_torch(pair):
    q, (p, context) = posterior(pair[0]), PRIORS[pair[1]]
    by_dimension = kl_divergence(q, p, context)
    assert by_dimension.shape == (B, D)
    assert (by_dimension > 0).all()
    torch.testing.assert_close(by_dimension.sum(-1), td.kl_divergence(in_torch(q), prior_in_torch(pair[1])))


@pytest.mark.parametrize("prior", ["normal", "conditional"])
def test_kl_by_dimension_is_that_given_those_before(prior):
    """E over z_1 of KL(q(z_2|z_1) ‖ p(z_2)), by draws; the first dimension's is that of its marginal."""
    q, (p, context) = posterior("full"), PRIORS[prior]
    target = prior_in_torch(prior)
    mean, deviation = target.mean, target.variance.sqrt()
    found = kl_divergence(q, p, context)
    tril = q.scale_tril
    first = td.kl_divergence(td.Normal(q.mean[:, 0], tril[:, 0, 0]), td.Normal(mean[..., 0], deviation[..., 0]))
    torch.testing.assert_close(found[:, 0], first)
    z = q.mean[:, 1] + tril[:, 1, 0] * noise(40_000, B)
    second = td.kl_divergence(td.Normal(z, tril[:, 1, 1]), td.Normal(mean[..., 1], deviation[..., 1]))
    assert ((second.mean(0) - found[:, 1]).abs() < 4 * second.std(0) / 200).all()


@every_closed_pair
def test_closed_form_kl_against_draws(pair):
    q, (p, context) = posterior(pair[0]), PRIORS[pair[1]]
    n = 100_000
    z = q.rsample(noise(n, B, D))
    ratio = q.log_prob(z) - p.log_prob(z, context)  # [n, B]
    error = ratio.std(0) / n**0.5
    assert ((kl_divergence(q, p, context).sum(-1) - ratio.mean(0)).abs() < 4 * error).all()


def test_kl_is_zero_only_at_the_prior():
    zero, one = torch.zeros(1, D), torch.eye(D).unsqueeze(0)
    at_start = ConditionalNormal().bind(D, N_CONTEXT)
    for q in (NormalPosterior(zero, zero), FullNormalPosterior(zero, zero, one)):
        assert (kl_divergence(q, StandardNormal().bind(D)) == 0).all()
        assert (kl_divergence(q, at_start, torch.randn(1, N_CONTEXT)) == 0).all()
    assert (kl_divergence(normal_posterior(), StandardNormal().bind(D)) > 0).all()


def test_kl_without_a_closed_form():
    class Other(StandardNormal):
        pass

    assert kl_divergence(normal_posterior(), Other().bind(D)) is None
    assert kl_divergence(posterior("flow"), StandardNormal().bind(D)) is None
    for name in ("mixture", "vamp", "flow"):
        assert kl_divergence(normal_posterior(), PRIORS[name][0]) is None


@pytest.mark.parametrize("name", ["normal", "conditional"])
def test_log_prob_of_a_normal_prior(name):
    (prior, context), z = PRIORS[name], noise(S, B, D)
    torch.testing.assert_close(prior.log_prob(z, context), prior_in_torch(name).log_prob(z))


def test_log_prob_of_a_mixture():
    prior, z = PRIORS["mixture"][0], noise(S, B, D)
    scale = (6 * torch.tanh(prior.raw_log_scales / 6)).exp()
    components = td.Independent(td.Normal(prior.means, scale), 1)
    expected = td.MixtureSameFamily(td.Categorical(logits=prior.logits), components)
    torch.testing.assert_close(prior.log_prob(z), expected.log_prob(z))
    posterior_odds = expected.mixture_distribution.probs * components.log_prob(z.unsqueeze(-2)).exp()
    torch.testing.assert_close(prior.log_joint(z).softmax(-1), posterior_odds / posterior_odds.sum(-1, keepdim=True))


@pytest.mark.parametrize("name", ["vamp", "vamp, full"])
def test_log_prob_of_a_vamp_prior_by_brute_force(name):
    prior, z = PRIORS[name][0], noise(S, B, D)
    model = prior._model[0]
    weights = torch.full((5,), 0.2) if prior.logits is None else prior.logits.softmax(0)
    density = torch.zeros(S, B, dtype=torch.float64)
    for weight, pseudo_input in zip(weights, prior.pseudo_inputs, strict=True):
        q = model.posterior(model.encoder(pseudo_input.unsqueeze(0)))
        density = density + weight * in_torch(q).log_prob(z).exp()
    torch.testing.assert_close(prior.log_prob(z), density.log())


@pytest.mark.parametrize("name", ["flow", "flow, splines", "flow, context"])
def test_log_prob_of_a_flow_prior(name):
    """Change of variables with the determinant by autograd, and draws that are mapped back to their noise."""
    (prior, context), z = PRIORS[name], noise(S, B, D)
    eps = prior.flow(z, context)[0].detach()
    log_det = jacobians(lambda x: prior.flow(x, context)[0], z).det().abs().log()
    expected = stats.norm.logpdf(eps).sum(-1) + log_det.numpy()
    np.testing.assert_allclose(prior.log_prob(z, context).detach(), expected)
    torch.testing.assert_close(prior.sample(eps, context), z)


@every_prior
def test_draws_of_a_prior(name):
    prior, context = PRIORS[name]
    n = 5_000
    eps = noise(n, prior.n_noise)
    one = None if context is None else context[:1]
    with torch.no_grad():
        z = prior.sample(eps.unsqueeze(1), one).squeeze(1)
        assert z.shape == (n, D)
        assert_fits(z, lambda grid: prior.log_prob(grid, one))


@every_prior
def test_draws_of_any_shape(name):
    prior, context = PRIORS[name]
    eps = noise(S, B, prior.n_noise)
    z = prior.sample(eps, context)
    assert z.shape == (S, B, D)
    for b in range(B):
        own = None if context is None else context[b]
        torch.testing.assert_close(prior.sample(eps[:, b], own), z[:, b])


@every_prior
def test_the_density_of_a_prior_is_that_of_each_latent(name):
    prior, context = PRIORS[name]
    z = noise(S, B, D)
    value = prior.log_prob(z, context)
    assert value.shape == (S, B)
    for b in range(B):
        own = None if context is None else context[b : b + 1]
        torch.testing.assert_close(prior.log_prob(z[2:3, b : b + 1], own), value[2:3, b : b + 1])


@every_prior
def test_a_prior_learns_from_latents(name):
    prior, context = PRIORS[name]
    z = noise(S, B, D).requires_grad_()
    prior.log_prob(z, context).sum().backward()
    assert torch.isfinite(z.grad).all()
    for parameter in prior.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert (parameter.grad != 0).any()
        parameter.grad = None
