"""The peers of the supervised estimators, all of scikit-learn and imbalanced-learn, and the scores they share."""

import time

import numpy as np
from imblearn.over_sampling import SMOTE
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

HGB = "HGB"


def timed_fit(model, X, y):
    start = time.perf_counter()
    model.fit(X, y)
    return model, time.perf_counter() - start


# regression


def regressors(seed: int, n_rows: int) -> dict:
    mlp = MLPRegressor(early_stopping=True, max_iter=1000, random_state=seed)
    return {
        "ridge": make_pipeline(StandardScaler(), Ridge()),
        "MLP": TransformedTargetRegressor(make_pipeline(StandardScaler(), mlp), transformer=StandardScaler()),
        HGB: HistGradientBoostingRegressor(random_state=seed),
        **({"GP": None} if n_rows <= 2000 else {}),
    }


def gaussian_process(n_features: int, seed: int):
    kernel = ConstantKernel() * RBF(np.ones(n_features)) + WhiteKernel()
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed))


def gaussian_prediction(name: str, X, y, X_test, seed: int):
    """Means, standard deviations and seconds to fit; the spread is the error on a held-out fifth of the rows.

    The Gaussian process has a spread of its own. The model that predicts is fitted on all rows.
    """
    if name == "GP":
        model, seconds = timed_fit(gaussian_process(X.shape[1], seed), X, y)
        return *model.predict(X_test, return_std=True), seconds
    model = regressors(seed, len(X))[name]
    kept, held_out, y_kept, y_held_out = train_test_split(X, y, test_size=0.2, random_state=seed)
    sd = rmse(y_held_out, clone(model).fit(kept, y_kept).predict(held_out))
    model, seconds = timed_fit(model, X, y)
    return model.predict(X_test), np.full(len(X_test), sd), seconds


def rmse(y, prediction) -> float:
    return float(np.sqrt(np.mean((y - prediction) ** 2)))


def gaussian_crps(y, mean, sd):
    z = (y - mean) / sd
    return sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))


# missing values


def masked(X, fraction: float, rng: np.random.Generator):
    return X.mask(rng.random(X.shape) < fraction)


def predict_imputed(X, y, X_test, seed: int):
    """Gradient boosting after an iterative imputer, which without a tolerance keeps to its ten rounds."""
    model = make_pipeline(
        IterativeImputer(tol=0, random_state=seed), HistGradientBoostingRegressor(random_state=seed)
    )
    return model.fit(X, y).predict(X_test)


def predict_natively(X, y, X_test, seed: int, fraction: float, n_copies: int = 3):
    """Gradient boosting with its own handling of missing values, trained on masked copies of every row."""
    copies = X.loc[X.index.repeat(n_copies)]
    model = HistGradientBoostingRegressor(random_state=seed)
    copies = masked(copies, fraction, np.random.default_rng([seed, 1]))
    return model.fit(copies, np.repeat(y, n_copies)).predict(X_test)


# classification


def classifiers(seed: int) -> dict:
    def encoded(model):
        numbers = (StandardScaler(), make_column_selector(dtype_include="number"))
        levels = (
            OneHotEncoder(handle_unknown="ignore", sparse_output=False),
            make_column_selector(dtype_include="category"),
        )
        return make_pipeline(make_column_transformer(numbers, levels), model)

    return {
        "logistic": encoded(LogisticRegression(max_iter=1000)),
        "MLP": encoded(MLPClassifier(early_stopping=True, random_state=seed)),
        HGB: HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed),
    }


def calibration_error(y, p, n_bins: int = 15) -> float:
    """Expected calibration error of the probability of class 1, in bins of equal mass."""
    bins = np.array_split(np.argsort(p, kind="stable"), n_bins)
    return sum(len(rows) * abs(y[rows].mean() - p[rows].mean()) for rows in bins) / len(y)


def probability_scores(y, p) -> dict[str, float]:
    return {"AUC": roc_auc_score(y, p), "ECE": calibration_error(y, p), "log loss": log_loss(y, p)}


# few labels


def semi_supervised(n_rows: int) -> dict:
    """Models of rows scaled to [0, 1]; all but the last see the rows without a label, marked by -1."""
    return {
        **({"label spreading": LabelSpreading(kernel="knn", n_neighbors=7)} if n_rows <= 20_000 else {}),
        "self-training": SelfTrainingClassifier(LogisticRegression(max_iter=1000)),
        "labelled only": LogisticRegression(max_iter=1000),
    }


# imbalanced classes


def smote(X, y, seed: int):
    """SMOTE among standardised columns, in the columns' own units."""
    scaler = StandardScaler().set_output(transform="pandas").fit(X)
    scaled, y = SMOTE(random_state=seed).fit_resample(scaler.transform(X), y)
    return scaler.inverse_transform(scaled), y


def average_precision(X, y, X_test, y_test, seed: int) -> dict[str, float]:
    """Average precision (AP) of gradient boosting and of logistic regression, and their mean."""
    models = {
        HGB: HistGradientBoostingClassifier(random_state=seed),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    }
    X, X_test = np.asarray(X), np.asarray(X_test)
    scores = {
        f"AP, {name}": float(average_precision_score(y_test, model.fit(X, y).predict_proba(X_test)[:, 1]))
        for name, model in models.items()
    }
    return {"AP": float(np.mean(list(scores.values())))} | scores
