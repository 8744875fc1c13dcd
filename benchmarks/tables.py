"""Generated tables: how close to the real ones, how useful, how private; and rows under conditions.

Two thirds of the rows train, one third tests; as many rows are generated as tests. Printed are, by
`skvae.evaluation.quality_report`, the mean error of column shapes and of pair trends against the training rows
(with the test rows' own), the score on test rows of boosted trees trained on generated and on real rows (AUC or R²),
the AUC of boosted trees that tell generated rows from test rows, the share of generated rows closer to a training row
than to a test row, and the share of rare levels that appear at 0.5 to 2 times their rate.

For conditions on Adult (on one, two or three columns, drawn at random, such as 400 rows or more meet), the mean total
variation over the other columns (20 bins for numbers) between generated rows and one half of the matching real ones,
as many as the other half, against that between the two halves.

At the end every figure with its bar, where it has one; with --peers, ctgan's TVAE is fitted to the same rows, and
ours should be better on every line.

    python benchmarks/tables.py [--seeds 3] [--first 0] [--data adult california ccpp] [--quality default]
        [--sections report conditions] [--conditions 20] [--peers]
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from comparison import mean_and_sd
from data import adult, answer_of_peer, regression
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


SECONDS, SHAPE, TREND = "seconds to fit and sample", "shape error %", "trend error %"
SCORE, TWO_SAMPLE, CLOSEST = "score, trained on new", "two-sample AUC", "closest share"
RATIO, SECONDS_GIVEN = "ratio of the two", "seconds for 1,000 rows, at most"
OF_TEST_ROWS = {SHAPE: "shape error %, test rows", TREND: "trend error %, test rows"}
# By quality, bars on Adult; at "high" the two errors are compared with 1.1 times the test rows' own.
BARS = {
    "default": {SECONDS: 120, SHAPE: 1.0, TREND: 2.2, SCORE: 0.905, TWO_SAMPLE: 0.68},
    "high": {SECONDS: 1200, SCORE: 0.915, TWO_SAMPLE: 0.60},
}
BARS_OF_ALL = {CLOSEST: 0.52, RATIO: 1.3, SECONDS_GIVEN: 2.0}
MORE_IS_BETTER = {SCORE, "rare levels at 0.5 to 2"}


def report(
    name: str, new: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, seed: int, seconds: float
) -> dict[str, float]:
    from skvae.evaluation import quality_report

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = quality_report(train, new, test, target=TABLES[name][1], random_state=seed)
    return {
        SECONDS: seconds,
        SHAPE: 100 * found.shape_error,
        OF_TEST_ROWS[SHAPE]: 100 * found.holdout_shape_error,
        TREND: 100 * found.trend_error,
        OF_TEST_ROWS[TREND]: 100 * found.holdout_trend_error,
        SCORE: found.synthetic_score,
        "score, trained on real": found.real_score,
        TWO_SAMPLE: found.two_sample_auc,
        CLOSEST: found.closest_share,
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
        RATIO: float(np.mean(ours) / np.mean(theirs)),
        SECONDS_GIVEN: max(seconds),
    }


def tvae(train: pd.DataFrame, n_rows: int, seed: int) -> tuple[pd.DataFrame, float]:
    """Rows of ctgan's TVAE, and the seconds that fitting and sampling took."""
    with tempfile.TemporaryDirectory() as folder:
        rows, made = Path(folder) / "train.parquet", Path(folder) / "new.parquet"
        train.to_parquet(rows, index=False)
        discrete = [column for column in train if not pd.api.types.is_numeric_dtype(train[column])]
        task = {"train": str(rows), "out": str(made), "discrete": discrete, "rows": n_rows, "seed": seed}
        seconds = answer_of_peer("ctgan", "ctgan_fit.py", task)["seconds"]
        return pd.read_parquet(made), seconds


def bar_of(name: str, what: str, quality: str, means: dict[str, float]) -> float | None:
    if what in BARS_OF_ALL:
        return BARS_OF_ALL[what]
    if name != "adult":
        return None
    if quality == "high" and what in OF_TEST_ROWS:
        return 1.1 * means[OF_TEST_ROWS[what]]
    return BARS.get(quality, {}).get(what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--data", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--quality", default="default", choices=["fast", "default", "high"])
    parser.add_argument("--sections", nargs="*", default=["report", "conditions"], choices=["report", "conditions"])
    parser.add_argument("--conditions", type=int, default=20)
    parser.add_argument("--peers", action="store_true", help="fit ctgan's TVAE too")
    arguments = parser.parse_args()
    results: dict[tuple[str, str], dict[str, list[float]]] = {}

    def tell(seed: int, name: str, model: str, found: dict[str, float]) -> None:
        for what, value in found.items():
            results.setdefault((name, model), {}).setdefault(what, []).append(value)
            print(f"seed {seed}  {name:12} {model:8} {what:34} {value:9.4f}", flush=True)

    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for name in arguments.data:
            frame = TABLES[name][0]()
            train, test = train_test_split(frame, test_size=1 / 3, random_state=seed)
            start, start_cpu = time.perf_counter(), time.process_time()
            vae = VAE(quality=arguments.quality, handle_unknown="missing", random_state=seed).fit(train)
            new = vae.sample(len(test), random_state=seed)
            seconds = time.perf_counter() - start
            tell(seed, name, "skvae", {"seconds of processors": time.process_time() - start_cpu})
            print(f"seed {seed}  {name}  {vae.history_}  {vae.prior_}", flush=True)
            if "report" in arguments.sections:
                tell(seed, name, "skvae", report(name, new, train, test, seed, seconds))
            if "conditions" in arguments.sections and name == "adult":
                tell(seed, name, "skvae", conditioned(vae, train, arguments.conditions, seed))
            if arguments.peers:
                new, seconds = tvae(train, len(test), seed)
                tell(seed, name, "TVAE", report(name, new, train, test, seed, seconds))
    for (name, model), found in results.items():
        means = {what: float(np.mean(values)) for what, values in found.items()}
        for what, values in found.items():
            line = f"{name:12} {model:8} {what:34} {mean_and_sd(values, 4):>18}"
            bar = bar_of(name, what, arguments.quality, means) if model == "skvae" else None
            if bar is not None:
                met = means[what] >= bar if what in MORE_IS_BETTER else means[what] <= bar
                line += f"  bar {bar:.4g}: {'met' if met else 'missed'}"
            print(line)


if __name__ == "__main__":
    main()
