"""A linear VAE against probabilistic PCA in closed form (Tipping & Bishop 1999; Lucas et al. 2019).

With linear networks and one shared σ, the optimal ELBO equals the maximal log-likelihood of probabilistic PCA,
which is known from the eigenvalues of the covariance matrix. Printed per row, in nats and the units of the
raw data (the Jacobian of the standardisation is on both sides); the largest angle is between the decoder's
span and that of the leading eigenvectors.

    python benchmarks/ppca.py [--seeds 3]
"""

import argparse
import time

import numpy as np
from scipy.linalg import subspace_angles
from sklearn.datasets import load_diabetes, load_digits

from skvae import VAE

LATENT_DIM = 4


def optimum(X: np.ndarray, q: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Maximal mean log-likelihood of probabilistic PCA on standardised X, all eigenvalues, leading vectors."""
    n, d = X.shape
    values, vectors = np.linalg.eigh(X.T @ X / n)
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[q:].mean()
    log_p = -0.5 * (d * np.log(2 * np.pi) + np.log(values[:q]).sum() + (d - q) * np.log(noise) + d)
    return log_p, values, vectors[:, :q]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    header = ("seed", "optimum", "ELBO", "log p(x)", "short by", "angle", "gap λ4/λ5", "seconds")
    print(f"{'data':9}" + "".join(f"{name:>12}" for name in header))
    for name, load in (("digits", load_digits), ("diabetes", load_diabetes)):
        raw = load(return_X_y=True)[0]
        raw = raw[:, raw.std(0) > 0]
        scale = raw.std(0)
        X = (raw - raw.mean(0)) / scale
        best, values, vectors = optimum(X, LATENT_DIM)
        best -= np.log(scale).sum()
        for seed in range(seeds):
            start = time.perf_counter()
            vae = VAE(
                latent_dim=LATENT_DIM,
                hidden_sizes=(),
                likelihood="gaussian",
                masking=0.0,
                early_stopping=False,
                random_state=seed,
            ).fit(raw)
            seconds = time.perf_counter() - start
            elbo, log_p = vae.elbo(raw).mean(), vae.score_samples(raw).mean()
            weight = vae.model_.output.weight.detach().numpy()
            angle = np.degrees(subspace_angles(weight, vectors).max())
            numbers = (best, elbo, log_p, best - elbo, angle, values[LATENT_DIM - 1] / values[LATENT_DIM], seconds)
            print(f"{name:9}{seed:12d}" + "".join(f"{number:12.3f}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
