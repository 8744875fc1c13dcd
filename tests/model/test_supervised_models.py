"""Models of rows and targets against brute force over labels, closed forms, scipy and draws."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import distributions as td

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.inference.log_likelihood import log_likelihood
from skvae.model import (
    ELBO,
    IWAE,
    MLP,
    Categorical,
    DiagonalNormal,
    FullNormal,
    Gaussian,
    MixtureOfGaussians,
    StandardNormal,
    StudentT,
    Table,
)
from skvae.model.heads import Head, label_log_probs, reparametrised
from skvae.model.networks import Embedding
from skvae.model.objectives import Supervised
from skvae.model.posteriors import FullNormalPosterior, NormalPosterior
from skvae.model.priors import DirectedNormal, kl_divergence
from skvae.model.supervised import STRUCTURES, LabelledPrior

S, B, D, K, T = 3, 5, 2, 4, 2  # draws, rows, latents, labels, targets
UNITS = (10.0, 0.2, 3.0)
COLUMNS = [Column(f"x{c}", Kind.CONTINUOUS, "float64", offset=5.0, scale=unit) for c, unit in enumerate(UNITS)]
LABEL = [Column("grade", Kind.CATEGORICAL, "str", levels=tuple("abcd"))]
NUMBERS = [Column(f"y{t}", Kind.CONTINUOUS, "float64", offset=-1.0, scale=unit) for t, unit in enumerate((4.0, 0.5))]
TARGETS = {"m2": LABEL, "joint": NUMBERS, "prior": NUMBERS}
NAN = float("nan")
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def make(structure, targets=None, partly=True, hidden=(6,), likelihood=None, n_told=0):
    """A model in double precision, with parameters other than those it starts from."""
    targets = targets or TARGETS[structure]
    discrete = targets[0].is_discrete
    model = STRUCTURES[structure](
        COLUMNS,
        targets,
        target_likelihood=likelihood or Table(Categorical() if discrete else Gaussian(scale="row")),
        partly_labelled=partly,
        latent_dim=D,
        encoder=MLP(hidden),
        decoder=MLP(hidden),
        posterior=DiagonalNormal(),
        prior=StandardNormal(),
        likelihood=Table(Gaussian(scale="shared")),
        masks=False,
        n_context={"encoder": n_told},
    ).double()
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
    return model


def rows_for(structure, holes=True, n=B):
    """Rows, of which the second and the last lack their targets, and the third one of two."""
    target = torch.randint(K, (n, 1)).double() if structure == "m2" else torch.randn(n, T).double()
    if holes:
        target[[1, n - 1]] = NAN
        if structure != "m2":
            target[2, 0] = NAN
    return Batch(torch.randn(n, len(COLUMNS)).double(), target=target)


def prepared(objective, model, batch, weight):
    supervised = Supervised(objective, weight)
    supervised.prepare(model, batch)
    return supervised


def noise(model, batch, n_draws=1):
    return torch.randn(n_draws, len(batch), model.n_noise).double()


def with_labels(batch, k):
    return Batch(batch.values, target=torch.full((len(batch), 1), float(k)).double())


# M2


@pytest.mark.parametrize("objective", [ELBO(), ELBO(kl="monte-carlo", beta=0.5), IWAE(n_draws=S)], ids=repr)
def test_m2_labels_summed_out_one_by_one(objective):
    """The vectorised enumeration against a model that is told each label in turn, and never enumerates."""
    model, batch, weight = make("m2"), rows_for("m2"), 7.0
    told = make("m2", partly=False)
    told.load_state_dict(model.state_dict())
    eps = noise(model, batch, S)
    log_q = label_log_probs(model.head(model.hidden(batch).unsqueeze(0)))[0]  # [B, K]
    each = [objective(told(with_labels(batch, k), eps)) for k in range(K)]
    loss, bound = (torch.stack([getattr(losses, name) for losses in each], dim=1) for name in ("loss", "bound"))
    q, entropy = log_q.exp(), -(log_q.exp() * log_q).sum(1)

    code, known = batch.target[:, 0].nan_to_num().long(), ~batch.target[:, 0].isnan()
    its = torch.arange(B), code
    alpha = weight * B / known.sum()
    found = prepared(objective, model, batch, weight)(model(batch, eps))
    torch.testing.assert_close(found.loss[known], (loss[its] - alpha * log_q[its])[known])
    torch.testing.assert_close(found.loss[~known], ((q * loss).sum(1) - entropy)[~known])
    torch.testing.assert_close(found.bound[known], bound[its][known])
    torch.testing.assert_close(found.bound[~known], ((q * bound).sum(1) + entropy)[~known])
    torch.testing.assert_close(found.named["log_p_y"], torch.where(known, log_q[its], 0.0))


def test_m2_a_labelled_row_by_hand():
    model, batch = make("m2", partly=False), rows_for("m2", holes=False)
    eps = noise(model, batch)
    label = torch.nn.functional.one_hot(batch.target[:, 0].long(), K).double()
    q = model.posterior(torch.cat([model.hidden(batch), label], dim=1))
    z = q.mean + q.scale * eps[0]
    x = model.output(model.decoder(torch.cat([z, label], dim=1)))
    sigma = model.likelihood.parts[0].limited(model.likelihood.parts[0].log_scale).exp()
    log_p_x = td.Normal(x, sigma).log_prob(batch.values).sum(1) - np.log(UNITS).sum()
    kl = td.kl_divergence(td.Normal(q.mean, q.scale), td.Normal(0.0, 1.0)).sum(1)
    log_p_y = td.Categorical(logits=model.prior.logits).log_prob(batch.target[:, 0])
    torch.testing.assert_close(ELBO()(model(batch, eps)).loss, kl - log_p_x - log_p_y)


def gradient_of_head(model, batch, weight):
    model.zero_grad()
    losses = prepared(ELBO(), model, batch, weight)(model(batch, noise(model, batch)))
    losses.loss.sum().backward()
    found = [p.grad for p in model.head.parameters()]
    return sum(0.0 if grad is None else float(grad.abs().sum()) for grad in found)


@pytest.mark.parametrize("structure", ["m2", "prior"])
@pytest.mark.parametrize("partly", [True, False])
def test_without_alpha_labelled_rows_teach_q_of_y_nothing(structure, partly):
    model, labelled = make(structure, partly=partly), rows_for(structure, holes=False)
    assert gradient_of_head(model, labelled, 0.0) == 0
    assert gradient_of_head(model, labelled, 1.0) > 0
    if partly:
        assert gradient_of_head(model, rows_for(structure), 0.0) > 0


def test_the_latent_of_m2_is_z_and_the_label():
    """Importance sampling over [z, one-hot y] against Σ_y p(y) p(x|y), each normal as the decoder is linear."""
    model = make("m2", hidden=())
    with torch.no_grad():
        model.posterior.linear.weight.mul_(0.2)  # wide enough to be a good proposal
    batch = Batch(torch.randn(4, 3).double())
    eps = torch.randn(40_000, model.latent_dim).double()
    found = log_likelihood(model, model.prior, batch, eps)
    weight, bias = model.output.weight.detach().numpy(), model.output.bias.detach().numpy()
    likelihood = model.likelihood.parts[0]
    variance = likelihood.limited(likelihood.log_scale).exp().item() ** 2
    p_y = model.prior.logits.softmax(0).detach().numpy()
    density = sum(
        p_y[k]
        * stats.multivariate_normal(
            bias + weight[:, D + k], weight[:, :D] @ weight[:, :D].T + variance * np.eye(3)
        ).pdf(batch.values)
        for k in range(K)
    )
    np.testing.assert_allclose(found.log_p, np.log(density) - np.log(UNITS).sum(), atol=0.02)


def test_labelled_posterior():
    """Labels as often as q(y|x), z given each as q(z|x, y), and the density of both by hand."""
    model, batch, n = make("m2"), rows_for("m2", n=2), 20_000
    q = model.encode(batch)
    log_q = label_log_probs(model.head(model.hidden(batch).unsqueeze(0)))[0].detach()
    draws = q.rsample(torch.randn(n, 1, model.latent_dim).double()).detach()  # noise shared by the rows
    z, label = draws.split([D, K], dim=-1)
    for b in range(2):
        counts = label[:, b].sum(0).numpy()
        assert stats.chisquare(counts, n * log_q[b].exp().numpy()).pvalue > 1e-3
        for k in range(K):
            one_hot = torch.eye(K).double()[k]
            its = model.posterior(torch.cat([model.hidden(batch)[b], one_hot]).unsqueeze(0))
            mine = z[label[:, b, k] == 1, b]
            for j in range(D):
                exact = stats.norm(its.mean[0, j].item(), its.scale[0, j].item())
                assert stats.kstest(mine[:, j], exact.cdf).pvalue > 1e-4
            at = torch.cat([torch.tensor([0.3, -0.2]).double(), one_hot]).expand(1, 2, -1)
            by_hand = td.Normal(its.mean, its.scale).log_prob(at[0, b, :D]).sum() + log_q[b, k]
            torch.testing.assert_close(q.log_prob(at)[0, b], by_hand)
    torch.testing.assert_close(q.mean[:, D:], log_q.exp())


def test_labelled_prior():
    prior = LabelledPrior(StandardNormal().bind(D), K).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    n, p = 20_000, prior.logits.softmax(0).detach().numpy()
    z, label = prior.sample(torch.randn(n, prior.n_noise).double()).detach().split([D, K], dim=-1)
    assert (label.sum(1) == 1).all()
    assert stats.chisquare(label.sum(0), n * p).pvalue > 1e-3
    assert stats.kstest(z[label[:, 1] == 1].flatten(), "norm").pvalue > 1e-3
    at = torch.tensor([[[0.3, -2.0, 0, 0, 1, 0]]]).double()
    exact = stats.norm.logpdf([0.3, -2.0]).sum() + math.log(p[2])
    assert prior.log_prob(at).item() == pytest.approx(exact)


# All structures


@every_structure
def test_a_batch_with_some_targets_is_what_its_rows_are(structure):
    """Rows do not see each other: a mixed batch, rows one by one, and a model of labelled rows only agree."""
    model, batch = make(structure), rows_for(structure)
    eps = noise(model, batch, S)
    objective = prepared(ELBO(), model, batch, 3.0)
    together = objective(model(batch, eps))
    for b in range(B):
        alone = objective(model(batch.rows(torch.tensor([b])), eps[:, b : b + 1]))
        torch.testing.assert_close(together.loss[b : b + 1], alone.loss)
        torch.testing.assert_close(together.bound[b : b + 1], alone.bound)
    told = make(structure, partly=False)
    told.load_state_dict(model.state_dict())
    whole = (~batch.target.isnan()).all(1)
    filled = Batch(batch.values, target=batch.target.nan_to_num())
    labelled = objective(told(filled, eps[..., : told.n_noise])).loss
    torch.testing.assert_close(together.loss[whole], labelled[whole])


@every_structure
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_halves(structure):
    model, batch = make(structure), rows_for(structure, n=6)
    eps = noise(model, batch)
    objective = prepared(ELBO(), model, batch, 3.0)
    halves = [
        objective(model(piece, half)).loss.mean()
        for piece, half in zip(batch.chunks(3), eps.split(3, 1), strict=True)
    ]
    torch.testing.assert_close(objective(model(batch, eps)).loss.mean(), torch.stack(halves).mean())


@every_structure
def test_rows_without_target_column_are_a_question_about_x(structure):
    """log p(x) is a density of x alone: without targets a model has no factor of them."""
    model, batch = make(structure), Batch(torch.randn(B, 3).double())
    terms = model(batch, torch.randn(S, 1, model.latent_dim).double())
    assert set(terms.log_p) == {"x", "z"}
    assert terms.supervision is None
    assert terms.log_p.total().shape == terms.log_q.total().shape == (S, B)


def test_joint_log_p_of_y_is_the_log_of_the_mean_over_draws():
    model, batch = make("joint"), rows_for("joint")
    terms = model(batch, noise(model, batch, S))
    p = model.head(terms.z)
    mean, sigma = p.mean, p.parts[0].scale
    known = ~batch.target.isnan()
    unit = torch.tensor([column.scale for column in NUMBERS]).log()
    each = (td.Normal(mean, sigma).log_prob(batch.target.nan_to_num()) - unit) * known  # [S, B, T]
    torch.testing.assert_close(terms.log_p["y"], each.sum(-1))
    torch.testing.assert_close(terms.supervision.log_p_y, each.sum(-1).exp().mean(0).log())
    assert terms.supervision.labelled.tolist() == [1, 0, 0.5, 1, 0]


@pytest.mark.parametrize("structure", ["joint", "prior"])
def test_latents_given_a_target_predict_it(structure):
    """p(z|y) by draws against what p(z) p(y|z), or the prior given y, makes of it."""
    model = make(structure, NUMBERS[:1], hidden=()).float()
    with torch.no_grad():
        z = model.latents_given(torch.tensor([[-1.5], [1.5]]).repeat_interleave(4_000, dim=0), stream())
    if structure == "prior":
        for value, mine in zip((-1.5, 1.5), z.split(4_000), strict=True):
            exact = model.prior.at(torch.tensor([[value]]))
            for j in range(D):
                cdf = stats.norm(exact.mean[0, j].item(), exact.scale.flatten()[j].item()).cdf
                assert stats.kstest(mine[:, j], cdf).pvalue > 1e-3
        return
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-6, 6, 241)] * D, indexing="ij"), -1).flatten(0, 1)
    for value, mine in zip((-1.5, 1.5), z.split(4_000), strict=True):
        log_w = model.prior.log_prob(grid) + model.head(grid.unsqueeze(0)).log_prob(torch.tensor([[value]]))[0, :, 0]
        w = log_w.softmax(0)
        mean = w @ grid
        sd = (w @ (grid - mean).square()).sqrt()
        # 4,000 draws from a pool of 10,000 that not all weigh much
        assert ((mine.mean(0) - mean).abs() < 6 * sd / math.sqrt(1_000)).all()


def stream(seed=3):
    return torch.Generator().manual_seed(seed)


# The prior of Zhao et al.


def directed(n_targets, latent_dim=3, mean=0.0, log_scale=0.0):
    """With y normal about `mean`."""
    torch.manual_seed(0)
    prior = DirectedNormal().bind(latent_dim, n_targets)
    targets = [Column(f"y{t}", Kind.CONTINUOUS, "float64", offset=3.0, scale=2.0) for t in range(n_targets)]
    prior.marginal = Head(0, targets, Table("gaussian"))
    prior.double()
    with torch.no_grad():
        prior.centre.copy_(torch.linspace(-1, 1, latent_dim))
        prior.raw_log_scale.fill_(-0.4)
        prior.marginal.constant.fill_(mean)
        prior.marginal.likelihood.parts[0].log_scale.fill_(5 * math.atanh(log_scale / 5))
    return prior


def sigma_of(prior):
    return math.exp(6 * math.tanh(-0.4 / 6))


@pytest.mark.parametrize("n_targets", [1, 2])
def test_directed_prior_given_y(n_targets):
    prior = directed(n_targets)
    u = prior.direction.detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1)
    y, z = torch.randn(B, n_targets).double(), torch.randn(S, B, 3).double()
    exact = stats.norm(y.numpy() @ u + np.linspace(-1, 1, 3), sigma_of(prior))
    np.testing.assert_allclose(prior.log_prob(z, y).detach(), exact.logpdf(z).sum(-1), rtol=1e-6)
    draws = prior.sample(torch.randn(5_000, B, prior.n_noise).double(), y).detach()
    for b in range(B):
        for j in range(3):
            assert stats.kstest(draws[:, b, j], stats.norm(exact.mean()[b, j], sigma_of(prior)).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("n_targets", "tolerance"), [(1, 0.01), (2, 0.1)])
def test_directed_prior_with_y_averaged_out(n_targets, tolerance):
    """Of a normal y that is normal too; 64 quantiles of y come near it."""
    prior = directed(n_targets, mean=0.5, log_scale=-0.2)
    u = prior.direction.detach().numpy()
    mean = np.linspace(-1, 1, 3) + 0.5 * u.sum(0)
    exact = stats.multivariate_normal(mean, sigma_of(prior) ** 2 * np.eye(3) + math.exp(-0.4) * u.T @ u)
    z = torch.from_numpy(exact.rvs(500, random_state=0)).unsqueeze(0)
    gap = prior.log_prob(z).detach().numpy()[0] - exact.logpdf(z[0])
    assert abs(gap.mean()) < tolerance
    assert np.quantile(np.abs(gap), 0.9) < 3 * tolerance
    draws = prior.sample(torch.randn(5_000, prior.n_noise).double()).detach().numpy()
    along = exact.cov @ np.ones(3)
    assert stats.kstest(draws @ np.ones(3), stats.norm(mean.sum(), math.sqrt(along.sum())).cdf).pvalue > 1e-3


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_divergence_from_the_directed_prior(family):
    """The closed form against draws."""
    prior = directed(2)
    y, mean, log_scale = (torch.randn(B, n).double() for n in (2, 3, 3))
    q = NormalPosterior(mean, 0.3 * log_scale)
    if family == "full":
        below = 0.5 * torch.randn(B, 3, 3).double().tril(-1)
        q = FullNormalPosterior(mean, 0.3 * log_scale, below + torch.diag_embed((0.3 * log_scale).exp()))
    closed = kl_divergence(q, prior, y).sum(-1).detach()
    z = q.rsample(torch.randn(40_000, B, 3).double())
    each = (q.log_prob(z) - prior.log_prob(z, y)).detach()
    assert ((each.mean(0) - closed).abs() < 5 * each.std(0) / 200).all()
    assert kl_divergence(q, prior, None) is None


def test_the_bound_of_a_row_without_y_in_closed_form():
    """Averaged over noise, where q(y|x), q(z|x) and the decoder are all normal and linear."""
    model = make("prior", NUMBERS[:1], hidden=(), likelihood=Table(Gaussian(scale="row")))
    n = 20_000
    rows = Batch(torch.randn(2, 3).double(), target=torch.full((2, 1), NAN).double())
    with torch.no_grad():
        many = rows.repeat(n)
        losses = prepared(ELBO(), model, many, 1.0)(model(many, noise(model, many)))
        hidden = model.hidden(rows)
        q_z, q_y = model.posterior(hidden), model.head(hidden.unsqueeze(0)).parts[0]
        m, s = q_y.mean[0, :, 0], q_y.scale[0, :, 0]
        p_y = model.prior.marginal(torch.zeros(1, 1, 0)).parts[0]
        kl_y = td.kl_divergence(td.Normal(m, s), td.Normal(p_y.mean[0, 0, 0], p_y.scale[0, 0, 0]))
        # E ‖μ − u y − b‖² is the square at the mean of y, and its variance along a u of length 1.
        p_z = model.prior.at(m.unsqueeze(1))
        log_ratio = (p_z.log_scale - q_z.log_scale).sum(-1)
        squares = (q_z.mean - p_z.mean).square().sum(-1) + s.square() + q_z.variance.sum(-1)
        kl_z = 0.5 * (squares / p_z.scale.flatten()[0] ** 2 - D) + log_ratio
        weight, likelihood = model.output.weight, model.likelihood.parts[0]
        sigma = likelihood.limited(likelihood.log_scale).exp()
        log_p_x = td.Normal(model.output(q_z.mean), sigma).log_prob(rows.values).sum(-1) - np.log(UNITS).sum()
        log_p_x = log_p_x - 0.5 * (q_z.variance @ weight.square().T).sum(-1) / sigma**2
        expected = kl_y + kl_z - log_p_x
        each = losses.loss.unflatten(0, (n, 2))
    error = each.std(0) / math.sqrt(n)
    assert (error < 0.01 * expected).all()
    assert ((each.mean(0) - expected).abs() < 5 * error).all()
    torch.testing.assert_close(losses.bound, -losses.loss)


DENSITIES = {
    "gaussian": Gaussian(scale="row"),
    "student-t": StudentT(),
    "mixture": MixtureOfGaussians(3),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_of_y_carry_their_gradient(name):
    """That of the quantile, by finite differences."""
    likelihood = Table(DENSITIES[name]).bind(NUMBERS[:1]).double()
    params = (0.3 * torch.randn(1, B, likelihood.n_params).double()).requires_grad_()
    learned = list(likelihood.parameters())
    u = torch.linspace(0.1, 0.95, B).double().view(1, B, 1)
    y = reparametrised(likelihood(params), u)
    torch.testing.assert_close(y, likelihood(params).icdf(u))
    found = torch.autograd.grad(y.sum(), [params, *learned])
    step = 1e-3
    with torch.no_grad():
        for tensor, gradient in zip([params, *learned], found, strict=True):
            for k in range(tensor.numel()):
                ends = []
                for sign in (1, -1):
                    tensor.view(-1)[k] += sign * step
                    ends.append(likelihood(params).icdf(u).sum().item())
                    tensor.view(-1)[k] -= sign * step
                assert gradient.view(-1)[k].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-3)


def test_a_normal_draw_of_y_is_the_usual_one():
    likelihood = Table(Gaussian(scale="row")).bind(NUMBERS).double()
    params = torch.randn(1, B, 4).double().requires_grad_()
    eps = torch.randn(1, B, T).double()
    normal = likelihood(params).parts[0]
    usual = normal.mean + normal.scale * eps
    y = reparametrised(likelihood(params), torch.special.ndtr(eps))
    torch.testing.assert_close(y, usual)
    ours, theirs = (torch.autograd.grad((value**3).sum(), params)[0] for value in (y, usual))
    torch.testing.assert_close(ours, theirs)


# What they are made of


@every_structure
def test_what_the_encoder_alone_is_told(structure):
    """The same of all rows, it is no more than another bias of the encoder's first layer."""
    model, plain, told = make(structure, n_told=2), make(structure), torch.tensor([0.7, -1.9]).double()
    weights = model.state_dict()
    first = "encoder.layers.0.weight"
    of_entries, of_told = weights[first].split([len(COLUMNS), 2], dim=1)
    plain.load_state_dict(
        weights | {first: of_entries, "encoder.layers.0.bias": weights["encoder.layers.0.bias"] + of_told @ told}
    )
    batch = rows_for(structure)
    eps = noise(model, batch)
    for objective in (ELBO(), IWAE(n_draws=1)):
        found, expected = (
            prepared(objective, one, rows, 3.0)(one(rows, eps))
            for one, rows in ((model, replace(batch, told=told.expand(B, 2))), (plain, batch))
        )
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.bound, expected.bound)
    assert not torch.allclose(
        model.encode(replace(batch, told=torch.zeros(B, 2).double())).mean, plain.encode(batch).mean
    )


