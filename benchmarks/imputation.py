"""Holes filled by VAEImputer and by scikit-learn's imputers; mean ± sd over the seeds.

Of every table 30 % of the entries, chosen completely at random, are hidden; each imputer is fitted to what is left
and fills them. RMSE / sd of the column, averaged over numeric columns, and the share of hidden levels found. The
peers get standardised numbers, and an indicator of each level but the first, of which the largest counts.

    python benchmarks/imputation.py [--data wine …] [--seeds 3] [--quality fast] [--peers-only]
"""

import time
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import skvae
from comparison import OURS, Measures, Model, Results, Split, asked
from data import REGRESSION, adult

SHARE = 0.3


def wine() -> pd.DataFrame:
    return load_wine(as_frame=True).frame.astype({"target": "category"})


def adult_rows() -> pd.DataFrame:
    """3,000 rows, all text as categories; levels of fewer than 30 rows are left out."""
    frame = adult().sample(3_000, random_state=0).reset_index(drop=True)
    for name in frame.select_dtypes(exclude="number"):
        counts = frame[name].value_counts()
        frame[name] = frame[name].where(frame[name].map(counts) >= 30).astype("category")
    return frame


DATA = {
    "breast cancer": lambda: load_breast_cancer(as_frame=True).data,
    "diabetes": lambda: load_diabetes(as_frame=True, scaled=False).frame.astype({"sex": "category"}),
    "wine": wine,
    "concrete": lambda: REGRESSION["concrete"]().astype(np.float64),
    "adult": adult_rows,
}


def splits(data: str, seeds: range) -> Iterator[list[Split]]:
    """The table with its holes as `X`, and as it was as `X_test`."""
    whole = DATA[data]()
    for seed in seeds:
        hidden = np.random.default_rng(seed).random(whole.shape) < SHARE
        yield [Split(data, seed, whole.mask(hidden), None, whole, None)]


def measures(split: Split, filled: pd.DataFrame, seconds: float) -> Measures:
    """Of the entries that were hidden."""
    errors, found = [], []
    for name, whole in split.X_test.items():
        asked = (split.X[name].isna() & whole.notna()).to_numpy()
        if isinstance(whole.dtype, pd.CategoricalDtype):
            found.append((filled[name][asked].astype(str) == whole[asked].astype(str)).to_numpy())
        elif asked.any():
            error = filled[name][asked].to_numpy(float) - whole[asked].to_numpy(float)
            errors.append(np.sqrt(np.mean(error**2)) / whole.std())
    accuracy = {"accuracy": np.mean(np.concatenate(found))} if found else {}
    return {"RMSE/sd": float(np.mean(errors)), **accuracy, "s": seconds}


def peer(imputer) -> Model:
    def model(split: Split) -> Measures:
        start = time.perf_counter()
        X = split.X
        numbers = X.select_dtypes("number")
        mean, sd = numbers.mean(), numbers.std().replace(0, 1)
        blocks = {name: pd.get_dummies(X[name], dtype=float) for name in X.columns.difference(numbers.columns)}
        for name, block in blocks.items():
            block[X[name].isna()] = np.nan
        wide = np.column_stack([(numbers - mean) / sd, *(block.iloc[:, 1:] for block in blocks.values())])
        wide = imputer(split.seed).fit_transform(wide)
        filled = pd.DataFrame(wide[:, : numbers.shape[1]], columns=numbers.columns) * sd + mean
        first = numbers.shape[1]
        for name, block in blocks.items():
            shares = wide[:, first : first + block.shape[1] - 1]
            shares = np.column_stack([1 - shares.sum(1), shares])
            filled[name] = block.columns.to_numpy()[shares.argmax(1)]
            first += block.shape[1] - 1
        return measures(split, filled.set_index(X.index), time.perf_counter() - start)

    return model


def ours(quality: str) -> Model:
    def model(split: Split) -> Measures:
        start = time.perf_counter()
        filled = skvae.VAEImputer(quality=quality, random_state=split.seed).fit_transform(split.X)
        return measures(split, filled, time.perf_counter() - start)

    return model


def main() -> None:
    arguments = asked(__doc__, DATA)
    warnings.simplefilter("ignore", ConvergenceWarning)
    models = {
        "SimpleImputer": peer(lambda seed: SimpleImputer()),
        "KNNImputer": peer(lambda seed: KNNImputer()),
        "IterativeImputer": peer(lambda seed: IterativeImputer(random_state=seed)),
    }
    if not arguments.peers_only:
        models[OURS] = ours(arguments.quality)
    results = Results()
    for data in arguments.data:
        results.run(data, models, splits(data, range(arguments.first, arguments.first + arguments.seeds)))
    if arguments.peers_only:
        return
    results.count(
        "RMSE below every peer's",
        lambda data: results.mean(data, OURS, "RMSE/sd") < results.best(data, "RMSE/sd"),
    )


if __name__ == "__main__":
    main()
