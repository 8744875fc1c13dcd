"""Whole `fit` against pythae's trainer: same network, batch and epochs, in turn, in one run.

Every fit is a fresh process and is timed inside it, imports excluded. Ours includes reading the table,
inferring its schema and encoding it; pythae gets a ready tensor. The peer's environment is made on first
use in .bench/pythae.

    python benchmarks/speed.py [--repeats 5]
"""

import argparse
import json
import sys
import tempfile
import time

import numpy as np

from data import answer_of, answer_of_peer

CASES = {
    "10–64–64–2": {
        "rows": 8_000,
        "columns": 10,
        "hidden": [64, 64],
        "latent_dim": 2,
        "epochs": 30,
        "bar": 3.0,
    },
    "784–512–512–16": {
        "rows": 12_800,
        "columns": 784,
        "hidden": [512, 512],
        "latent_dim": 16,
        "epochs": 5,
        "bar": 2.0,
    },
}


def fit_ours(task: dict) -> float:
    from skvae import MLP, VAE

    X = np.load(task["data"])
    hidden = tuple(task["hidden"])
    start = time.perf_counter()
    VAE(
        latent_dim=task["latent_dim"],
        encoder=MLP(hidden, activation="relu"),
        decoder=MLP(hidden[::-1], activation="relu"),
        likelihood="gaussian",
        max_epochs=task["epochs"],
        batch_size=task["batch_size"],
        learning_rate=1e-3,
        early_stopping=False,
        masking=0.0,
        latent_density=None,  # the peer has none
        random_state=0,
    ).fit(X)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps({"seconds": fit_ours(json.loads(arguments.ours))}))
        return

    def both(task: dict) -> tuple[float, float]:
        ours = answer_of(__file__, task, sys.executable, "--ours")
        return ours["seconds"], answer_of_peer("pythae", "pythae_fit.py", task)["seconds"]

    print(f"{'network':16} {'skvae':>18} {'pythae':>18} {'ratio':>20}   bar")
    for name, case in CASES.items():
        rng = np.random.default_rng(0)
        k, d = case["latent_dim"], case["columns"]
        X = rng.normal(size=(case["rows"], k)) @ rng.normal(size=(k, d)) + rng.normal(size=(case["rows"], d))
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, (X - X.mean(0)) / X.std(0))
            file.flush()
            task = {**case, "data": file.name, "batch_size": 128}
            pairs = np.array([both(task) for _ in range(arguments.repeats)])
        a, b = np.median(pairs, axis=0)
        ratio = pairs[:, 1] / pairs[:, 0]
        print(
            f"{name:16} {a:8.2f} s ({pairs[:, 0].min():.2f}–{pairs[:, 0].max():.2f})"
            f" {b:8.2f} s ({pairs[:, 1].min():.2f}–{pairs[:, 1].max():.2f})"
            f" {np.median(ratio):6.2f} × ({ratio.min():.2f}–{ratio.max():.2f})   ≥ {case['bar']:g} ×"
        )


if __name__ == "__main__":
    main()