@pytest.mark.parametrize("masks", [False, True])
def test_piecewise_features(masks):
    """min(max((x − a) / (b − a), 0), 1) − ½ for the 32 bins [a, b] of each number, 0 where it is hidden."""
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.lognormal(size=400), rng.normal(size=400) * 7 + 3])
    columns = [
        Column(
            f"x{c}",
            Kind.CONTINUOUS,
            "float64",
            offset=x.mean(),
            scale=x.std(),
            quantiles=tuple(np.quantile(x, np.linspace(0, 1, 33))),
        )
        for c, x in enumerate(table.T)
    ]
    columns.insert(1, Column("flag", Kind.BINARY, "bool", levels=(False, True), offset=0.5, scale=0.5))
    embedding = Embedding(columns, masks, piecewise=True)
    assert embedding.n_out == 3 + 2 * 32 + (3 if masks else 0)
    assert Embedding(columns, masks).n_out == 3 + (3 if masks else 0)

    values = (table[:20] - table.mean(0)) / table.std(0)
    values[0] = 40.0
    x = torch.from_numpy(np.column_stack([values[:, 0], np.ones(20), values[:, 1]]).astype(np.float32))
    mask = torch.rand(20, 3) < 0.7 if masks else None
    found = embedding(x, mask)
    assert found.shape == (20, embedding.n_out)
    for place, c in enumerate((0, 2)):
        edges = (np.quantile(table[:, place], np.linspace(0, 1, 33)) - columns[c].offset) / columns[c].scale
        expected = np.clip((x[:, c].numpy()[:, None] - edges[:-1]) / np.diff(edges), 0, 1) - 0.5
        if masks:
            expected = expected * mask[:, c].numpy()[:, None]
        bins = found[:, 3 + 32 * place : 3 + 32 * (place + 1)]
        np.testing.assert_allclose(bins.detach(), expected, atol=1e-4)
    if masks:
        torch.testing.assert_close(found[:, -3:], mask.float())


