"""The incomplete beta function in float32, against scipy in float64."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.nn import functional as F

from skvae.model.likelihoods import incomplete_beta


def shapes(largest: float, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    logs = np.random.default_rng(0).uniform(-2, np.log(largest), size=(2, n))
    return tuple(torch.tensor(np.exp(row), dtype=torch.float32) for row in logs)


def probabilities(n: int = 4000) -> torch.Tensor:
    """Uniform ones, and small and large ones."""
    rng = np.random.default_rng(1)
    tiny = 10 ** rng.uniform(-7, -0.4, size=n // 2)
    u = np.concatenate([rng.uniform(size=n // 2), tiny[: n // 4], 1 - tiny[n // 4 :]])
    return torch.tensor(u, dtype=torch.float32).clamp(2.0**-25, 1 - 2.0**-24)


def tails(a: torch.Tensor, b: torch.Tensor, s: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """P(X ≤ σ(s)) and P(X > σ(s)) by scipy, without the rounding of σ(s) near 1."""
    a, b, s = (x.double().numpy() for x in (a, b, s))
    x, rest = special.expit(s), special.expit(-s)
    lower = np.where(s < 0, special.betainc(a, b, x), special.betaincc(b, a, rest))
    upper = np.where(s < 0, special.betaincc(a, b, x), special.betainc(b, a, rest))
    return lower, upper


# Rounding errors of a and b alone move the cdf by about 1e-7 a.
ERRORS = [(50.0, 1e-5), (8000.0, 1e-3)]


@pytest.mark.parametrize(("largest", "error"), ERRORS)
def test_cdf(largest, error):
    a, b = shapes(largest)
    x = stats.beta.ppf(probabilities().double(), a.double(), b.double())
    s = torch.tensor(special.logit(x.clip(1e-30, 1 - 1e-7)), dtype=torch.float32)
    lower, upper = incomplete_beta.log_cdf(a, b, F.logsigmoid(s), F.logsigmoid(-s))
    expected = tails(a, b, s)
    np.testing.assert_allclose(lower.exp(), expected[0], atol=error)
    np.testing.assert_allclose(upper.exp(), expected[1], atol=error)
    # The smaller of the two loses no digits.
    smaller = torch.minimum(lower, upper)
    np.testing.assert_allclose(smaller, np.log(np.minimum(*expected)), atol=5 * error)


@pytest.mark.parametrize(("largest", "error"), ERRORS)
def test_icdf(largest, error):
    a, b = shapes(largest)
    u = probabilities()
    lower, upper = tails(a, b, incomplete_beta.icdf(a, b, u, 1 - u))
    np.testing.assert_allclose(np.log(lower[u < 0.5]), u[u < 0.5].log(), atol=5 * error)
    np.testing.assert_allclose(np.log(upper[u >= 0.5]), torch.log(1 - u[u >= 0.5]), atol=5 * error)


def test_icdf_of_equal_halves():
    half = torch.tensor([0.5, 3.0, 2000.0])
    logit = incomplete_beta.icdf(half, half, torch.full((3,), 0.5), torch.full((3,), 0.5))
    np.testing.assert_allclose(logit, 0.0, atol=1e-4)


@pytest.mark.parametrize(("largest", "error"), ERRORS)
def test_log_density(largest, error):
    a, b = shapes(largest)
    s = torch.logit(a / (a + b)) + torch.linspace(-3, 3, len(a)) / torch.sqrt(a * b / (a + b))
    got = incomplete_beta.log_density(a, b, F.logsigmoid(s), F.logsigmoid(-s))
    log_x, log_rest = (-np.logaddexp(0, sign * s.double().numpy()) for sign in (-1, 1))
    a, b = a.double().numpy(), b.double().numpy()
    expected = a * log_x + b * log_rest - special.betaln(a, b)
    np.testing.assert_allclose(got, expected, atol=5 * error)


def test_stirling_error_is_continuous_and_right():
    a = torch.cat([torch.logspace(-2, 5, 200), torch.tensor([7.999, 8.0, 8.001])])
    exact = a.double().numpy()
    series = (exact - 0.5) * np.log(exact) - exact + 0.5 * np.log(2 * np.pi)
    expected = special.gammaln(exact) - series
    np.testing.assert_allclose(incomplete_beta.stirling_error(a), expected, atol=3e-6)
