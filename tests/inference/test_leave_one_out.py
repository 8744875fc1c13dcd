"""Every entry given the others, against the exact Gaussian formulas."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.inference import leave_one_out
from skvae.inference.leave_one_out import left_out

N = 5
UNITS = np.array([10.0, 0.2, 3.0, 1.0])


def exact(model, rows):
    answers = np.full(rows.values.shape, np.nan), np.empty(rows.values.shape)
    for c in range(rows.values.shape[1]):
        asked = rows.hide((torch.arange(rows.values.shape[1]) == c).expand(rows.values.shape))
        mean, covariance = model.given_seen(asked)
        scale = covariance[:, c, c].sqrt()
        log_p = stats.norm(mean[:, c], scale).logpdf(rows.values[:, c]) - np.log(UNITS[c])
        seen = np.ones(len(log_p), bool) if rows.observed is None else rows.observed[:, c].numpy()
        answers[0][:, c], answers[1][:, c] = np.where(seen, log_p, np.nan), mean[:, c]
    return answers


@pytest.mark.parametrize("holes", [False, True])
def test_log_densities_and_means(linear_gaussian, noise, holes):
    model = linear_gaussian(2, widen=1.3, shift=0.2)
    rows = model.rows(N, holes=holes)
    answer = left_out(model.model, model.model.prior, rows, noise(50_000, 2))
    log_p, mean = exact(model, rows)
    np.testing.assert_allclose(answer.log_p, log_p, atol=0.03)
    np.testing.assert_allclose(answer.centre, mean, atol=0.05)


def test_neither_pieces_nor_neighbours_matter(linear_gaussian, noise, monkeypatch):
    model = linear_gaussian(2)
    rows, eps = model.rows(N, holes=True), noise(8, 2)

    def ask(rows):
        return left_out(model.model, model.model.prior, rows, eps)

    whole = ask(rows)
    torch.testing.assert_close(ask(rows.rows(torch.arange(2)))[0], whole[0][:2], equal_nan=True)
    monkeypatch.setattr(leave_one_out, "rows_at_once", lambda *_: 3)
    for one, other in zip(ask(rows), whole, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
