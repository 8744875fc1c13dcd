"""Four blobs and the handwritten digits: reduce, cluster the latents, generate.

The autoencoder here is variational in full: the latents are drawn from q(z|x) in training, the KL term is
there, and what the decoder gives is a likelihood. That is why latents drawn from p(z) decode to rows like those
of the data. Clusters are found by k-means on the latents of the training rows and judged on rows held out;
labels are used for that judgement only.

    python examples/blobs.py [--output figure.png]
"""

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.model_selection import train_test_split

from options import figure_option
from skvae import VAE

CLUSTER_SD = 0.4


def clustering_row(name, features, held_out, labels, n_clusters):
    """Silhouette and adjusted Rand index of k-means, both on held-out rows."""
    found = KMeans(n_clusters, n_init=10, random_state=0).fit(features).predict(held_out)
    return name, f"{silhouette_score(held_out, found):.3f}", f"{adjusted_rand_score(labels, found):.3f}"


def clustering_table(title, rows):
    table = Table("k-means on", "silhouette", "ARI with labels", title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def share_near_a_centre(rows, centres):
    """Share of rows within 3 sd of the nearest centre."""
    distance = np.linalg.norm(rows[:, None] - centres, axis=2).min(axis=1)
    return (distance < 3 * CLUSTER_SD).mean()


def blobs(console):
    X, labels, centres = make_blobs(
        n_samples=1000, centers=4, cluster_std=CLUSTER_SD, random_state=0, return_centers=True
    )
    X, X_test, _, labels_test = train_test_split(X, labels, test_size=0.2, random_state=0)
    vae = VAE(latent_dim=2, random_state=0).fit(X)
    latents, latents_test = vae.transform(X), vae.transform(X_test)
    generated = vae.sample(1000, random_state=0)
    rows = [
        clustering_row("latents", latents, latents_test, labels_test, 4),
        clustering_row("x", X, X_test, labels_test, 4),
    ]
    console.print(clustering_table("Four blobs, 200 held-out points", rows))
    real, drawn = share_near_a_centre(X_test, centres), share_near_a_centre(generated, centres)
    console.print(f"within 3 sd of a centre: {real:.1%} of held-out points, {drawn:.1%} of generated ones")
    # A normal prior has no gaps, so what lies between two blobs in latent space decodes to points between them.
    console.print(f"active latents: {vae.diagnose(X_test).active_units} of 2\n")
    return X, generated, latents_test, labels_test


def digits(console):
    X, labels = load_digits(return_X_y=True)
    X, X_test, _, labels_test = train_test_split(X, labels, test_size=0.2, random_state=0)
    vae = VAE(latent_dim=10, quality="fast", random_state=0).fit(X)
    pca = PCA(10).fit(X)
    rows = [
        clustering_row("10 latents", vae.transform(X), vae.transform(X_test), labels_test, 10),
        clustering_row("10 principal components", pca.transform(X), pca.transform(X_test), labels_test, 10),
        clustering_row("64 pixels", X, X_test, labels_test, 10),
    ]
    console.print(clustering_table(f"Digits, {len(X_test)} held-out images", rows))
    generated = vae.sample(1000, random_state=0)
    console.print(f"mean ink: {X.mean():.2f}, generated: {generated.mean():.2f}")
    console.print(
        f"sd of pixels, mean over pixels: {X.std(axis=0).mean():.2f}, generated: {generated.std(axis=0).mean():.2f}"
    )
    return vae.sample(36, decode="mean", random_state=0)


def mosaic(images, n_columns):
    """Images [n, 64] side by side, with gaps between them."""
    padded = np.pad(images.reshape(-1, 8, 8), [(0, 0), (1, 1), (1, 1)])
    return np.block([list(row) for row in np.split(padded, len(padded) // n_columns)])


def draw(output, blob_results, digit_images):
    X, generated, latents, labels = blob_results
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.scatter(*X.T, s=8, alpha=0.6, label="data")
    left.scatter(*generated.T, s=8, alpha=0.6, label="generated")
    left.set(title="Four blobs", xlabel="x₀", ylabel="x₁")
    left.legend()
    middle.scatter(*latents.T, s=12, c=labels, cmap="tab10", vmax=9)
    middle.set(title="Their latents (held-out points)", xlabel="z₀", ylabel="z₁", xlim=(-3, 3), ylim=(-3, 3))
    right.imshow(mosaic(digit_images, 6), cmap="gray_r", vmin=0, vmax=16)
    right.set(title="Generated digits (means of p(x|z))")
    right.set_axis_off()
    figure.savefig(output, dpi=120)


def main():
    output = figure_option(__doc__)
    console = Console()
    results = blobs(console), digits(console)
    if output:
        draw(output, *results)


if __name__ == "__main__":
    main()
