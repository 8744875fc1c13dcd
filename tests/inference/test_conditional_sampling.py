"""Rows under conditions, against exact Gaussian formulas and against sums over a grid of latents."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from skvae.data.columns import Column, Kind
from skvae.inference.conditional_sampling import (
    Between,
    Impossible,
    OneOf,
    SamplingReport,
    combined,
    sample_given,
)
from skvae.model import (
    MLP,
    Deterministic,
    DiagonalNormal,
    FlowPosterior,
    GaussianMixture,
    LatentVariableModel,
    StandardNormal,
    Table,
)
from skvae.model.missingness import LinearMasking, SelfMasking
from skvae.training.randomness import seeded_torch

N = 20_000
UNITS = torch.tensor([10.0, 0.2, 3.0, 1.0], dtype=torch.float64)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(linear_gaussian):
    """The model with a poor encoder, in float32; mean and covariance of its rows."""
    exact = linear_gaussian(2, widen=1.4, shift=0.4)
    covariance = exact.weight @ exact.weight.T + 0.6**2 * torch.eye(4)
    return exact.model.float(), exact.bias, covariance


def given(mean, covariance, at, moments):
    """Mean and covariance of all columns where those `at` have the `moments` (mean, covariance), which may be 0."""
    slope = covariance[:, at] @ torch.linalg.inv(covariance[at][:, at])
    its_mean, its_covariance = moments
    new_mean = mean + slope @ (its_mean - mean[at])
    rest = covariance - slope @ covariance[at]
    return new_mean, rest + slope @ its_covariance @ slope.T


def assert_moments(values, mean, covariance):
    values = values.double()
    scale = covariance.diagonal().clamp(min=1e-12).sqrt()
    # Twice as much as independent draws would err by at five standard errors: the latents repeat.
    torch.testing.assert_close(
        (values.mean(0) - mean) / scale.clamp(min=0.1), torch.zeros(4).double(), rtol=0, atol=0.07
    )
    torch.testing.assert_close(values.T.cov(), covariance, rtol=0.06, atol=0.04)


def test_given_a_value(linear_gaussian):
    model, mean, covariance = gaussian(linear_gaussian)
    found = sample_given(model, {1: OneOf((1.7,))}, N, stream())
    exact = given(mean, covariance, [1], (torch.tensor([1.7]).double(), torch.zeros(1, 1).double()))
    assert (found.values[:, 1] == 1.7).all()
    assert_moments(found.values, *exact)
    log_p = stats.norm(mean[1], covariance[1, 1].sqrt()).logpdf(1.7) - math.log(UNITS[1])
    assert found.report.log_probability == pytest.approx(log_p, abs=0.03)


def test_given_a_value_and_a_range(linear_gaussian):
    model, mean, covariance = gaussian(linear_gaussian)
    conditions = {0: OneOf((-0.4,)), 2: Between(0.2, 1.4)}
    found = sample_given(model, conditions, N, stream())
    assert ((found.values[:, 2] >= 0.2) & (found.values[:, 2] <= 1.4)).all()
    mean, covariance = given(mean, covariance, [0], (torch.tensor([-0.4]).double(), torch.zeros(1, 1).double()))
    centre, scale = mean[2].item(), covariance[2, 2].sqrt().item()
    cut = stats.truncnorm((0.2 - centre) / scale, (1.4 - centre) / scale, centre, scale)
    moments = torch.tensor([cut.mean()]).double(), torch.tensor([[cut.var()]]).double()
    assert_moments(found.values, *given(mean, covariance, [2], moments))
    inside = found.values[:, 2].double().numpy()
    # Draws that share a latent are alike, which widens the band of Kolmogorov's statistic.
    assert stats.kstest(inside, cut.cdf).statistic < 0.03


def test_means_of_free_columns_lack_the_noise(linear_gaussian):
    model, mean, covariance = gaussian(linear_gaussian)
    found = sample_given(model, {1: OneOf((0.5,))}, N, stream(), draw=False)
    mean, covariance = given(mean, covariance, [1], (torch.tensor([0.5]).double(), torch.zeros(1, 1).double()))
    noise = torch.diag(torch.tensor([0.6**2, 0.0, 0.6**2, 0.6**2])).double()
    assert_moments(found.values, mean, covariance - noise)


def test_an_open_range_has_the_probability_of_its_tail(linear_gaussian):
    model, mean, covariance = gaussian(linear_gaussian)
    found = sample_given(model, {3: Between(2.5, math.inf)}, N, stream())
    log_p = stats.norm(mean[3], covariance[3, 3].sqrt()).logsf(2.5)
    assert found.report.log_probability == pytest.approx(log_p, abs=0.05)
    assert (found.values[:, 3] >= 2.5).all()


def test_a_set_of_numbers_is_a_mixture_of_values(linear_gaussian):
    model, mean, covariance = gaussian(linear_gaussian)
    found = sample_given(model, {0: OneOf((-1.0, 0.5))}, N, stream())
    density = stats.norm(mean[0], covariance[0, 0].sqrt()).pdf([-1.0, 0.5])
    share = (found.values[:, 0] == 0.5).double().mean().item()
    assert share == pytest.approx(density[1] / density.sum(), abs=0.03)


def test_a_density_of_the_latents_takes_the_place_of_the_prior(linear_gaussian):
    model, mean, covariance = gaussian(linear_gaussian)
    with seeded_torch(0):
        model.latent_density = GaussianMixture(1, covariance="full").bind(2)
    centre = torch.tensor([0.7, -0.3])
    factor = torch.tensor([[0.8, 0.0], [0.3, 0.5]])
    model.latent_density.place(torch.ones(1), centre.unsqueeze(0), factor.unsqueeze(0))
    model.latent_density.requires_grad_(False)
    weight = model.output.weight.detach().double()
    mean = mean + weight @ centre.double()
    covariance = weight @ (factor @ factor.T).double() @ weight.T + 0.6**2 * torch.eye(4)
    found = sample_given(model, {1: OneOf((0.9,))}, N, stream())
    assert_moments(
        found.values, *given(mean, covariance, [1], (torch.tensor([0.9]).double(), torch.zeros(1, 1).double()))
    )


COLUMNS = [
    Column("a", Kind.CATEGORICAL, "str", levels=("p", "q", "r"), offset=1.0, scale=0.8),
    Column("b", Kind.BINARY, "bool", levels=(False, True), offset=0.5, scale=0.5),
    Column("c", Kind.INTEGER, "int64", offset=3.0, scale=2.0, lower=0.0, upper=9.0, resolution=1.0),
    Column("d", Kind.CATEGORICAL, "str", levels=("u", "v", "w", "x"), offset=1.0, scale=0.8),
]


def discrete(posterior, masks=True, missing=None):
    columns = COLUMNS if missing is None else [replace(column, missing=0.2) for column in COLUMNS]
    with seeded_torch(3):
        model = LatentVariableModel(
            columns,
            latent_dim=1,
            encoder=MLP((16,)),
            decoder=MLP((16,)),
            posterior=posterior,
            prior=StandardNormal(),
            likelihood=Table("auto"),
            masks=masks,
            missing=missing,
        )
        for parameter in model.missing.parameters():
            nn.init.normal_(parameter, std=1.5)
        for module in (model.decoder.layers[0], model.output):
            nn.init.normal_(module.weight, std=1.0)
    return model.eval()


@pytest.mark.parametrize(
    ("posterior", "masks"),
    [(DiagonalNormal(), True), (DiagonalNormal(), False), (Deterministic(), True), (FlowPosterior(), True)],
    ids=["diagonal", "without masks", "deterministic", "flow"],
)
@torch.no_grad()
def test_levels_and_whole_numbers_against_a_sum_over_latents(posterior, masks):
    """An untrained encoder, the worst of guides, costs latents alone."""
    model = discrete(posterior, masks)
    z = torch.linspace(-6, 6, 4001).reshape(-1, 1, 1)
    weight = torch.exp(-0.5 * z.flatten().square()).double()
    p = model.decode(z)

    def mass(column, code):
        row = torch.zeros(1, 4)
        row[0, column] = (code - 3.0) / 2.0 if column == 2 else code
        return p.log_prob(row)[:, 0, column].double().exp()

    condition = (mass(0, 0) + mass(0, 2)) * mass(1, 1) * sum(mass(2, k) for k in range(2, 6))
    total = (weight * condition).sum()
    exact = torch.stack([(weight * condition * mass(3, k)).sum() for k in range(4)]) / total
    of_first = (weight * condition / (mass(0, 0) + mass(0, 2)) * mass(0, 0)).sum() / total
    conditions = {0: OneOf((0.0, 2.0)), 1: OneOf((1.0,)), 2: Between((1.5 - 3) / 2, (5.5 - 3) / 2)}
    values, report = sample_given(model, conditions, N, stream())
    found = torch.stack([(values[:, 3] == k).double().mean() for k in range(4)])
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)
    assert (values[:, 0] == 0).double().mean().item() == pytest.approx(of_first.item(), abs=0.02)
    assert set(values[:, 0].tolist()) == {0.0, 2.0}
    count = values[:, 2] * 2 + 3
    assert set(count.round().tolist()) <= {2.0, 3.0, 4.0, 5.0}
    shares = torch.stack(
        [(weight * condition / sum(mass(2, k) for k in range(2, 6)) * mass(2, j)).sum() for j in range(2, 6)]
    )
    counted = torch.stack([(count.round() == j).double().mean() for j in range(2, 6)])
    torch.testing.assert_close(counted, shares / total, rtol=0, atol=0.02)
    assert report.log_probability == pytest.approx((total / weight.sum()).log().item(), abs=0.05)


@pytest.mark.parametrize("missing", [SelfMasking(), LinearMasking()], ids=["self-masking", "linear"])
@torch.no_grad()
def test_a_missing_entry_against_a_sum_over_latents_and_rows(missing):
    """Where the model says why entries are missing, those that are to be missing, or not, tell of the rest."""
    model = discrete(DiagonalNormal(), missing=missing)
    z = torch.linspace(-6, 6, 301).reshape(-1, 1, 1)
    weight = torch.exp(-0.5 * z.flatten().square()).double()
    codes = [range(3), range(2), range(2, 6), range(4)]  # of the whole numbers, those in the range below
    x = torch.cartesian_prod(*(torch.tensor(its, dtype=torch.float32) for its in codes))
    x[:, 2] = (x[:, 2] - 3.0) / 2.0
    p_x = model.decode(z.expand(-1, len(x), -1)).log_prob(x).double().sum(-1).exp()  # [Z, X]
    p_missing = torch.sigmoid(model.missing._logits(model.missing._standardised(x))).double()  # [X, 4]
    b_is_one = x[:, 1] == 1
    wanted = b_is_one * p_missing[:, 0] * (1 - p_missing[:, 1]) * (1 - p_missing[:, 2])
    joint = (weight @ p_x) * wanted  # [X]
    exact = torch.stack([(joint * (1 - p_missing[:, 3]))[x[:, 3] == k].sum() for k in range(4)])
    counts = torch.stack([joint[x[:, 2] * 2 + 3 == k].sum() for k in range(2, 6)]) / joint.sum()
    conditions = {1: OneOf((1.0,)), 2: Between((1.5 - 3) / 2, (5.5 - 3) / 2)}
    values, report = sample_given(model, conditions, 8000, stream(), absent=(0,))
    assert values[:, 0].isnan().all()
    assert not values[:, 1:3].isnan().any()
    found = torch.stack([(values[:, 3] == k).double().mean() for k in range(4)])
    torch.testing.assert_close(found, exact / joint.sum(), rtol=0, atol=0.02)
    holes = (joint * p_missing[:, 3]).sum() / joint.sum()
    assert values[:, 3].isnan().double().mean().item() == pytest.approx(holes.item(), abs=0.02)
    counted = torch.stack([((values[:, 2] * 2 + 3).round() == k).double().mean() for k in range(2, 6)])
    torch.testing.assert_close(counted, counts, rtol=0, atol=0.02)
    assert report.log_probability == pytest.approx((joint.sum() / weight.sum()).log().item(), abs=0.05)
    # What the masks tell is no small thing here: without them the same conditions give other rows.
    ignorant = (weight @ p_x) * b_is_one
    otherwise = torch.stack([ignorant[x[:, 2] * 2 + 3 == k].sum() for k in range(2, 6)]) / ignorant.sum()
    assert (otherwise - counts).abs().max() > 0.05


@pytest.mark.parametrize("draw", [True, False])
def test_a_missing_entry_alone(draw):
    model = discrete(DiagonalNormal(), missing=SelfMasking())
    values, report = sample_given(model, {}, 200, stream(), draw=draw, absent=(3,))
    assert values[:, 3].isnan().all()
    assert values[:, :3].isnan().any() == draw
    assert report.log_probability < -0.1
    nothing_said = sample_given(discrete(DiagonalNormal()), {}, 200, stream(), absent=(3,))
    assert nothing_said.report.log_probability == pytest.approx(0.0, abs=1e-6)
    assert nothing_said.values[:, 3].isnan().all()
    assert not nothing_said.values[:, :3].isnan().any()


def test_the_encoder_finds_rare_rows(linear_gaussian):
    """Six deviations out, where latents from the prior hardly go, thousands are found among 10,000."""
    exact = linear_gaussian(2, orthogonal=True)
    model = exact.model.float()
    scale = (exact.weight[0].square().sum() + 0.6**2).sqrt()
    conditions = {0: OneOf((float(exact.bias[0] + 6 * scale),))}
    guided = sample_given(model, conditions, 1000, stream()).report
    assert guided.effective_size > 1000
    assert guided.distinct_share > 0.9
    model.posterior.has_density = False
    blind = sample_given(model, conditions, 1000, stream()).report
    assert blind.effective_size < 0.02 * guided.effective_size


def test_the_report(linear_gaussian):
    model, _, _ = gaussian(linear_gaussian)
    values, report = sample_given(model, {0: OneOf((0.0,))}, 500, stream())
    assert values.shape == (500, 4)
    assert report.n_samples == 500
    assert report.n_proposed >= 10 * 500
    assert 1 <= report.effective_size <= report.n_proposed
    assert 0 < report.distinct_share <= 1


def test_reports_of_pieces_are_joined():
    one = SamplingReport(100, 4000, 300.0, 0.9, math.log(0.1))
    two = SamplingReport(300, 5000, 500.0, 0.5, math.log(0.3))
    both = combined([one, two])
    assert both.n_samples == 400
    assert both.n_proposed == 9000
    assert both.effective_size == 800
    assert both.distinct_share == pytest.approx(0.6)
    assert both.log_probability == pytest.approx(math.log(0.25 * 0.1 + 0.75 * 0.3))


def test_without_conditions_all_weights_are_alike(linear_gaussian):
    model, mean, covariance = gaussian(linear_gaussian)
    values, report = sample_given(model, {}, N, stream())
    assert report.effective_size == pytest.approx(report.n_proposed)
    assert report.log_probability == pytest.approx(0.0, abs=1e-6)
    assert_moments(values, mean, covariance)


def test_what_no_latent_gives_is_impossible(linear_gaussian):
    model, _, _ = gaussian(linear_gaussian)
    with pytest.raises(Impossible):
        sample_given(model, {0: Between(1.0, 1.0)}, 10, stream())