def test_piecewise_features_of_columns_with_repeated_values():
    """What repeats is an edge too; a column with fewer edges than another has its last one several times."""
    quantiles = (*[0.0] * 32, 9.0)
    spiked = Column(
        "x", Kind.CONTINUOUS, "float64", offset=1.0, scale=2.0, quantiles=quantiles, spikes=(0.0, 7.0, 3.0)
    )
    plain = Column("y", Kind.CONTINUOUS, "float64", offset=0.0, scale=1.0, quantiles=(*[0.0] * 17, *[1.0] * 16))
    embedding = Embedding([spiked, plain], masks=False, piecewise=True)
    assert embedding.n_out == 2 + 2 * 3
    x = torch.tensor([[(4.0 - 1.0) / 2.0, 0.25], [(9.0 - 1.0) / 2.0, 1.0]])
    np.testing.assert_allclose(
        embedding(x, None)[:, 2:],
        [[0.5, -0.25, -0.5, -0.25, -0.5, -0.5], [0.5, 0.5, 0.5, 0.5, -0.5, -0.5]],
        atol=1e-6,
    )


def test_piecewise_features_of_a_column_with_few_values():
    """Bins of no width are steps."""
    quantiles = (0.0,) * 20 + (1.0,) * 13
    column = Column("x", Kind.CONTINUOUS, "float64", offset=0.4, scale=0.5, quantiles=quantiles)
    embedding = Embedding([column], masks=False, piecewise=True)
    below, at_zero, at_one = embedding(torch.tensor([[-5.0], [-0.8], [1.2]]), None)
    assert torch.isfinite(embedding(torch.zeros(1, 1), None)).all()
    assert (below[1:] == -0.5).all()
    assert (at_one[1:] >= at_zero[1:]).all()
    assert at_one[1:].sum() > at_zero[1:].sum()


