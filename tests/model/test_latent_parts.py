"""Posteriors and priors as parts: where they start, what they share, copy and refuse."""

import copy
import gc
import math
import sys
import weakref

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td

from skvae.data.batch import Batch
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
    Prior,
    StandardNormal,
    Table,
    VampPrior,
)
from skvae.model.posteriors import NormalPosterior

S, B, D, H = 5, 3, 2, 4
COLUMNS = [
    Column("cm", Kind.CONTINUOUS, "float64"),
    Column("city", Kind.CATEGORICAL, "str", levels=tuple("abc")),
    Column("flag", Kind.BINARY, "bool", levels=(False, True), offset=0.5, scale=0.5),
]


def model_with(prior, posterior=None):
    return LatentVariableModel(
        COLUMNS,
        latent_dim=D,
        encoder=MLP((H,)),
        decoder=MLP(()),
        posterior=posterior or DiagonalNormal(),
        prior=prior,
        likelihood=Table(),
        masks=True,
    )


def rows(n=200):
    values = torch.stack([3 + 2 * torch.randn(n), torch.randint(3, (n,)).float(), (torch.rand(n) < 0.7).float()], 1)
    return Batch(values, observed=torch.rand(n, 3) < 0.8)


@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("transform", ["affine", "spline"])
def test_a_flow_posterior_starts_as_the_diagonal_one(latent_dim, transform):
    q = FlowPosterior(transform=transform).bind(H, latent_dim)(torch.randn(B, H))
    eps = torch.randn(S, B, latent_dim)
    z = q.rsample(eps)
    torch.testing.assert_close(z, q.location + q.scale * eps)
    torch.testing.assert_close(q.log_prob(z), NormalPosterior(q.location, q.log_scale).log_prob(z))


@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("transform", ["affine", "spline"])
def test_a_flow_prior_starts_as_the_standard_normal(latent_dim, n_context, transform):
    prior = FlowPrior(transform=transform).bind(latent_dim, n_context)
    z, context = 2 * torch.randn(S, B, latent_dim), torch.randn(B, n_context) if n_context else None
    torch.testing.assert_close(prior.log_prob(z, context), StandardNormal().bind(latent_dim).log_prob(z))
    torch.testing.assert_close(prior.sample(z, context), z)


def wild(prior, by=0.5):
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return prior


@pytest.mark.parametrize("n_context", [0, 2])
def test_flow_matching_starts_where_the_latents_are(n_context):
    prior = FlowMatchingPrior().bind(3, n_context)
    z, context = 5 + 2 * torch.randn(400, 3), torch.randn(400, n_context) if n_context else None
    prior.look_at(z)
    expected = stats.norm.logpdf(z, z.mean(0), z.std(0, correction=0)).sum(1)
    np.testing.assert_allclose(prior.log_prob(z.unsqueeze(0), context)[0].detach(), expected, rtol=1e-4)
    eps = torch.randn(400, 3)
    torch.testing.assert_close(prior.sample(eps, context), z.mean(0) + z.std(0, correction=0) * eps)


@pytest.mark.parametrize("n_blocks", [0, 2])
def test_the_density_of_flow_matching_is_that_of_its_draws(n_blocks):
    """Change of variables, with the determinant of the whole map by autograd."""
    torch.manual_seed(0)
    prior = wild(FlowMatchingPrior(8, n_blocks, n_steps=24).bind(3), by=0.3).double()
    prior.look_at(torch.randn(50, 3).double() * 2 + 1)
    eps = torch.randn(20, 3, dtype=torch.float64)
    jacobian = torch.stack([torch.autograd.functional.jacobian(prior.sample, e) for e in eps])
    expected = stats.norm.logpdf(eps).sum(1) - jacobian.det().abs().log().numpy()
    found = prior.log_prob(prior.sample(eps).unsqueeze(0))[0].detach()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_loss_of_flow_matching_is_least_at_the_velocity_of_the_mean():
    """Of latents in one place m, E(z − ε | x_t) = (m − x_t) / (1 − t), and no error is left."""
    prior = FlowMatchingPrior(4, 0).bind(2)
    m = torch.tensor([2.0, -1.0])
    times = []
    hidden = prior._hidden

    def exact(x, t, context):
        times.append(t)
        return hidden(x, t, context)[0], (m - x) / (1 - t)

    prior._hidden = exact
    loss = prior.fitting_loss(m.expand(64, 2), torch.Generator().manual_seed(0))
    assert loss.shape == (64,)
    np.testing.assert_allclose(loss, 0, atol=1e-4)
    gaps = times[0].flatten().sort().values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / 64), atol=1e-5, rtol=0)  # evenly spread


