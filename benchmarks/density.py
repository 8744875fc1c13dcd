"""Densities of Fashion-MNIST, dynamically binarised: the parts against each other.

Every model has the same networks, 784–300–300–40 and back, as many epochs and steps, and keeps the prior of
training; only one part differs. Printed is −log p(x) in nats per image, by 5,000 importance draws on 1,000 test
images that no training or choice has seen, binarised once for all models.

    python benchmarks/density.py [--seeds 3] [--first 0] [--epochs 8] [--only VampPrior …]
"""

import argparse
import time

import numpy as np

from comparison import mean_and_sd
from data import fashion_mnist
from skvae import ELBO, IWAE, VAE, Bernoulli, FlowPosterior, VampPrior

VARIANTS = {
    "standard normal": {},
    "VampPrior": {"prior": VampPrior(n_pseudo_inputs=500)},
    "IWAE K = 5": {"objective": IWAE(n_draws=5)},
    "IWAE K = 50": {"objective": IWAE(n_draws=50)},
    "DReG K = 5": {"objective": IWAE(n_draws=5, gradient="dreg")},
    "DReG K = 50": {"objective": IWAE(n_draws=50, gradient="dreg")},
    "flow posterior": {"posterior": FlowPosterior(), "objective": ELBO()},
}
N_TEST, N_DRAWS = 1_000, 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    (train, _), (test, _) = fashion_mnist()
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(test), N_TEST, replace=False)
    rows = (rng.random((N_TEST, 784)) < test[chosen] / 255).astype(np.float64)
    results: dict[str, list[float]] = {}
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for name in arguments.only:
            start = time.perf_counter()
            vae = VAE(
                latent_dim=40,
                hidden_sizes=(300, 300),
                likelihood=Bernoulli(binarize="dynamic"),
                masking=0.0,
                latent_density=None,
                max_epochs=arguments.epochs,
                batch_size=128,
                learning_rate=1e-3,
                validation_fraction=0.05,
                random_state=seed,
                **VARIANTS[name],
            ).fit(train / 255)
            seconds = time.perf_counter() - start
            score = -vae.score_samples(rows, n_draws=N_DRAWS).mean(dtype=np.float64)
            results.setdefault(name, []).append(score)
            print(f"seed {seed}  {name:16} {score:8.2f} nats  ({seconds:.0f} s, {vae.history_})", flush=True)
    for name, values in results.items():
        print(f"{name:16} {mean_and_sd(values, 2):>15}")


if __name__ == "__main__":
    main()