def test_a_repeated_batch():
    batch = Batch(torch.randn(3, 2), torch.rand(3, 2) < 0.5, target=torch.randn(3, 1), index=torch.arange(3))
    thrice = batch.repeat(3)
    for name in ("values", "observed", "target", "index"):
        value = getattr(batch, name)
        assert torch.equal(getattr(thrice, name), value.repeat(3, *[1] * (value.ndim - 1)))
    assert thrice.seen is None
    assert thrice.weight is None


def test_alpha_counts_per_labelled_row():
    """Whatever their share: the loss has α times the mean over labelled rows of −log q(y|x)."""
    model, batch = make("m2"), rows_for("m2", n=40)
    batch.target[4:] = NAN
    objective = prepared(ELBO(), model, batch, 5.0)
    eps = noise(model, batch)
    plain, without = objective(model(batch, eps)), prepared(ELBO(), model, batch, 0.0)(model(batch, eps))
    labelled = ~batch.target[:, 0].isnan()
    mean = -(plain.named["log_p_y"][labelled]).mean()
    torch.testing.assert_close((plain.loss - without.loss).mean(), 5.0 * mean)


@pytest.mark.parametrize("structure", ["joint", "m2"])
def test_labels_are_judged_at_the_temperature_that_suits_them_best(structure):
    """Outside training log p(y|x) is recorded as it would be after tempering, and an epoch counts by the best."""
    model, batch = make(structure, LABEL).eval(), rows_for("m2")
    eps = noise(model, batch, S)
    objective = prepared(ELBO(), model, batch, 1.0)
    terms = model(batch, eps)
    found = objective(terms).named
    features = terms.z if structure == "joint" else model.hidden(batch).unsqueeze(0)
    log_p = label_log_probs(model.head(features)).exp().mean(0).log().detach().numpy()
    code, known = batch.target[:, 0].nan_to_num().long().numpy(), ~batch.target[:, 0].isnan().numpy()
    at = {name: value for name, value in found.items() if name.startswith("log_p_y_at_")}
    assert len(at) >= 3
    for name, value in at.items():
        p = special.softmax(log_p / float(name.removeprefix("log_p_y_at_")), axis=1)[np.arange(B), code]
        np.testing.assert_allclose(value.detach().numpy(), np.where(known, np.log(p), 0), atol=1e-6)
    means = dict.fromkeys(found, -3.0)
    assert objective.judge(means | {"log_p_y": -1.0, "bound": 5.0}) == -1.0
    assert objective.judge(means | {min(at): -0.5, "log_p_y": -1.0}) == -0.5
    model.train()
    assert not any(name.startswith("log_p_y_at") for name in objective(model(batch, eps)).named)


def test_numbers_have_no_temperature():
    model, batch = make("prior").eval(), rows_for("prior")
    assert model(batch, noise(model, batch)).supervision.tempered == {}


def test_the_objective_hands_on_what_its_part_asks_for():
    part = ELBO(warm_up=0.2, n_draws=4)
    objective = Supervised(copy.deepcopy(part), 2.0)
    assert (objective.n_draws, objective.warm_up, objective.monitor) == (4, 0.2, "log_p_y")
    with pytest.raises(ValueError, match="beta"):
        Supervised(ELBO(beta=-1)).check()


def test_full_posteriors_serve_m2():
    model = STRUCTURES["m2"](
        COLUMNS,
        LABEL,
        target_likelihood=Table(Categorical()),
        partly_labelled=True,
        latent_dim=D,
        encoder=MLP((6,)),
        decoder=MLP((6,)),
        posterior=FullNormal(),
        prior=StandardNormal(),
        likelihood=Table(Gaussian()),
        masks=False,
    )
    batch = Batch(torch.randn(B, 3), target=rows_for("m2").target.float())
    losses = prepared(ELBO(), model, batch, 1.0)(model(batch, torch.randn(1, B, model.n_noise)))
    assert torch.isfinite(losses.loss).all()