@pytest.mark.parametrize("by", [0.5, 3.0])
@pytest.mark.parametrize("transform", ["affine", "spline"])
def test_draws_of_a_wild_flow_are_finite(by, transform):
    """What no training should make of it; in single precision."""
    prior = wild(FlowPrior(2, transform=transform).bind(3), by)
    with torch.no_grad():
        z = prior.sample(torch.randn(3_000, 3))
        assert torch.isfinite(z).all()
        assert torch.isfinite(prior.log_prob(z.unsqueeze(0))).all()


def test_the_components_of_a_mixture_start_apart():
    mixture = GaussianMixture(200).bind(5)
    components = mixture.components()
    assert torch.pdist(mixture.means).min() > 0.1
    whole = components.variance.mean(0) + components.mean.var(0)
    torch.testing.assert_close(whole, torch.ones(5), rtol=0, atol=0.25)
    torch.testing.assert_close(mixture.log_weights().exp(), torch.full((200,), 1 / 200))


def test_choice_of_components_at_the_ends_of_the_noise():
    mixture = GaussianMixture(3).bind(1)
    eps = torch.tensor([[0.0, -40.0], [0.0, 40.0], [0.0, 0.0]])
    torch.testing.assert_close(mixture.sample(eps), mixture.means[[0, 2, 1]])


def test_the_vamp_prior_shares_the_model_without_containing_it():
    torch.manual_seed(0)
    model = model_with(VampPrior(7))
    assert {name for name, _ in model.named_parameters() if name.startswith("prior.")} == {"prior.pseudo_inputs"}
    assert {name for name in model.state_dict() if name.startswith("prior.")} == {"prior.pseudo_inputs"}
    assert len(list(model.modules())) == len(set(model.modules()))
    z = torch.randn(S, B, D)
    model.prior.log_prob(z).sum().backward()
    assert (model.encoder.layers[0].weight.grad != 0).any()
    assert model.prior.fresh().get_params() == {"n_pseudo_inputs": 7, "learn_weights": False}


@pytest.mark.parametrize("posterior", [DiagonalNormal(), FullNormal()], ids=repr)
def test_pseudo_inputs_start_about_the_rows_and_at_none(posterior):
    torch.manual_seed(0)
    model, data = model_with(VampPrior(2_000), posterior), rows()
    model.prior.prepare(data)
    embedded = model.embedding(data.values, data.mask)  # [n, features]
    start = model.prior.pseudo_inputs
    assert start.requires_grad
    torch.testing.assert_close(start.mean(0), embedded.mean(0), rtol=0, atol=0.2)
    torch.testing.assert_close(start.std(0), embedded.std(0), rtol=0.1, atol=0)
    assert torch.cdist(start, embedded).min() > 0.05


def test_the_start_does_not_depend_on_how_rows_are_looked_at(monkeypatch):
    torch.manual_seed(0)
    model, data = model_with(VampPrior(4)), rows()
    twin = copy.deepcopy(model)
    model.prior.prepare(data)
    chunks = Batch.chunks
    monkeypatch.setattr(Batch, "chunks", lambda self, n: chunks(self, 7))
    twin.prior.prepare(data)
    torch.testing.assert_close(twin.prior.pseudo_inputs, model.prior.pseudo_inputs)


