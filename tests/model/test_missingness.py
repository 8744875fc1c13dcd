"""p(mask | x): against numeric integration and brute force."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model import LinearMasking, Ordinal, SelfMasking, Table
from skvae.model.likelihoods.categorical import BernoulliColumns, CategoricalColumns
from skvae.model.likelihoods.normal import Normal
from skvae.model.likelihoods.tilted import Tilted

S, B = 3, 4
COLUMNS = [
    Column("cm", Kind.CONTINUOUS, "float64", missing=0.2),
    Column("city", Kind.CATEGORICAL, "str", levels=tuple("abc"), offset=0.8, scale=0.9, missing=0.3),
    Column("kg", Kind.CONTINUOUS, "float64", missing=0.1),
    Column("flag", Kind.BINARY, "bool", levels=(False, True), offset=0.4, scale=0.5, missing=0.1),
    Column("size", Kind.ORDINAL, "str", levels=tuple("SMLX"), offset=1.2, scale=1.1, missing=0.2),
    Column("age", Kind.CONTINUOUS, "float64"),
]
C = len(COLUMNS)
LIKELIHOOD = {"continuous": "gaussian", "ordinal": Ordinal()}


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(part, seed=0):
    """A bound part with random weights, and p(x|z) for S draws of B rows."""
    part = part.bind(COLUMNS).double()
    with torch.no_grad():
        for k, parameter in enumerate(part.parameters()):
            parameter.copy_(draw(seed + k, *parameter.shape))
    likelihood = Table(LIKELIHOOD).bind(COLUMNS).double()
    return part, likelihood(draw(seed + 50, S, B, likelihood.n_params))


def rows(hidden=None):
    values = draw(7, B, C)
    for c, column in enumerate(COLUMNS):
        if column.is_discrete:
            values[:, c] = torch.arange(B) % column.cardinality
    if hidden is None:
        return Batch(values)
    observed = torch.ones(B, C, dtype=torch.bool)
    observed[hidden] = False
    return Batch(torch.where(observed, values, 0.0), observed=observed)


def encoded(part, values):
    """x̃ of rows [n, C]."""
    x = np.array(values, dtype=float)
    for c, column in enumerate(COLUMNS):
        if column.kind == Kind.CATEGORICAL:
            x[:, c] = part.scores.detach().numpy()[x[:, c].astype(int), c]
        elif column.is_discrete:
            x[:, c] = (x[:, c] - column.offset) / column.scale
    return x


def p_missing(part, values):
    """Of whole rows [n, C]."""
    with torch.no_grad():
        logits = encoded(part, values) * part.slope.numpy() + part.intercept.numpy()
        if isinstance(part, LinearMasking):
            logits += encoded(part, values) @ part._others.numpy().T
    return special.expit(logits)


def log_factor(part, distribution, batch):
    with torch.no_grad():
        return part.factors(distribution, batch)["mask"]().numpy()


@pytest.mark.parametrize("part", [SelfMasking(), LinearMasking()], ids=str)
def test_the_factor_of_whole_rows(part):
    part, distribution = made(part)
    batch = rows()
    expected = np.log1p(-p_missing(part, batch.values.numpy())[:, :-1]).sum(1)  # the last had no holes at fit
    np.testing.assert_allclose(log_factor(part, distribution, batch), np.broadcast_to(expected, (S, B)), rtol=1e-6)


def expectation(distribution, c, s, b, g):
    """E[g(x_c)] by enumeration, or by quadrature."""
    column = COLUMNS[c]
    if column.is_discrete:
        codes = np.arange(column.cardinality)
        (part,) = (p for p, at in zip(distribution.parts, distribution.positions, strict=True) if c in at)
        mass = [part.log_prob(torch.full((B, 1), float(k), dtype=torch.float64))[s, b, 0].exp() for k in codes]
        return sum(float(p) * g(np.array([k]))[0] for k, p in zip(codes, mass, strict=True))
    mean = float(distribution.mean[s, b, c])
    part = next(p for p, at in zip(distribution.parts, distribution.positions, strict=True) if c in at)
    scale = float(part.log_scale.exp().flatten()[0])
    return integrate.quad(
        lambda x: stats.norm.pdf(x, mean, scale) * g(np.array([x]))[0], mean - 9 * scale, mean + 9 * scale
    )[0]


@pytest.mark.parametrize("c", range(C - 1), ids=lambda c: COLUMNS[c].name)
@pytest.mark.parametrize("part", [SelfMasking(), LinearMasking()], ids=str)
@torch.no_grad()
def test_the_factor_of_a_hole_is_the_integral(part, c):
    """In one column: exact for levels, and to the rule's accuracy for numbers, whatever the other columns do."""
    part, distribution = made(part)
    batch = rows((slice(0, 2), c))
    found = log_factor(part, distribution, batch)
    own = batch.values.numpy()
    for s in range(S):
        for b in range(2):

            def p(code, b=b):
                row = np.repeat(own[b : b + 1], len(code), axis=0)
                row[:, c] = code
                return p_missing(part, row)

            if isinstance(part, SelfMasking) and not isinstance(part, LinearMasking):
                rest = np.delete(np.log1p(-p(own[b, c : c + 1]))[0, :-1], c).sum()
                expected = np.log(expectation(distribution, c, s, b, lambda code, p=p: p(code)[:, c])) + rest
                assert found[s, b] == pytest.approx(expected, abs=1e-6 if COLUMNS[c].is_discrete else 4e-3)
            else:
                # That column by itself; the masks of the others are taken for independent of it.
                exact = np.log(expectation(distribution, c, s, b, lambda code, p=p: p(code)[:, c]))
                mine = part._log_prob(distribution, batch)[s, b, c]
                assert float(mine) == pytest.approx(exact, abs=1e-6 if COLUMNS[c].is_discrete else 4e-3)


