"""Held-out log p(x) of Adult (48,842 × 15): the default VAE against simpler densities.

Two thirds of the rows train (a tenth of them to choose by), one third tests. All models score columns by the
likelihoods that the VAE chose, on the same encoded rows; figures are nats per row, of all 15 columns together.

    python benchmarks/adult.py [--seeds 3] [--first 0]
"""

import argparse
import time

import numpy as np
from sklearn.model_selection import train_test_split

from comparison import mean_and_sd
from data import adult
from latent_class import LatentClass
from skvae import VAE
from skvae.data.table import read_table

COMPONENTS = (20, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    frame = adult()
    results: dict[str, list[float]] = {}

    def report(seed: int, name: str, value: float, note: object = "") -> None:
        results.setdefault(name, []).append(value)
        print(f"seed {seed}  {name:24} {value:9.3f}  {note}", flush=True)

    for seed in seeds:
        train, test = train_test_split(frame, test_size=1 / 3, random_state=seed)
        start = time.perf_counter()
        vae = VAE(handle_unknown="missing", random_state=seed).fit(train)
        report(seed, "VAE(): seconds to fit", time.perf_counter() - start)
        report(seed, "VAE()", vae.score_samples(test).mean(dtype=np.float64), vae.history_)
        print(vae.likelihood_)
        schema, likelihood = vae.schema_, vae.likelihood_
        kept, held_out = train_test_split(train, test_size=0.1, random_state=seed)
        rows = {
            name: schema.encode(read_table(part), "missing")
            for name, part in (("kept", kept), ("held out", held_out), ("test", test))
        }

        def fitted(k: int, seed=seed, rows=rows, schema=schema, likelihood=likelihood) -> LatentClass:
            return LatentClass(likelihood, schema.modelled, k, seed=seed).fit(rows["kept"])

        report(seed, "independent columns", fitted(1).log_p(rows["test"]).mean().item())
        start = time.perf_counter()
        fits = [fitted(k) for k in COMPONENTS]
        choice = max(fits, key=lambda fit, rows=rows: fit.log_p(rows["held out"]).mean().item())
        note = f"{choice.n_components} components, {time.perf_counter() - start:.0f} s"
        report(seed, "latent-class mixture", choice.log_p(rows["test"]).mean().item(), note)
    for name, values in sorted(results.items()):
        print(f"{name:32} {mean_and_sd(values, 3):>17}")


if __name__ == "__main__":
    main()