@pytest.mark.parametrize("prior", [GaussianMixture(3), VampPrior(4), FlowPrior(2, (8,))], ids=repr)
def test_a_copy_of_the_model_is_on_its_own(prior):
    torch.manual_seed(0)
    model = model_with(prior.fresh())
    twin = copy.deepcopy(model)
    z = torch.randn(S, B, D)
    before = model.prior.log_prob(z)
    torch.testing.assert_close(twin.prior.log_prob(z), before)
    if isinstance(prior, VampPrior):
        assert twin.prior._model[0] is twin
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(model.prior.log_prob(z), before)
    assert not torch.allclose(twin.prior.log_prob(z), before)


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        (FullNormal(), VampPrior(4)),
        (FlowPosterior(1, (8,)), GaussianMixture(3)),
        (DiagonalNormal(), FlowPrior(1, (8,))),
    ],
    ids=repr,
)
def test_the_memory_of_a_step_is_freed_at_once(posterior, prior):
    """What a posterior keeps of its draws, and a prior of the model, holds no step's tensors."""
    torch.manual_seed(0)
    model, data = model_with(prior.fresh(), posterior.fresh()), rows(B)
    gc.collect()
    gc.disable()
    try:
        terms = model(data, torch.randn(S, B, D))
        (terms.log_p.total() + terms.log_q.total() + terms.log_q_detached.total()).sum().backward()
        watched = [weakref.ref(terms), weakref.ref(terms.z), weakref.ref(terms.posterior)]
        del terms
        assert [ref() for ref in watched] == [None] * 3
    finally:
        gc.enable()


REFUSED = [
    (GaussianMixture(0), r"GaussianMixture\(n_components=0\): expected a whole number ≥ 1"),
    (GaussianMixture(2.5), r"GaussianMixture\(n_components=2.5\)"),
    (VampPrior(-1), r"VampPrior\(n_pseudo_inputs=-1\): expected a whole number ≥ 1"),
    (VampPrior(learn_weights="no"), r"VampPrior\(learn_weights='no'\): expected True or False"),
    (AutoregressivePrior(0), r"AutoregressivePrior\(n_components=0\)"),
    (AutoregressivePrior(hidden_size=0.5), r"AutoregressivePrior\(hidden_size=0.5\)"),
    (AutoregressivePrior(n_blocks=-1), r"AutoregressivePrior\(n_blocks=-1\)"),
    (FlowMatchingPrior(0), r"FlowMatchingPrior\(hidden_size=0\)"),
    (FlowMatchingPrior(n_blocks=-1), r"FlowMatchingPrior\(n_blocks=-1\)"),
    (FlowMatchingPrior(n_steps=0.5), r"FlowMatchingPrior\(n_steps=0.5\)"),
    (FlowPrior(0), r"FlowPrior\(n_transforms=0\)"),
    (FlowPrior(hidden_sizes=8), r"FlowPrior\(hidden_sizes=8\): expected a sequence of whole numbers"),
    (FlowPrior(transform="cubic"), r"FlowPrior\(transform='cubic'\): expected one of \['affine', 'spline'\]"),
    (FlowPrior(passes=1), r"FlowPrior\(passes=1\): expected None or a whole number ≥ 2"),
    (FlowPosterior(n_context=0), r"FlowPosterior\(n_context=0\)"),
    (FlowPosterior(hidden_sizes=(8, 0)), r"FlowPosterior\(hidden_sizes=\(8, 0\)\)"),
]


@pytest.mark.parametrize(("part", "message"), REFUSED, ids=lambda value: repr(value)[:30])
def test_parameters_out_of_range(part, message):
    with pytest.raises(ValueError, match=message):
        part.bind(D) if isinstance(part, Prior) else part.bind(H, D)


