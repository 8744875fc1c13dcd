"""The supervised estimators against scikit-learn's, each on the same splits; mean ± sd over the seeds.

regression      RMSE and CRPS / sd of the test targets, −log p(y) in nats in units of y, coverage and width / sd of
                the 90 % interval; the peers' distribution is a Gaussian as wide as their error on held-out rows.
missing         RMSE / sd with 30 % of the test rows' features missing at random.
semi            error on held-out images when few training images have a label; pixels are columns of a table, but
                for the line "images".
classification  AUC, expected calibration error in 15 bins of equal mass, log loss.
generation      gradient boosting trained on as many drawn rows as there are training rows, tested on real ones.
oversampling    average precision of gradient boosting and of logistic regression after oversampling; five folds.

    python benchmarks/supervised.py [--sections regression …] [--data concrete …] [--seeds 5] [--first 0]
        [--n-estimators auto] [--quality default] [--images 20000] [--images-only] [--peers-only]
"""

import argparse
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import peers_sklearn as peers
import skvae
from comparison import OURS, Measures, Model, Results, Split
from data import CLASSIFICATION, IMBALANCED, REGRESSION, fashion_mnist, imbalanced, regression

MISSING, COVERAGE = 0.3, 0.9  # of the features, of the targets
# Where pixels are given as images. Of digits M1 is as in the benchmark of clusters. Of Fashion-MNIST, whose classes
# are no clusters, it has more latents and a lighter term; this, and the weight of labels that spread, were chosen on
# 5,000 training images with 100 labels of their own.
IMAGES = {"likelihood": "gaussian", "decoder": "mlp"}
M1_OF_DIGITS = IMAGES | {"encoder": "residual", "latent_dim": 10}
M1_OF_FASHION = IMAGES | {
    "encoder": "hog",
    "latent_dim": 32,
    "objective": skvae.ELBO() + skvae.Neighbours(weight=0.05, scale=1.0, hog=1.0) + skvae.LabelSpreading(),
}
M2_OF_IMAGES = IMAGES | {
    "encoder": "hog",
    "latent_dim": 32,
    "objective": skvae.ELBO() + skvae.LabelSpreading(weight=0.1, hog=0.5),
}


