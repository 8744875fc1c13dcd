"""Grey values as probabilities: Bernoulli(binarize="dynamic")."""

import numpy as np
import pytest
import torch

from skvae import VAE, Bernoulli
from skvae.data import Column, Kind
from skvae.model import Table

GREY = Column("grey", Kind.CONTINUOUS, "float64", offset=0.3, scale=0.2, lower=0.0, upper=1.0)
NUMBER = Column("number", Kind.CONTINUOUS, "float64", offset=3.0, scale=2.0, lower=-5.0, upper=9.0)


def encoded(x, column=GREY):
    return (torch.as_tensor(x) - column.offset) / column.scale


def test_draws_have_the_probability_that_the_grey_value_says():
    likelihood = Bernoulli(binarize="dynamic").bind([GREY, GREY])
    values = encoded([0.2, 0.9]).expand(100_000, 2)
    u = torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
    drawn = likelihood.observe(values, u) * GREY.scale + GREY.offset
    torch.testing.assert_close(drawn, drawn.round(), atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.2, 0.9]), atol=5e-3, rtol=0)


def test_scores_are_those_of_the_code():
    distribution = Bernoulli(binarize="dynamic").bind([GREY])(torch.full((1, 2, 1), 0.7))
    expected = torch.log(torch.sigmoid(torch.tensor([-0.7, 0.7])))
    torch.testing.assert_close(distribution.log_prob(encoded([[0.0], [1.0]]))[0, :, 0], expected)
    torch.testing.assert_close(
        distribution.mean[0], encoded(torch.full((2, 1), float(torch.sigmoid(torch.tensor(0.7)))))
    )
    torch.testing.assert_close(distribution.icdf(torch.tensor([[[0.1], [0.9]]]))[0], encoded([[0.0], [1.0]]))
    torch.testing.assert_close(
        distribution.cdf(encoded([[0.0], [1.0]]))[0, :, 0],
        torch.tensor([float(torch.sigmoid(torch.tensor(-0.7))), 1.0]),
    )


def test_in_a_table_only_its_columns_are_drawn():
    table = Table({"grey": Bernoulli(binarize="dynamic")}).bind([NUMBER, GREY])
    assert table.draws_values
    values = torch.stack([torch.tensor([0.5, -0.5]), encoded([0.2, 0.9])], dim=1)
    drawn = table.observe(values, torch.full((2, 2), 0.5))
    assert torch.equal(drawn[:, 0], values[:, 0])
    torch.testing.assert_close(drawn[:, 1], encoded([0.0, 1.0]))
    assert not Table("auto").bind([NUMBER]).draws_values


def test_numbers_that_are_no_probabilities_are_refused():
    X = np.random.default_rng(0).uniform(0, 255, size=(30, 2))
    with pytest.raises(ValueError, match=r"column 'x0' holds 2\d\d.*; divide"):
        VAE(likelihood=Bernoulli(binarize="dynamic"), max_epochs=1).fit(X)
    with pytest.raises(ValueError, match="binarize='threshold'"):
        VAE(likelihood=Bernoulli(binarize="threshold"), max_epochs=1).fit(X)


def test_training_sees_other_draws_at_every_step():
    X = np.random.default_rng(0).uniform(size=(200, 3))
    vae = VAE(likelihood=Bernoulli(binarize="dynamic"), latent_dim=1, max_epochs=3, random_state=0).fit(X)
    # No draw is better predicted than a fair coin.
    assert -2.2 < vae.score((X > 0.5).astype(float)) < -1.9
    sample = vae.sample(50, random_state=0)
    # As everywhere, samples stay within the bounds seen at fit, which are close to 0 and 1.
    np.testing.assert_allclose(sample, sample.round(), atol=0.02)