def test_priors_and_contexts():
    with pytest.raises(ValueError, match="prior='conditional' depends on a context, and this model has none; use"):
        ConditionalNormal().bind(D)
    with pytest.raises(ValueError, match="needs the context of each row"):
        ConditionalNormal().bind(D, 1).log_prob(torch.zeros(S, B, D))
    with pytest.raises(ValueError, match="prior='vamp' has no pseudo-inputs for the context"):
        VampPrior().bind(D, 1)


@pytest.mark.parametrize("part", [FlowPosterior(), Deterministic()], ids=repr)
def test_the_vamp_prior_refuses_posteriors_that_are_not_normal(part):
    with pytest.raises(ValueError, match=rf"posterior={type(part).__name__}\(\) is none; use posterior='diagonal'"):
        model_with(VampPrior(), part)


@pytest.mark.parametrize("part", [FlowPosterior(), FlowPrior()], ids=repr)
def test_flows_without_zuko(part, monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r"flows need zuko: pip install scikit-vae\[flows\]"):
        part.bind(D) if isinstance(part, Prior) else part.bind(H, D)


def test_flows_leave_the_checks_of_torch_as_they_were():
    assert td.Distribution._validate_args is __debug__
    with pytest.raises(ValueError):
        td.Normal(math.nan, 1.0)


@pytest.mark.parametrize(("latent_dim", "hidden_size"), [(1, 4), (2, 3), (5, 16), (7, 6)])
def test_an_autoregressive_prior_looks_only_back(latent_dim, hidden_size):
    """log p(z) = Σ_d log p(z_d | z_1 … z_{d−1}): what comes later does not change the mixture of a latent."""
    torch.manual_seed(0)
    prior = AutoregressivePrior(2, hidden_size).bind(latent_dim)
    for parameter in prior.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)

    def means(z):
        return prior.mixtures(z)[1].sum(-1)[0, 0]  # [D]

    jacobian = torch.autograd.functional.jacobian(means, torch.randn(1, 1, latent_dim))[:, 0, 0]  # [D, D]
    assert (jacobian.triu() == 0).all()
    # Every latent but the last tells something, as long as there is a hidden unit for it.
    assert (jacobian != 0).any(0).sum() == latent_dim - 1


def test_draws_of_an_autoregressive_prior_follow_its_conditionals():
    """F_d(z_d | z_1 … z_{d−1}) of draws is uniform, and independent of the latents before; in all dimensions."""
    torch.manual_seed(0)
    prior = AutoregressivePrior(3, 16).bind(5)
    for parameter in prior.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    prior.look_at(torch.randn(100, 5) * 3 + 1)
    z = prior.sample(torch.randn(20_000, prior.n_noise))
    with torch.no_grad():
        logits, mean, log_scale = prior.mixtures(z.unsqueeze(0))
    x = ((z - prior.centre) / prior.unit).unsqueeze(-1)
    u = (logits.softmax(-1) * torch.special.ndtr((x - mean) / log_scale.exp())).sum(-1)[0]  # [n, D]
    for d in range(5):
        assert stats.kstest(u[:, d], "uniform").pvalue > 1e-3
    gap = (torch.cat([u, z], 1).T.corrcoef()[:5] - torch.eye(5, 10)).abs()
    assert gap[:, :5].max() < 0.03  # of all pairs
    assert gap[:, 5:].tril(-1).max() < 0.03


def test_an_autoregressive_prior_takes_the_place_and_the_units_of_latents():
    prior = AutoregressivePrior(1, 4).bind(2)
    z = torch.tensor([[1000.0, -2.0], [3000.0, -2.0]])
    prior.look_at(z)
    torch.testing.assert_close(prior.centre, torch.tensor([2000.0, -2.0]))
    far = torch.tensor([[[2500.0, -2.0]]])
    expected = stats.norm.logpdf(0.5) - math.log(1000) + stats.norm.logpdf(0) - math.log(1e-6)
    assert prior.log_prob(far).item() == pytest.approx(expected, abs=0.05)
