"""Generated tables: how close to the real ones, how useful, how private; and rows under conditions.

Two thirds of the rows train, one third tests; as many rows are generated as tests. Printed are, by
`skvae.evaluation.quality_report`, the mean error of column shapes and of pair trends against the training rows
(with the test rows' own), the score on test rows of boosted trees trained on generated and on real rows (AUC or R²),
the AUC of boosted trees that tell generated rows from test rows, the share of generated rows closer to a training row
than to a test row, and the share of rare levels that appear at 0.5 to 2 times their rate.

For conditions on Adult (on one, two or three columns, drawn at random, such as 400 rows or more meet), the mean total
variation over the other columns (20 bins for numbers) between generated rows and one half of the matching real ones,
as many as the other half, against that between the two halves.

    python benchmarks/tables.py [--seeds 3] [--first 0] [--data adult california ccpp] [--quality default]
        [--sections report conditions] [--conditions 20]
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from data import adult, regression
from skvae import VAE

MIN_MATCHING, N_BINS = 400, 20


def with_target(name: str) -> pd.DataFrame:
    X, y = regression(name)
    return X.assign(target=y)


# name: loader, target
TABLES = {
    "adult": (adult, "income"),
    "california": (lambda: with_target("california"), "target"),
    "ccpp": (lambda: with_target("ccpp"), "target"),
}


def report(name: str, vae: VAE, train: pd.DataFrame, test: pd.DataFrame, seed: int, start: float) -> dict[str, float]:
    from skvae.evaluation import quality_report

    new = vae.sample(len(test), random_state=seed)
    seconds = time.perf_counter() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = quality_report(train, new, test, target=TABLES[name][1], random_state=seed)
    return {
        "seconds to fit and sample": seconds,
        "shape error %": 100 * found.shape_error,
        "shape error %, test rows": 100 * found.holdout_shape_error,
        "trend error %": 100 * found.trend_error,
        "trend error %, test rows": 100 * found.holdout_trend_error,
        "score, trained on new": found.synthetic_score,
        "score, trained on real": found.real_score,
        "two-sample AUC": found.two_sample_auc,
        "closest share": found.closest_share,
        "rare levels at 0.5 to 2": np.nan if found.rare_within is None else found.rare_within,
    }


def random_conditions(frame: pd.DataFrame, rng: np.random.Generator) -> tuple[dict, pd.Series]:
    """Conditions on one to three columns that a random row meets, and which rows meet them."""
    while True:
        row = frame.iloc[rng.integers(len(frame))]
        conditions, matches = {}, pd.Series(True, index=frame.index)
        for column in rng.choice(frame.columns, rng.integers(1, 4), replace=False):
            value = row[column]
            if not pd.api.types.is_numeric_dtype(frame[column]):
                conditions[column] = value
                matches &= frame[column] == value
            else:
                width = frame[column].std()
                low, high = (int(value - width * rng.random()), int(value + width * rng.random()))
                conditions[column] = (low, high)
                matches &= frame[column].between(low, high)
        if matches.sum() >= MIN_MATCHING:
            return conditions, matches


def variation(one: pd.Series, other: pd.Series, whole: pd.Series) -> float:
    """Total variation between two samples of a column, of whose values `whole` has all."""
    if pd.api.types.is_numeric_dtype(whole):
        edges = np.linspace(whole.min(), whole.max(), N_BINS + 1)[1:-1]
        shares = [np.bincount(np.digitize(part, edges), minlength=N_BINS) / len(part) for part in (one, other)]
        return 0.5 * float(np.abs(shares[0] - shares[1]).sum())
    shares = [part.value_counts(normalize=True) for part in (one, other)]
    return 0.5 * float(shares[0].sub(shares[1], fill_value=0).abs().sum())


def conditioned(vae: VAE, frame: pd.DataFrame, n_conditions: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    ours, theirs, seconds = [], [], []
    for k in range(n_conditions):
        conditions, matches = random_conditions(frame, rng)
        real = frame[matches].sample(frac=1, random_state=seed)
        half = len(real) // 2
        start = time.perf_counter()
        vae.sample(1_000, conditions=conditions, random_state=k)
        seconds.append(time.perf_counter() - start)
        new = vae.sample(half, conditions=conditions, random_state=k)
        one, two = real.iloc[:half], real.iloc[half : 2 * half]
        free = [column for column in frame if column not in conditions]
        ours.append(np.mean([variation(new[c], one[c], frame[c]) for c in free]))
        theirs.append(np.mean([variation(two[c], one[c], frame[c]) for c in free]))
        print(f"  {conditions}: {len(real)} rows, {ours[-1]:.4f} against {theirs[-1]:.4f}", flush=True)
    return {
        "total variation under conditions": float(np.mean(ours)),
        "the same between halves": float(np.mean(theirs)),
        "ratio of the two": float(np.mean(ours) / np.mean(theirs)),
        "seconds for 1,000 rows, at most": max(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--data", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--quality", default="default", choices=["fast", "default", "high"])
    parser.add_argument("--sections", nargs="*", default=["report", "conditions"], choices=["report", "conditions"])
    parser.add_argument("--conditions", type=int, default=20)
    arguments = parser.parse_args()
    results: dict[tuple[str, str], list[float]] = {}
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for name in arguments.data:
            frame = TABLES[name][0]()
            train, test = train_test_split(frame, test_size=1 / 3, random_state=seed)
            start = time.perf_counter()
            vae = VAE(quality=arguments.quality, handle_unknown="missing", random_state=seed).fit(train)
            print(f"seed {seed}  {name}  {vae.history_}  {vae.prior_}", flush=True)
            found = {}
            if "report" in arguments.sections:
                found |= report(name, vae, train, test, seed, start)
            if "conditions" in arguments.sections and name == "adult":
                found |= conditioned(vae, train, arguments.conditions, seed)
            for what, value in found.items():
                results.setdefault((name, what), []).append(value)
                print(f"seed {seed}  {name:12} {what:34} {value:9.4f}", flush=True)
    for (name, what), values in results.items():
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        print(f"{name:12} {what:34} {np.mean(values):9.4f} ± {spread:.4f}")


if __name__ == "__main__":
    main()
