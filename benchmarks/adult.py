"""Held-out log p(x) of Adult (48,842 × 15): the default VAE against simpler densities.

Two thirds of the rows train (a tenth of them to choose by), one third tests. All models score columns by the
same likelihoods; figures are nats per row, of all 15 columns together.

    python benchmarks/adult.py [--seeds 3]
"""

import argparse
import time

import numpy as np
from sklearn.model_selection import train_test_split

from data import adult
from latent_class import LatentClass
from skvae import VAE, Schema
from skvae.data.table import read_table

COMPONENTS = (20, 50, 100, 200, 400)


def mixture(train, test, seed: int) -> tuple[float, int, float]:
    """Test log p(x) of the latent-class mixture, its number of components, and the seconds it took."""
    start = time.perf_counter()
    kept, held_out = train_test_split(train, test_size=0.1, random_state=seed)
    schema = Schema.infer(read_table(train))
    rows = {name: schema.encode(read_table(part), "missing") for name, part in (("kept", kept), ("held", held_out))}
    fits = [LatentClass(schema.modelled, k, seed=seed).fit(rows["kept"]) for k in COMPONENTS]
    best = max(fits, key=lambda fit: fit.log_p(rows["held"]).mean().item())
    return _mean(best, schema, test), best.n_components, time.perf_counter() - start


def independent(train, test) -> float:
    schema = Schema.infer(read_table(train))
    model = LatentClass(schema.modelled, 1, n_iterations=1).fit(schema.encode(read_table(train)))
    return _mean(model, schema, test)


def _mean(model: LatentClass, schema: Schema, test) -> float:
    return model.log_p(schema.encode(read_table(test), "missing")).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    frame = adult()
    results: dict[str, list[float]] = {}
    for seed in range(seeds):
        train, test = train_test_split(frame, test_size=1 / 3, random_state=seed)
        results.setdefault("independent columns", []).append(independent(train, test))
        start = time.perf_counter()
        vae = VAE(handle_unknown="missing", random_state=seed).fit(train)
        seconds = time.perf_counter() - start
        log_p = vae.score_samples(test).mean(dtype=np.float64)
        results.setdefault("VAE(), default", []).append(log_p)
        results.setdefault("VAE() fit, seconds", []).append(seconds)
        print(f"seed {seed}: VAE {log_p:.3f} ({seconds:.0f} s, {vae.settings_}, {vae.history_})", flush=True)
        log_p, k, seconds = mixture(train, test, seed)
        results.setdefault("latent-class mixture", []).append(log_p)
        print(f"seed {seed}: latent-class mixture {log_p:.3f} ({k} components, {seconds:.0f} s)", flush=True)
    for name, values in sorted(results.items()):
        print(f"{name:24} {np.mean(values):9.3f} ± {np.std(values, ddof=1) if seeds > 1 else 0:.3f}")


if __name__ == "__main__":
    main()
