"""A two-dimensional normal and the diabetes data: encode, generate, predict a target from the latents.

The autoencoder here is variational in full: the latents are drawn from q(z|x) in training, the KL term is
there, and what the decoder gives is a likelihood with a learned σ. So new rows come from p(z) and p(x|z), and
their means and covariances can be held against those of the data.

    python examples/normal_2d.py [--output figure.png]
"""

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from options import figure_option
from skvae import VAE

MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[2.0, 1.2], [1.2, 1.5]])


def r2(features, target, held_out_features, held_out_target):
    """R² on held-out rows of a ridge regression."""
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))
    return ridge.fit(features, target).score(held_out_features, held_out_target)


def r2_row(name, vae, X, X_test, y, y_test):
    from_latents = r2(vae.transform(X), y, vae.transform(X_test), y_test)
    return name, f"{from_latents:.3f}", f"{r2(X, y, X_test, y_test):.3f}"


def prediction_table(title, rows):
    table = Table("target", "R² from latents", "R² from x", title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def moments_table(title, real, generated, names):
    table = Table("column", "mean", "generated", "sd", "generated", title=title, title_justify="left")
    for name, a, b in zip(names, real.T, generated.T, strict=True):
        table.add_row(name, f"{a.mean():.2f}", f"{b.mean():.2f}", f"{a.std():.2f}", f"{b.std():.2f}")
    return table


def largest_correlation_error(real, generated):
    return np.abs(np.corrcoef(real.T) - np.corrcoef(generated.T)).max()


def normal(console):
    """1,000 points of a correlated normal, and two targets: one along the points' long axis, one across it."""
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal(MEAN, COVARIANCE, 1000)
    along = X[:, 0] + X[:, 1] + rng.normal(0, 0.5, 1000)
    across = X[:, 0] - X[:, 1] + rng.normal(0, 0.5, 1000)
    X, X_test, along, along_test, across, across_test = train_test_split(
        X, along, across, test_size=0.2, random_state=0
    )
    vae = VAE(latent_dim=2, random_state=0).fit(X)
    generated = vae.sample(1000, random_state=0)
    rows = [
        r2_row("x₀ + x₁ + noise", vae, X, X_test, along, along_test),
        r2_row("x₀ − x₁ + noise", vae, X, X_test, across, across_test),
    ]
    console.print(moments_table("A correlated normal, 1,000 points", X, generated, ["x₀", "x₁"]))
    console.print(f"covariance: {np.cov(X.T)[0, 1]:.2f}, generated: {np.cov(generated.T)[0, 1]:.2f}")
    console.print(prediction_table("Regression, 200 held-out points", rows))
    # One latent and a σ for each column describe every covariance of two columns. So one is used, and most of
    # what lies across the long axis is left to σ.
    console.print(f"active latents: {vae.diagnose(X_test).active_units} of 2\n")
    return X, generated, vae.transform(X_test), along_test


def diabetes(console):
    """Ten columns of 442 patients; the target is the progression of the disease after a year."""
    data = load_diabetes(scaled=False)
    X, X_test, y, y_test = train_test_split(data.data, data.target, test_size=0.2, random_state=0)
    vae = VAE(random_state=0).fit(X)
    generated = vae.sample(1000, random_state=0)
    console.print(moments_table("Diabetes", X, generated, data.feature_names))
    console.print(f"largest error of a correlation: {largest_correlation_error(X, generated):.2f}")
    rows = [r2_row("disease progression", vae, X, X_test, y, y_test)]
    console.print(prediction_table(f"Regression, {len(X_test)} held-out patients", rows))
    console.print(f"latents: {vae.settings_['latent_dim']}, of {X.shape[1]} columns")
    return X, generated, data.feature_names


def draw(output, normal_results, diabetes_results):
    X, generated, latents, target = normal_results
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.scatter(*X.T, s=8, alpha=0.6, label="data")
    left.scatter(*generated.T, s=8, alpha=0.6, label="generated")
    left.set(title="A correlated normal", xlabel="x₀", ylabel="x₁")
    left.legend()
    points = middle.scatter(*latents.T, s=12, c=target, cmap="viridis")
    middle.set(title="Its latents (held-out points)", xlabel="z₀", ylabel="z₁", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
    figure.colorbar(points, label="x₀ + x₁ + noise")
    X, generated, names = diabetes_results
    bmi, pressure = names.index("bmi"), names.index("bp")
    right.scatter(X[:, bmi], X[:, pressure], s=8, alpha=0.6, label="data")
    right.scatter(generated[:, bmi], generated[:, pressure], s=8, alpha=0.4, label="generated")
    right.set(title="Diabetes", xlabel="body mass index", ylabel="blood pressure")
    right.legend()
    figure.savefig(output, dpi=120)


def main():
    output = figure_option(__doc__)
    console = Console()
    results = normal(console), diabetes(console)
    if output:
        draw(output, *results)


if __name__ == "__main__":
    main()
