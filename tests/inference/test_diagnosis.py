"""Active units, collapse, gaps and advice."""

import json

import pytest

from skvae.inference.diagnosis import diagnose
from skvae.inference.log_likelihood import kl_per_dimension

CASES = [
    # latent_dim, unused, active, advice
    (2, 0, 2, "a latent_dim above 2 may explain more"),
    (3, 1, 2, None),
    (4, 3, 1, "only 1 latents are active: latent_dim=1 would do"),
    (2, 2, 0, "no latent is active (posterior collapse)"),
    (1, 0, 1, None),
]


@pytest.mark.parametrize(("latent_dim", "unused", "active", "advice"), CASES)
def test_active_units(linear_gaussian, noise, latent_dim, unused, active, advice):
    exact = linear_gaussian(latent_dim, unused=unused)
    diagnosis = diagnose(exact.model, exact.rows(200), noise(20, latent_dim), None)
    assert diagnosis.active_units == active
    assert diagnosis.latent_dim == latent_dim
    assert diagnosis.collapsed == (active == 0)
    assert [kl > 1e-9 for kl in diagnosis.kl_per_unit] == [True] * active + [False] * unused
    assert len(diagnosis.advice) == (advice is not None)
    if advice:
        assert advice in diagnosis.advice[0]


def test_gaps(linear_gaussian, noise):
    exact = linear_gaussian(2, widen=1.5)
    rows = exact.rows(100)
    diagnosis = diagnose(exact.model, rows, noise(20_000, 2), overfitting_gap=0.2)
    assert diagnosis.log_p == pytest.approx(exact.log_p(rows).mean().item(), abs=0.03)
    assert diagnosis.inference_gap == pytest.approx(diagnosis.log_p - diagnosis.elbo)
    assert diagnosis.inference_gap > 0.1
    assert diagnosis.kl_per_unit == pytest.approx(kl_per_dimension(exact.model, rows).mean(0).tolist())
    assert diagnosis.overfitting_gap == 0.2


def test_no_gap_from_the_exact_posterior(linear_gaussian, noise):
    exact = linear_gaussian(2, orthogonal=True)
    diagnosis = diagnose(exact.model, exact.rows(100), noise(20_000, 2), None)
    assert diagnosis.inference_gap == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize(("gap", "advised"), [(None, False), (0.01, False), (50.0, True)])
def test_overfitting(linear_gaussian, noise, gap, advised):
    exact = linear_gaussian(1)
    diagnosis = diagnose(exact.model, exact.rows(50), noise(20, 1), gap)
    assert any("lower hidden_sizes" in line for line in diagnosis.advice) == advised


def test_it_prints_and_converts(linear_gaussian, noise):
    exact = linear_gaussian(2)
    diagnosis = diagnose(exact.model, exact.rows(50), noise(20, 2), None)
    text = str(diagnosis)
    for words in ("active units     2 of 2", "nats per row", "no validation rows", "advice"):
        assert words in text
    assert "overfitting gap  0.250 nats" in str(diagnose(exact.model, exact.rows(50), noise(20, 2), 0.25))
    assert json.loads(json.dumps(diagnosis.to_dict()))["active_units"] == 2
