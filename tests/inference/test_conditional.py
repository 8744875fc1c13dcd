"""Missing entries given the others, against the exact Gaussian formulas."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.inference import conditional
from skvae.inference.conditional import conditional_centre, conditional_draws
from skvae.inference.log_likelihood import log_weights
from skvae.model import MLP, DiagonalNormal, LatentVariableModel, StandardNormal, Table

N = 6


def test_means_from_the_exact_posterior(linear_gaussian):
    """One node of noise on either side: any number of draws gives the exact conditional mean."""
    exact = linear_gaussian(1)
    rows = exact.rows(N, holes=True)
    nodes = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    centre = conditional_centre(exact.model, exact.model.prior, rows, nodes)
    torch.testing.assert_close(centre, exact.given_seen(rows)[0])


def test_means_from_another_posterior(linear_gaussian, noise):
    exact = linear_gaussian(2, widen=1.6, shift=0.5)
    rows = exact.rows(N, holes=True)
    centre = conditional_centre(exact.model, exact.model.prior, rows, noise(50_000, 2))
    torch.testing.assert_close(centre, exact.given_seen(rows)[0], rtol=0, atol=0.05)


def test_draws_have_the_right_mean_and_covariance(linear_gaussian, noise):
    exact = linear_gaussian(2, widen=1.4, shift=0.3)
    rows = exact.rows(N, holes=True)
    stream = torch.Generator().manual_seed(0)
    draws = conditional_draws(exact.model, exact.model.prior, rows, noise(20_000, 2), 20_000, stream)
    assert draws.shape == (20_000, N, 4)
    mean, covariance = exact.given_seen(rows)
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.06)
    for b in range(N):
        torch.testing.assert_close(draws[:, b].T.cov(), covariance[b], rtol=0.05, atol=0.08)


def test_draws_are_independent_over_rows(linear_gaussian, noise):
    """Rows that share all noise of the pool still draw from it on their own."""
    exact = linear_gaussian(1)
    rows = exact.rows(2).rows(torch.tensor([0, 0]))
    draws = conditional_draws(exact.model, exact.model.prior, rows, noise(500, 1), 5000, torch.Generator())
    assert abs(np.corrcoef(draws[:, 0, 0], draws[:, 1, 0])[0, 1]) < 0.05


@pytest.mark.parametrize("at_once", [1, 4])
def test_neither_pieces_nor_neighbours_matter(linear_gaussian, noise, monkeypatch, at_once):
    exact = linear_gaussian(2, widen=1.5)
    rows, eps = exact.rows(N, holes=True), noise(9, 2)

    def ask(rows):
        centre = conditional_centre(exact.model, exact.model.prior, rows, eps)
        return centre, conditional_draws(exact.model, exact.model.prior, rows, eps, 5, torch.Generator())

    centre, draws = ask(rows)
    some = torch.arange(3)
    fewer_centre, fewer_draws = ask(rows.rows(some))
    torch.testing.assert_close(fewer_centre, centre[some])
    torch.testing.assert_close(fewer_draws, draws[:, some])
    monkeypatch.setattr(conditional, "rows_at_once", lambda *_: at_once)
    for one, other in zip(ask(rows), (centre, draws), strict=True):
        torch.testing.assert_close(one, other)


def test_modes_and_draws_of_levels_by_brute_force():
    columns = [
        Column("city", Kind.CATEGORICAL, "str", levels=tuple("abc")),
        Column("cm", Kind.CONTINUOUS, "float64"),
        Column("flag", Kind.BINARY, "bool", levels=(False, True), offset=0.5, scale=0.5),
    ]
    torch.manual_seed(0)
    model = LatentVariableModel(
        columns,
        latent_dim=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        posterior=DiagonalNormal(),
        prior=StandardNormal(),
        likelihood=Table(),
        masks=True,
    )
    with torch.no_grad():
        model.output.weight.mul_(4)
    observed = torch.tensor([[False, True, False], [False, False, True]])
    rows = Batch(torch.tensor([[0.0, 1.2, 0.0], [0.0, 0.0, 1.0]]), observed=observed)
    eps = torch.randn(200, 2)
    with torch.no_grad():
        z, log_w = log_weights(model, model.prior, rows, eps)
        distribution = model.decode(z)
    weights = special.softmax(log_w.double().numpy(), axis=0)
    centre = conditional_centre(model, model.prior, rows, eps)
    n = 20_000
    draws = conditional_draws(model, model.prior, rows, eps, n, torch.Generator().manual_seed(1))
    for c, n_levels in ((0, 3), (2, 2)):
        codes = torch.arange(n_levels, dtype=torch.float32)
        pmf = np.stack(
            [
                (weights * distribution.log_prob(torch.full((2, 3), float(code)))[..., c].double().exp().numpy()).sum(
                    0
                )
                for code in range(n_levels)
            ]
        )  # [levels, B]
        np.testing.assert_allclose(pmf.sum(0), 1.0, rtol=1e-5)
        assert (centre[:, c].numpy() == pmf.argmax(0)).all()
        counts = (draws[..., c].unsqueeze(-1) == codes).sum(0).numpy()  # [B, levels]
        for b in range(2):
            assert stats.chisquare(counts[b], pmf[:, b] / pmf[:, b].sum() * n).pvalue > 1e-3
