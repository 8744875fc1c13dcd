"""Every question that the estimators answer so far, on data that ship with scikit-learn, with numbers.

All numbers are computed when the demo runs, on rows held out from training, and next to those of a familiar
method; it loses where it loses.

    python examples/demo.py
"""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, IsolationForest, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.semi_supervised import LabelSpreading

import skvae
from skvae import VAE, VAEClassifier, VAEOutlierDetector, VAERegressor
from skvae.evaluation import quality_report

console = Console(width=110)


def show(title, header, rows, note=""):
    table = Table(*header)
    for row in rows:
        cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
        table.add_row(*map(escape, cells))
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    console.print(table)
    if note:
        console.print(note, style="dim", highlight=False)


def halves(X, *more):
    """80 % to train on, 20 % held out."""
    return train_test_split(X, *more, test_size=0.2, random_state=0)


def digits():
    """Reduce and reconstruct the handwritten digits, next to principal components of the same number."""
    X, X_test, y, y_test = halves(*load_digits(return_X_y=True))
    reduced, restored = [], []
    for latent_dim in (2, 10):
        vae = VAE(latent_dim=latent_dim, quality="fast", random_state=0).fit(X)
        pca = PCA(latent_dim).fit(X)
        accuracy = [
            KNeighborsClassifier().fit(model.transform(X), y).score(model.transform(X_test), y_test)
            for model in (vae, pca)
        ]
        error = [
            np.sqrt(np.mean((restore - X_test) ** 2))
            for restore in (vae.reconstruct(X_test), pca.inverse_transform(pca.transform(X_test)))
        ]
        reduced.append((latent_dim, *accuracy))
        restored.append((latent_dim, *error))
    all_pixels = KNeighborsClassifier().fit(X, y).score(X_test, y_test)
    show(
        "Reduce: 64 pixels of 360 held-out digits, accuracy of 5 nearest neighbours",
        ("dimensions", "VAE.transform", "PCA"),
        reduced,
        f"all 64 pixels: {all_pixels:.3f}",
    )
    show(
        "Reconstruct: the same digits, root mean squared error (pixels are 0 to 16)",
        ("dimensions", "VAE.reconstruct", "PCA"),
        restored,
    )


def tables():
    """A VAE with default parameters for each of three tables of numbers: training rows, held-out rows, model."""
    fitted = {}
    for name, data in (
        ("wine", load_wine()),
        ("diabetes", load_diabetes(scaled=False)),
        ("breast cancer", load_breast_cancer()),
    ):
        X, X_test = halves(data.data)
        fitted[name] = X, X_test, VAE(random_state=0).fit(X)
    return fitted


def generate(fitted):
    """Compare generated rows with held-out ones; training rows do the same, to show what chance does."""
    rows = []
    for name, (X, X_test, vae) in fitted.items():
        generated, more = vae.sample(len(X), random_state=0), vae.sample(len(X), random_state=1)
        rows.append((name, "generated", *differences(generated, X_test), told_apart(generated, X, more, X_test)))
        rows.append(("", "training", *differences(X, X_test), ""))
    show(
        "Generate: as many rows as there are for training, against held-out rows",
        ("table", "rows", "means apart, in sd", "ratio of sds", "correlations apart", "told apart, AUC"),
        rows,
        "medians over columns; AUC of a random forest that tells generated rows from real ones: 0.5 if it cannot",
    )


def differences(rows, reference):
    sd = reference.std(axis=0)
    means = np.abs(rows.mean(axis=0) - reference.mean(axis=0)) / sd
    correlations = np.abs(np.corrcoef(rows.T) - np.corrcoef(reference.T))[np.triu_indices(len(sd), 1)]
    return tuple(float(np.median(values)) for values in (means, rows.std(axis=0) / sd, correlations))


def told_apart(generated, real, more_generated, more_real):
    """AUC, on rows it has not seen, of a forest that learned to tell generated rows from real ones."""
    forest = RandomForestClassifier(200, random_state=0)
    forest.fit(np.vstack([generated, real]), np.repeat([1, 0], [len(generated), len(real)]))
    chance = forest.predict_proba(np.vstack([more_generated, more_real]))[:, 1]
    return float(roc_auc_score(np.repeat([1, 0], [len(more_generated), len(more_real)]), chance))