class Bench:
    """The command line's choices, and our estimators fitted on a split, kept for the sections that share it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.seeds = range(arguments.first, arguments.first + arguments.seeds)
        self.fits: dict[tuple, tuple[Any, float]] = {}

    def chosen(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self.arguments.data]

    def with_ours(self, models: dict[str, Model], ours: dict[str, Model]) -> dict[str, Model]:
        return models if self.arguments.peers_only else models | ours

    def fitted(self, split: Split, kind: str, **settings) -> tuple[Any, float]:
        """Our estimator of a kind, fitted on the split, and the seconds that took."""
        key = (split.data, split.seed, kind, *((name, str(value)) for name, value in settings.items()))
        if key not in self.fits:
            model = getattr(skvae, kind)(
                n_estimators=self.arguments.n_estimators,
                quality=self.arguments.quality,
                handle_unknown="missing",  # rare levels may stand in test rows alone
                random_state=split.seed,
                **settings,
            )
            self.fits[key] = peers.timed_fit(model, split.X, split.y)
        return self.fits[key]

    def splits(self, data: str, X, y, stratify: bool = False) -> Iterator[list[Split]]:
        """A fifth of the rows tests."""
        for seed in self.seeds:
            parts = train_test_split(X, y, test_size=0.2, random_state=seed, stratify=y if stratify else None)
            yield [Split(data, seed, parts[0], parts[2], parts[1], parts[3])]


def run_regression(bench: Bench) -> None:
    def measures(split: Split, mean, log_p, crps, low, high, seconds) -> Measures:
        y, sd = split.y_test, np.std(split.y_test)
        return {
            "RMSE/sd": peers.rmse(y, mean) / sd,
            "NLL": -np.mean(log_p, dtype=np.float64),
            "CRPS/sd": np.mean(crps) / sd,
            "coverage": np.mean((low <= y) & (y <= high)),
            "width/sd": np.mean(high - low) / sd,
            "fit, s": seconds,
        }

    def peer(name: str) -> Model:
        def model(split: Split) -> Measures:
            mean, sd, seconds = peers.gaussian_prediction(name, split.X, split.y, split.X_test, split.seed)
            y, half = split.y_test, peers.norm.ppf((1 + COVERAGE) / 2) * sd
            log_p, crps = peers.norm.logpdf(y, mean, sd), peers.gaussian_crps(y, mean, sd)
            return measures(split, mean, log_p, crps, mean - half, mean + half, seconds)

        return model

    def ours(split: Split) -> Measures:
        model, seconds = bench.fitted(split, "VAERegressor")
        distribution = model.predict_distribution(split.X_test)
        low, high = model.predict_interval(split.X_test, coverage=COVERAGE).T
        log_p, crps = distribution.log_prob(split.y_test), distribution.crps(split.y_test)
        return measures(split, model.predict(split.X_test), log_p, crps, low, high, seconds)

    results = Results()
    for data in bench.chosen(REGRESSION):
        X, y = regression(data)
        models = {name: peer(name) for name in peers.regressors(0, int(0.8 * len(X)))}
        results.run(data, bench.with_ours(models, {OURS: ours}), bench.splits(data, X, y))
    if bench.arguments.peers_only:
        return

    def margin(data: str, measure: str, others: Iterable[str] | None = None) -> float:
        return results.best(data, measure, others) - results.mean(data, OURS, measure)

    def sharper(data: str, others: Iterable[str] | None = None) -> bool:
        return all(margin(data, measure, others) > 0 for measure in ("NLL", "CRPS/sd"))

    results.count("RMSE below the MLP's", lambda data: margin(data, "RMSE/sd", ["MLP"]) > 0, "6 of 8")
    results.count(
        "RMSE at most 1.1 times gradient boosting's",
        lambda data: results.mean(data, OURS, "RMSE/sd") <= 1.1 * results.mean(data, peers.HGB, "RMSE/sd"),
        "6 of 8",
    )
    results.count(
        "NLL and CRPS below the Gaussians' around the MLP and around gradient boosting",
        lambda data: sharper(data, ["MLP", peers.HGB]),
        "7 of 8",
    )
    results.count("NLL and CRPS below every peer's", sharper)
    coverage = np.mean([results.mean(data, OURS, "coverage") for data in results.seeds])
    print(f"mean coverage of the 90 % interval: {coverage:.3f} (bar: .88 to .92)")


def run_missing(bench: Bench) -> None:
    def scored(predict: Callable[[Split], Any]) -> Model:
        def model(split: Split) -> Measures:
            return {"RMSE/sd": peers.rmse(split.y_test, predict(split)) / np.std(split.y_test)}

        return model

    def splits(data: str) -> Iterator[list[Split]]:
        for (split,) in bench.splits(data, *regression(data)):
            rng = np.random.default_rng([split.seed, 0])
            yield [split._replace(X_test=peers.masked(split.X_test, MISSING, rng))]

    models = {
        "imputer, HGB": scored(lambda s: peers.predict_imputed(s.X, s.y, s.X_test, s.seed)),
        "HGB, masked rows": scored(lambda s: peers.predict_natively(s.X, s.y, s.X_test, s.seed, MISSING)),
    }
    # As with the peer that is trained on masked rows, it is known beforehand that features will be missing.
    ours = {OURS: scored(lambda s: bench.fitted(s, "VAERegressor", masking=1.0)[0].predict(s.X_test))}
    results = Results()
    for data in bench.chosen(REGRESSION):
        results.run(data, bench.with_ours(models, ours), splits(data))
    if not bench.arguments.peers_only:
        results.count(
            "RMSE below the better of the two",
            lambda data: results.mean(data, OURS, "RMSE/sd") < results.best(data, "RMSE/sd"),
            "4 of 8",
        )


def run_semi(bench: Bench) -> None:
    n_images = bench.arguments.images

    def few_labels(X, y, n_per_class: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        kept = [rng.choice(np.flatnonzero(y == label), n_per_class, replace=False) for label in np.unique(y)]
        labels = np.full(len(y), -1)
        labels[np.concatenate(kept)] = y[np.concatenate(kept)]
        return labels

    def digits(n_per_class: int) -> Iterator[list[Split]]:
        for seed in bench.seeds:
            X, y = load_digits(return_X_y=True)
            X, X_test, y, y_test = train_test_split(X, y, test_size=1 / 3, stratify=y, random_state=seed)
            yield [Split("digits", seed, X, few_labels(X, y, n_per_class, seed), X_test, y_test)]

    def fashion(n_per_class: int) -> Iterator[list[Split]]:
        (X, y), (X_test, y_test) = fashion_mnist()
        for seed in bench.seeds:
            rows = np.random.default_rng(seed).choice(len(X), min(n_images, len(X)), replace=False)
            labels = few_labels(X[rows], y[rows].astype(np.int64), n_per_class, seed)
            name = f"fashion {10 * n_per_class} labels"
            yield [Split(name, seed, X[rows].astype(np.float64), labels, X_test.astype(np.float64), y_test)]

    def peer(name: str) -> Model:
        def model(split: Split) -> Measures:
            scale = split.X.max()
            rows = split.y >= 0 if name == "labelled only" else slice(None)
            model = peers.semi_supervised(len(split.X))[name]
            model, seconds = peers.timed_fit(model, split.X[rows] / scale, split.y[rows])
            return {"error": np.mean(model.predict(split.X_test / scale) != split.y_test), "fit, s": seconds}

        return model

    def m1(split: Split) -> Measures:
        vae, seconds = peers.timed_fit(
            skvae.VAE(quality=bench.arguments.quality, random_state=split.seed), split.X, None
        )
        labelled = split.y >= 0
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(vae.transform(split.X[labelled]), split.y[labelled])
        error = np.mean(classifier.predict(vae.transform(split.X_test)) != split.y_test)
        return {"error": error, "fit, s": seconds}

    def ours(structure: str, as_images: bool = False) -> Model:
        def model(split: Split) -> Measures:
            settings: dict[str, Any] = {}
            if as_images:
                side, m1 = math.isqrt(split.X.shape[1]), M1_OF_DIGITS if split.data == "digits" else M1_OF_FASHION
                settings = (M2_OF_IMAGES if structure == "m2" else m1) | {"image_shape": (side, side)}
            model, seconds = bench.fitted(split, "VAEClassifier", structure=structure, **settings)
            return {"error": np.mean(model.predict(split.X_test) != split.y_test), "fit, s": seconds}

        return model

    sets = {
        "digits": (1_198, lambda: digits(5)),
        "fashion 100 labels": (n_images, lambda: fashion(10)),
        "fashion 1000 labels": (n_images, lambda: fashion(100)),
    }
    structures = {f"{OURS} {structure}": ours(structure) for structure in ("m2", "m1+m2", "auto")}
    structures |= {f"{OURS} {structure}, images": ours(structure, as_images=True) for structure in ("m2", "m1+m2")}
    if bench.arguments.images_only:
        structures = {name: model for name, model in structures.items() if name.endswith("images")}
    results = Results()
    for data in bench.chosen(sets):
        n_rows, splits = sets[data]
        models = {name: peer(name) for name in peers.semi_supervised(n_rows)}
        results.run(data, bench.with_ours(models, {f"{OURS} m1": m1} | structures), splits())
    if not bench.arguments.peers_only:
        for name in structures:
            results.count(
                f"error of {name} below every peer's",
                lambda data, name=name: results.mean(data, name, "error") < results.best(data, "error"),
            )


def run_classification(bench: Bench) -> None:
    def measures(split: Split, model, seconds: float) -> Measures:
        p = model.predict_proba(split.X_test)[:, 1]
        return peers.probability_scores(split.y_test, p) | {"fit, s": seconds}

    def peer(name: str) -> Model:
        return lambda split: measures(split, *peers.timed_fit(peers.classifiers(split.seed)[name], split.X, split.y))

    models = {name: peer(name) for name in peers.classifiers(0)}
    ours = {OURS: lambda split: measures(split, *bench.fitted(split, "VAEClassifier"))}
    results = Results()
    for data in bench.chosen(CLASSIFICATION):
        splits = bench.splits(data, *CLASSIFICATION[data](), stratify=True)
        results.run(data, bench.with_ours(models, ours), splits)
    if not bench.arguments.peers_only:
        results.count(
            "AUC at most .01 below gradient boosting's",
            lambda data: results.mean(data, OURS, "AUC") >= results.mean(data, peers.HGB, "AUC") - 0.01,
            "all",
        )
        results.count("ECE at most .02", lambda data: results.mean(data, OURS, "ECE") <= 0.02, "all")


def run_generation(bench: Bench) -> None:
    def r2(split: Split, X, y) -> Measures:
        model = HistGradientBoostingRegressor(random_state=split.seed).fit(X, y)
        return {"R²": r2_score(split.y_test, model.predict(split.X_test))}

    def auc(split: Split, X, y) -> Measures:
        model = HistGradientBoostingClassifier(random_state=split.seed).fit(X, y)
        return {"AUC": roc_auc_score(split.y_test, model.predict_proba(split.X_test)[:, 1])}

    def real(score: Callable[..., Measures]) -> Model:
        return lambda split: score(split, split.X, split.y)

    def drawn(kind: str, score: Callable[..., Measures]) -> Model:
        def model(split: Split) -> Measures:
            X, y = bench.fitted(split, kind)[0].sample(len(split.X), random_state=split.seed)
            return score(split, pd.DataFrame(X, columns=split.X.columns).astype(split.X.dtypes), np.asarray(y))

        return model

    sets = {
        "california": (lambda: regression("california"), "VAERegressor", r2, "R²", 0.10),
        "adult": (CLASSIFICATION["adult"], "VAEClassifier", auc, "AUC", 0.015),
    }
    results = Results()
    for data in bench.chosen(sets):
        load, kind, score, measure, bar = sets[data]
        models = {"real rows": real(score)}
        splits = bench.splits(data, *load(), stratify=measure == "AUC")
        results.run(data, bench.with_ours(models, {OURS: drawn(kind, score)}), splits)
        if not bench.arguments.peers_only:
            loss = results.mean(data, "real rows", measure) - results.mean(data, OURS, measure)
            print(f"{data}: {measure} lost by training on drawn rows: {loss:.3f} (bar: {bar})")


def run_oversampling(bench: Bench) -> None:
    def resampled(resample: Callable[[Any, Any, int], tuple[Any, Any]]) -> Model:
        def model(split: Split) -> Measures:
            X, y = resample(split.X, split.y, split.seed)
            return peers.average_precision(X, y, split.X_test, split.y_test, split.seed)

        return model

    def folds(data: str) -> Iterator[list[Split]]:
        X, y = imbalanced(data)
        for seed in bench.seeds:
            parts = StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y)
            yield [Split(data, seed, X.iloc[rows], y[rows], X.iloc[test], y[test]) for rows, test in parts]

    models = {"none": resampled(lambda X, y, seed: (X, y)), "SMOTE": resampled(peers.smote)}
    ours = {OURS: resampled(lambda X, y, seed: skvae.VAEOversampler(random_state=seed).fit_resample(X, y))}
    results = Results()
    for data in bench.chosen(IMBALANCED):
        results.run(data, bench.with_ours(models, ours), folds(data))
    results.over_data()

    def above(other: str) -> Callable[[str], bool]:
        return lambda data: results.mean(data, OURS, "AP") > results.mean(data, other, "AP")

    if not bench.arguments.peers_only:
        for other in models:
            results.count(f"average precision above {other}'s", above(other))


SECTIONS: dict[str, tuple[Callable[[Bench], None], Iterable[str]]] = {
    "regression": (run_regression, REGRESSION),
    "missing": (run_missing, REGRESSION),
    "semi": (run_semi, ("digits", "fashion 100 labels", "fashion 1000 labels")),
    "classification": (run_classification, CLASSIFICATION),
    "generation": (run_generation, ("california", "adult")),
    "oversampling": (run_oversampling, IMBALANCED),
}


def main() -> None:
    names = list(dict.fromkeys(name for _, sets in SECTIONS.values() for name in sets))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--data", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--n-estimators", type=lambda n: n if n == "auto" else int(n), default="auto")
    parser.add_argument("--quality", default="default")
    parser.add_argument("--images", type=int, default=20_000, help="training images of Fashion-MNIST")
    parser.add_argument("--images-only", action="store_true", help="of few labels, only pixels given as images")
    parser.add_argument("--peers-only", action="store_true", help="leave out our estimators")
    bench = Bench(parser.parse_args())
    warnings.simplefilter("ignore", ConvergenceWarning)
    for section in bench.arguments.sections:
        run, sets = SECTIONS[section]
        if bench.chosen(sets):
            print(f"\n== {section}\n")
            run(bench)


if __name__ == "__main__":
    main()
