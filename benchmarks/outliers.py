"""Novelties found by VAEOutlierDetector and by scikit-learn's detectors; mean ± sd over the seeds.

Each detector is fitted to half of the rows of the common class alone, and scores the other half and all rows of the
rare one: AUC, and seconds of fitting and scoring. All get standardised columns. Of the digits, each of three is the
common class in turn, and all others are novel.

    python benchmarks/outliers.py [--data digits …] [--seeds 3] [--quality fast] [--peers-only]
"""

import time
from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import skvae
from comparison import OURS, Measures, Model, Results, Split, asked
from data import IMBALANCED, imbalanced

_SETS = ("yeast6", "page-blocks-1-3_vs_4", "vowel0", "ecoli-0-1-4-7_vs_5-6", "pc1")
assert set(_SETS) <= set(IMBALANCED)


def breast_cancer() -> list[tuple[np.ndarray, np.ndarray]]:
    X, y = load_breast_cancer(return_X_y=True)
    return [(X, 1 - y)]


def digits() -> list[tuple[np.ndarray, np.ndarray]]:
    X, y = load_digits(return_X_y=True)
    return [(X, (y != digit).astype(int)) for digit in (0, 3, 8)]


def rare(name: str):
    def load() -> list[tuple[np.ndarray, np.ndarray]]:
        X, y = imbalanced(name)
        return [(X.to_numpy(), y)]

    return load


# name: rows and labels, 1 for novelties; several of them are averaged
DATA = {"breast cancer": breast_cancer, "digits": digits, **{name: rare(name) for name in _SETS}}


def splits(data: str, seeds: range) -> Iterator[list[Split]]:
    for seed in seeds:
        parts = []
        for X, y in DATA[data]():
            train, test = train_test_split(np.flatnonzero(y == 0), test_size=0.5, random_state=seed)
            test = np.r_[test, np.flatnonzero(y == 1)]
            scaler = StandardScaler().fit(X[train])
            parts.append(Split(data, seed, scaler.transform(X[train]), None, scaler.transform(X[test]), y[test]))
        yield parts


def scored(make) -> Model:
    def model(split: Split) -> Measures:
        start = time.perf_counter()
        scores = make(split.seed).fit(split.X).score_samples(split.X_test)
        return {"AUC": roc_auc_score(split.y_test, -scores), "s": time.perf_counter() - start}

    return model


def main() -> None:
    arguments = asked(__doc__, DATA)
    models = {
        "IsolationForest": scored(lambda seed: IsolationForest(random_state=seed)),
        "LocalOutlierFactor": scored(lambda seed: LocalOutlierFactor(novelty=True)),
        "OneClassSVM": scored(lambda seed: OneClassSVM()),
    }
    if not arguments.peers_only:
        quality = arguments.quality
        models[OURS] = scored(lambda seed: skvae.VAEOutlierDetector(quality=quality, random_state=seed))
    results = Results()
    for data in arguments.data:
        results.run(data, models, splits(data, range(arguments.first, arguments.first + arguments.seeds)))
    if arguments.peers_only:
        return
    for name in models:
        print(f"{name:20} mean AUC {np.mean([results.mean(data, name, 'AUC') for data in results.seeds]):.3f}")
    peers = [name for name in models if name != OURS]
    results.count(
        "AUC above every peer's",
        lambda data: results.mean(data, OURS, "AUC") > max(results.mean(data, name, "AUC") for name in peers),
    )


if __name__ == "__main__":
    main()