def impute(fitted, share=0.3):
    """Hide entries of held-out rows and fill them in; all methods have learned from complete rows."""
    rows = []
    for name, (X, X_test, vae) in fitted.items():
        sd = X.std(axis=0)
        hidden = np.random.default_rng(0).random(X_test.shape) < share
        holes = np.where(hidden, np.nan, X_test)
        errors = [rmse(vae.impute(holes), X_test, hidden, sd)]
        for imputer in (SimpleImputer(), KNNImputer(), IterativeImputer(random_state=0)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                filled = imputer.fit(X / sd).transform(holes / sd) * sd
            errors.append(rmse(filled, X_test, hidden, sd))
        lower, upper = np.quantile(vae.impute(holes, n_imputations=100), [0.05, 0.95], axis=0)
        covered = np.mean(((lower <= X_test) & (X_test <= upper))[hidden])
        rows.append((name, *errors, f"{covered:.1%}"))
    show(
        f"Impute: {share:.0%} of the entries of held-out rows hidden, root mean squared error in sd",
        ("table", "VAE.impute", "column mean", "KNNImputer", "IterativeImputer", "in VAE's 90 % interval"),
        rows,
        "the interval is from 100 imputations (n_imputations=100)",
    )


def rmse(filled, truth, hidden, sd):
    return float(np.sqrt(np.mean((((filled - truth) / sd)[hidden]) ** 2)))


def regression():
    """Predict the progression of diabetes with its uncertainty, and draw rows for wanted ones."""
    X, X_test, y, y_test = halves(*load_diabetes(return_X_y=True, scaled=False))
    model = VAERegressor(quality="fast", random_state=0).fit(X, y)
    low, high = model.predict_interval(X_test, coverage=0.9).T
    rows = [
        ("VAERegressor", model.score(X_test, y_test), f"{np.mean((low <= y_test) & (y_test <= high)):.1%}"),
        ("Ridge", Ridge().fit(X, y).score(X_test, y_test), ""),
        ("gradient boosting", HistGradientBoostingRegressor(random_state=0).fit(X, y).score(X_test, y_test), ""),
    ]
    show(
        "Predict: progression of diabetes of held-out patients",
        ("model", "R²", "in the 90 % interval"),
        rows,
        f"structure='{model.structure_}' was chosen by validation",
    )
    drawn = [
        (wanted, *model.sample(500, y=wanted, random_state=0)[0].mean(axis=0)[[2, 8]]) for wanted in (75, 150, 300)
    ]
    show(
        "Generate for a target: means of 500 patients drawn for each", ("progression", "body mass index", "s5"), drawn
    )


def classification(n_labels=5):
    """Recognise digits of which five each have a label, next to methods that use the others too or do not."""
    X, X_test, y, y_test = halves(*load_digits(return_X_y=True))
    few = np.concatenate([np.flatnonzero(y == digit)[:n_labels] for digit in range(10)])
    labels = np.full(len(y), -1)
    labels[few] = y[few]
    models = {
        "VAEClassifier(structure='m2')": VAEClassifier(structure="m2", max_epochs=20, random_state=0).fit(X, labels),
        "LabelSpreading": LabelSpreading(kernel="knn").fit(X, labels),
        "LogisticRegression on the labelled": LogisticRegression(max_iter=1000).fit(X[few] / 16, y[few]),
    }
    scale = {"LogisticRegression on the labelled": 16}
    rows = [(name, 1 - model.score(X_test / scale.get(name, 1), y_test)) for name, model in models.items()]
    show(
        f"Learn from {n_labels} labels per class and 1,387 digits without",
        ("model", "error on held-out digits"),
        rows,
    )


def diagnose(fitted):
    _, X_test, vae = fitted["breast cancer"]
    console.print("\n[bold]Diagnose: the model of the breast cancer table, on held-out rows[/bold]")
    console.print(str(vae.diagnose(X_test)), highlight=False)


def wine_frame():
    """The wines as a mixed pandas frame with holes; the bottling dates are made up."""
    data = load_wine(as_frame=True)
    wine = data.data
    rng = np.random.default_rng(0)
    shade = np.where(wine["hue"] > 1, "ruby", np.where(wine["hue"] > 0.75, "garnet", "tawny"))
    days = np.rint(0.5 * wine["proline"] + rng.normal(0, 60, len(wine))).astype(int)
    frame = pd.DataFrame(
        {
            "cultivar": pd.Categorical.from_codes(data.target, ["A", "B", "C"]),
            "alcohol": pd.cut(wine["alcohol"], [0, 12.5, 13.3, 99], labels=["light", "medium", "strong"]),
            "shade": shade,
            "bottled": pd.Timestamp("1990-01-01") + pd.to_timedelta(days, unit="D"),
            "intense": wine["color_intensity"] > 5,
            "magnesium": wine["magnesium"].astype(int),
            "malic_acid": wine["malic_acid"],
            "flavanoids": wine["flavanoids"],
            "total_phenols": wine["total_phenols"],
            "ash": wine["ash"],
        }
    )
    for name in ("shade", "bottled", "malic_acid", "flavanoids", "alcohol"):
        frame.loc[rng.random(len(frame)) < 0.1, name] = None
    return frame


def mixed_table():
    """Strings, dates, truth values, categories and numbers with holes: generate, score, complete, save."""
    train, test = halves(wine_frame())
    vae = VAE(random_state=0).fit(train)
    sample = vae.sample(1000, random_state=0)
    rows = [
        (c.name, c.dtype, str(c.kind), f"{c.missing:.0%}", summary(train[c.name]), summary(sample[c.name]))
        for c in vae.schema_.columns
    ]
    same = sample.dtypes.equals(train.dtypes)
    show(
        "Mixed table: wines in pandas, fitted as they are and sampled back",
        ("column", "dtype", "kind", "missing", "data", "1,000 samples"),
        rows,
        f"dtypes of samples equal those of the data: {same}",
    )
    show(
        "Score: mean log p(x) of the held-out wines, holes and all",
        ("model", "nats per row"),
        [
            ("VAE.score", vae.score(test)),
            ("VAE.elbo, its lower bound", float(vae.elbo(test).mean())),
            ("independent columns (normal or frequencies)", independent_score(train, test)),
        ],
        "dates are scored per µs, the unit they are kept in, for both",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wine"
        vae.save(path)
        size = sum(file.stat().st_size for file in path.iterdir())
        again = skvae.load(path)
    conditions(vae, train)
    console.print(
        f"\n[bold]How good are the rows? As many as are held out[/bold]\n{quality_of(vae, train, test)}",
        highlight=False,
    )
    rows = [
        ("transform", np.array_equal(again.transform(test), vae.transform(test))),
        ("score_samples", np.array_equal(again.score_samples(test), vae.score_samples(test))),
        ("impute", again.impute(test).equals(vae.impute(test))),
        ("sample", again.sample(1000, random_state=0).equals(sample)),
    ]
    show(f"Save and load: a folder of {size / 1024:.0f} KiB", ("answer", "identical"), rows)


def quality_of(vae, train, test):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of levels too rare to be compared
        return quality_report(train, vae.sample(len(train), random_state=2), test, target="cultivar")


def conditions(vae, frame):
    """Rows for given values, ranges and sets, next to the real rows that meet them."""
    wanted = {"cultivar": {"A", "B"}, "alcohol": "medium", "magnesium": (80, 110)}
    drawn, report = vae.sample(500, conditions=wanted, return_report=True, random_state=0)
    real = frame[
        frame["cultivar"].isin(["A", "B"]) & (frame["alcohol"] == "medium") & frame["magnesium"].between(80, 110)
    ]
    rows = [
        (name, summary(real[name]), summary(drawn[name])) for name in ("cultivar", "magnesium", "flavanoids", "shade")
    ]
    show(
        "Generate under conditions: cultivar A or B, medium alcohol, magnesium from 80 to 110",
        ("column", f"the {len(real)} real rows that meet them", "500 samples"),
        rows,
        f"effective sample size {report.effective_size:.0f} of {report.n_proposed}; all samples meet the conditions",
    )


def outliers():
    """Learn what benign tumours are like; held-out malignant ones should look odd, without having been seen."""
    X, X_test, y, y_test = halves(*load_breast_cancer(return_X_y=True))
    benign = X[y == 1]
    detector = VAEOutlierDetector(quality="fast", random_state=0).fit(benign)
    others = IsolationForest(random_state=0).fit(benign), LocalOutlierFactor(novelty=True).fit(benign)
    rows = [
        (type(model).__name__, roc_auc_score(y_test, model.score_samples(X_test))) for model in (detector, *others)
    ]
    show(
        "Detect: tumours unlike the benign ones seen at fit, AUC on held-out rows", ("model", "malignant found"), rows
    )


def summary(column):
    """Mean and sd, or shares of the levels."""
    if pd.api.types.is_datetime64_dtype(column):
        return f"{column.mean():%Y-%m-%d} ± {column.std().days} days"
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return f"{column.mean():.2f} ± {column.std():.2f}"
    shares = column.value_counts(normalize=True).sort_index()
    return "  ".join(f"{level} {share:.0%}" for level, share in shares.items())


def independent_score(train, test):
    """Mean log p(x) of the rows of `test` if columns are independent: normal numbers, frequencies of levels."""
    total = 0.0
    for name in train:
        seen, asked = train[name].dropna(), test[name].dropna()
        if pd.api.types.is_datetime64_dtype(seen):
            seen, asked = (column.astype("datetime64[us]").astype("int64") for column in (seen, asked))
            total += stats.norm(seen.mean(), seen.std()).logpdf(asked).sum()
        elif pd.api.types.is_float_dtype(seen):
            total += stats.norm(seen.mean(), seen.std()).logpdf(asked).sum()
        elif pd.api.types.is_integer_dtype(seen):
            normal = stats.norm(seen.mean(), seen.std())
            total += np.log(normal.cdf(asked + 0.5) - normal.cdf(asked - 0.5)).sum()
        else:
            total += np.log(asked.map(seen.value_counts(normalize=True)).astype(float)).sum()
    return total / len(test)


def main():
    start = time.perf_counter()
    digits()
    fitted = tables()
    generate(fitted)
    impute(fitted)
    regression()
    classification()
    outliers()
    diagnose(fitted)
    mixed_table()
    console.print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