@torch.no_grad()
def test_linear_masking_with_several_holes_by_monte_carlo():
    part, distribution = made(LinearMasking(), seed=3)
    hidden = torch.tensor([[True, True, False, True, False, True]] * B)
    batch = rows((hidden,))
    u = torch.rand(4_000, B, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.stack([distribution.icdf(piece.expand(S, -1, -1)) for piece in u.split(1)])  # [N, S, B, C]
    drawn = torch.where(hidden, drawn, batch.values)
    p = p_missing(part, drawn.reshape(-1, C).numpy()).reshape(drawn.shape)
    mine = part._log_prob(distribution, batch).exp().numpy()
    expected = np.where(hidden.numpy(), p.mean(0), 1 - p.mean(0))
    np.testing.assert_allclose(mine[..., :-1], expected[..., :-1], atol=0.03)
    np.testing.assert_array_equal(mine[..., -1], 1.0)


@pytest.mark.parametrize("part", [SelfMasking(), LinearMasking()], ids=str)
@torch.no_grad()
def test_entries_hidden_by_training_were_there(part):
    """Their value is integrated out, and their mask is not that of a hole."""
    part, distribution = made(part)
    hole, kept = rows((slice(None), 0)), rows()
    hidden = kept.hide(torch.arange(C).expand(B, C) == 0)
    of_hole, of_hidden = (part._log_prob(distribution, batch)[..., 0].exp() for batch in (hole, hidden))
    torch.testing.assert_close(of_hole + of_hidden, torch.ones(S, B, dtype=torch.float64))


def test_gradients_for_numbers_and_levels():
    """Through the nodes' weights: those of the expectation, by finite differences of a fine quadrature."""
    mean = torch.tensor([[[0.3]]], dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor([-0.4], dtype=torch.float64, requires_grad=True)
    values, log_weights = Normal(mean, log_scale, torch.zeros(1, dtype=torch.float64)).nodes()
    expected = (log_weights.exp() * torch.sigmoid(2 * values)).sum()
    found = torch.autograd.grad(expected, [mean, log_scale])

    def exact(m, s):
        return integrate.quad(lambda x: stats.norm.pdf(x, m, np.exp(s)) * special.expit(2 * x), -9, 9)[0]

    assert expected.item() == pytest.approx(exact(0.3, -0.4), abs=1e-3)
    h = 1e-4
    slopes = (
        (exact(0.3 + h, -0.4) - exact(0.3 - h, -0.4)) / (2 * h),
        (exact(0.3, -0.4 + h) - exact(0.3, -0.4 - h)) / (2 * h),
    )
    np.testing.assert_allclose([g.item() for g in found], slopes, atol=0.02)

    logits = draw(0, 1, 1, 1, 3).requires_grad_()
    values, log_weights = CategoricalColumns(logits).nodes()
    weights = torch.tensor([0.2, 0.9, 0.4], dtype=torch.float64)
    mine = torch.autograd.grad((log_weights.exp() * weights[values.long()]).sum(), logits)[0]
    exact_grad = torch.autograd.grad((logits.softmax(-1) * weights).sum(), logits)[0]
    torch.testing.assert_close(mine, exact_grad)


@pytest.mark.parametrize("slope", [-3.0, 0.0, 2.0])
def test_tilted_normal(slope):
    core = Normal(torch.full((1, 1, 1), 0.5), torch.zeros(1), torch.zeros(1))
    tilted = Tilted(core, lambda x: torch.nn.functional.logsigmoid(slope * x))

    def density(x):
        return stats.norm.pdf(x, 0.5) * special.expit(slope * x)

    total = integrate.quad(density, -9, 9)[0]
    mean = integrate.quad(lambda x: x * density(x), -9, 9)[0] / total
    assert float(tilted.mean) == pytest.approx(mean, abs=5e-3)
    for x in (-1.0, 0.2, 1.5):
        at = torch.full((1, 1), x)
        below = integrate.quad(density, -9, x)[0] / total
        assert float(tilted.log_prob(at)) == pytest.approx(np.log(density(x) / total), abs=2e-3)
        assert float(tilted.cdf(at)) == pytest.approx(below, abs=5e-3)
        assert float(tilted.icdf(torch.full((1, 1, 1), below))) == pytest.approx(x, abs=0.02)


@torch.no_grad()
def test_tilted_levels_are_exact():
    codes = torch.tensor([0.3, -1.0, 2.0])
    logits = draw(1, 1, 1, 1, 3).float()
    tilted = CategoricalColumns(logits).tilted(lambda x: codes[x.long()])
    expected = (logits.softmax(-1) * codes.exp()).squeeze()
    torch.testing.assert_close(tilted.probs.squeeze(), expected / expected.sum())
    yes = BernoulliColumns(torch.full((1, 1, 1), 0.7)).tilted(lambda x: codes[x.long()])
    odds = torch.sigmoid(torch.tensor(0.7)) * codes[1].exp(), torch.sigmoid(torch.tensor(-0.7)) * codes[0].exp()
    torch.testing.assert_close(yes.mean.squeeze(), odds[0] / (odds[0] + odds[1]))


@torch.no_grad()
def test_nodes_of_ordered_levels_are_their_probabilities():
    _, distribution = made(SelfMasking())
    part = next(p for p, at in zip(distribution.parts, distribution.positions, strict=True) if 4 in at)
    values, log_p = part.nodes()
    for k in range(4):
        assert (values[k] == k).all()
        expected = part.log_prob(torch.full((B, 1), float(k), dtype=torch.float64))[..., 0]
        torch.testing.assert_close(log_p[k, ..., 0], expected)


@pytest.mark.parametrize("part", [SelfMasking(), LinearMasking()], ids=str)
def test_holes_are_drawn_as_often_as_they_are_probable(part):
    part, _ = made(part)
    batch = rows()
    n = 4_000
    values = batch.values.repeat(n, 1)
    holes = part.with_holes(values, torch.Generator().manual_seed(0)).isnan().reshape(n, B, C).double().mean(0)
    expected = p_missing(part, batch.values.numpy())
    expected[:, -1] = 0.0
    np.testing.assert_allclose(holes.numpy(), expected, atol=0.035)


@pytest.mark.parametrize("part", [SelfMasking(), LinearMasking()], ids=str)
def test_without_holes_at_fit_there_is_no_factor(part):
    part = part.bind(COLUMNS[-1:])
    values = torch.zeros(2, 1)
    assert part.factors(None, Batch(values)) == {}
    assert part.given_mask("as it is", Batch(values)) == "as it is"
    assert part.with_holes(values, None) is values
