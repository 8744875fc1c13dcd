"""A linear VAE against probabilistic PCA in closed form (Tipping & Bishop 1999; Lucas et al. 2019).

With linear networks and one shared σ, the optimal ELBO equals the maximal log-likelihood of probabilistic PCA,
which is known from the eigenvalues of the covariance matrix. Printed per row, in nats and the units of the
raw data (the Jacobian of the standardisation is on both sides); the largest angle is between the decoder's
span and that of the leading eigenvectors.

Then the same model is fitted to rows with 30 % holes, and what it says of the holes is compared with the exact
formulas for its own weights: x ~ N(b, W Wᵀ + σ² I), conditioned on the entries that are there. Differences are root
mean squares over holes, in standard deviations of the columns, for growing numbers of importance draws; RMSE is
to the values taken out.

    python benchmarks/ppca.py [--seeds 3]
"""

import argparse
import time

import numpy as np
import torch
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal
from sklearn.datasets import load_diabetes, load_digits

from skvae import VAE

LATENT_DIM = 4
DATA = {"digits": load_digits, "diabetes": load_diabetes}


def optimum(X: np.ndarray, q: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Maximal mean log-likelihood of probabilistic PCA on standardised X, all eigenvalues, leading vectors."""
    n, d = X.shape
    values, vectors = np.linalg.eigh(X.T @ X / n)
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[q:].mean()
    log_p = -0.5 * (d * np.log(2 * np.pi) + np.log(values[:q]).sum() + (d - q) * np.log(noise) + d)
    return log_p, values, vectors[:, :q]


def linear_vae(seed: int) -> VAE:
    return VAE(
        latent_dim=LATENT_DIM,
        hidden_sizes=(),
        likelihood="gaussian",
        masking=0.0,
        early_stopping=False,
        random_state=seed,
    )


def standardised(load) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The data without constant columns, raw and standardised, and the columns' standard deviations."""
    raw = load(return_X_y=True)[0]
    raw = raw[:, raw.std(0) > 0]
    return raw, (raw - raw.mean(0)) / raw.std(0), raw.std(0)


def whole_rows(seeds: int) -> None:
    header = ("seed", "optimum", "ELBO", "log p(x)", "short by", "angle", "gap λ4/λ5", "seconds")
    print(f"{'data':9}" + "".join(f"{name:>12}" for name in header))
    for name, load in DATA.items():
        raw, X, scale = standardised(load)
        best, values, vectors = optimum(X, LATENT_DIM)
        best -= np.log(scale).sum()
        for seed in range(seeds):
            start = time.perf_counter()
            vae = linear_vae(seed).fit(raw)
            seconds = time.perf_counter() - start
            elbo, log_p = vae.elbo(raw).mean(), vae.score_samples(raw).mean()
            weight = vae.model_.output.weight.detach().numpy()
            angle = np.degrees(subspace_angles(weight, vectors).max())
            numbers = (best, elbo, log_p, best - elbo, angle, values[LATENT_DIM - 1] / values[LATENT_DIM], seconds)
            print(f"{name:9}{seed:12d}" + "".join(f"{number:12.3f}" for number in numbers), flush=True)


def exact(vae: VAE, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Conditional means [n, C] in the holes and log p(x_seen) [n] of a linear model, in the data's units."""
    columns = vae.schema_.modelled
    offset = np.array([column.offset for column in columns])
    scale = np.array([column.scale for column in columns])
    z = np.eye(LATENT_DIM + 1, LATENT_DIM)  # the last row is z = 0
    decoded = vae.model_.decode(torch.tensor(z, dtype=torch.float32).unsqueeze(1)).mean.detach().numpy()[:, 0]
    mean, W = decoded[-1].astype(float), (decoded[:-1] - decoded[-1]).T.astype(float)
    part = vae.model_.decode(torch.zeros(1, 1, LATENT_DIM))
    while hasattr(part, "parts"):
        part = part.parts[0]
    sigma = float(part.scale.detach().flatten()[0])
    covariance = W @ W.T + sigma**2 * np.eye(len(mean))
    X = (rows - offset) / scale
    filled, log_p = X.copy(), np.zeros(len(X))
    for row, target in enumerate(filled):
        hole = np.isnan(target)
        seen = ~hole
        C = covariance[np.ix_(seen, seen)]
        log_p[row] = multivariate_normal(mean[seen], C).logpdf(X[row, seen]) - np.log(scale[seen]).sum()
        target[hole] = mean[hole] + covariance[np.ix_(hole, seen)] @ np.linalg.solve(C, X[row, seen] - mean[seen])
    return filled * scale + offset, log_p


def holes(seeds: int) -> None:
    draws = (100, 1_000, 10_000)
    header = ("seed", *(f"K = {k}" for k in draws), "log p error", "RMSE exact", "RMSE ours", "RMSE means")
    print(f"\n{'data':9}" + "".join(f"{name:>12}" for name in header))
    for name, load in DATA.items():
        _, raw, _ = standardised(load)  # not whole numbers, to which imputed ones would be rounded
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            hole = rng.random(raw.shape) < 0.3
            hole[hole.all(1)] = False
            rows = np.where(hole, np.nan, raw)
            vae = linear_vae(seed).fit(rows)
            expected, log_p = exact(vae, rows)
            bounds = [(column.lower, column.upper) for column in vae.schema_.modelled]
            expected = np.clip(expected, *np.array(bounds).T)  # as every completed table is

            def distance(a, b, hole=hole):
                return np.sqrt(((a - b)[hole] ** 2).mean())

            filled = [vae.impute(rows, n_draws=k) for k in draws]
            errors = [distance(one, expected) for one in filled]
            error = np.abs(vae.score_samples(rows, n_draws=draws[-1]) - log_p).mean()
            rmse = [distance(one, raw) for one in (expected, filled[-1], np.nanmean(rows, 0) + 0 * raw)]
            print(
                f"{name:9}{seed:12d}" + "".join(f"{number:12.4f}" for number in (*errors, error, *rmse)), flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    whole_rows(seeds)
    holes(seeds)


if __name__ == "__main__":
    main()
