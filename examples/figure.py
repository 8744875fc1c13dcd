"""The figure of the README: digits reduced to a map, generated, and reconstructed.

python examples/figure.py docs/figure.png
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvae import VAE

COLUMNS = 8


def row_of(images):
    """Images [n, 64] side by side, with white gaps."""
    return np.hstack(list(np.pad(images.reshape(-1, 8, 8), [(0, 0), (0, 0), (1, 1)])))


def grid(images):
    rows = [np.pad(row_of(row), [(1, 1), (0, 0)]) for row in np.split(images, len(images) // COLUMNS)]
    return np.vstack(rows)


def grid_of_pairs(originals, reconstructions):
    """Rows of originals, each image with its reconstruction right under it."""
    n_rows = len(originals) // COLUMNS
    pairs = zip(np.split(originals, n_rows), np.split(reconstructions, n_rows), strict=True)
    return np.vstack([np.vstack([pad_above(row_of(a), 3), pad_above(row_of(b), 1)]) for a, b in pairs])


def pad_above(image, gap):
    return np.pad(image, [(gap, 0), (0, 0)])


def draw_map(axes, latents, labels):
    for digit in range(10):
        axes.scatter(*latents[labels == digit].T, s=22, alpha=0.85, linewidths=0, color=f"C{digit}", label=digit)
    axes.set(xlabel="z₀", ylabel="z₁")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handletextpad=0.1, borderaxespad=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def draw_images(axes, images):
    axes.imshow(images, cmap="gray_r", vmin=0, vmax=16, interpolation="nearest")
    axes.set_axis_off()
    axes.set_anchor("N")


def entitle(axes, method, what):
    axes.set_title(method, loc="left", family="monospace", fontsize=13, fontweight="bold", pad=22)
    axes.annotate(what, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=10.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="where to draw the figure")
    output = parser.parse_args().output
    X, labels = load_digits(return_X_y=True)
    X, X_test, _, labels_test = train_test_split(X, labels, test_size=0.2, random_state=0)
    flat = VAE(latent_dim=2, random_state=0).fit(X)
    # No pixel is missing and all share one unit, so nothing is masked and one σ is enough.
    deep = VAE(latent_dim=10, masking=0.0, likelihood="gaussian", early_stopping=False, random_state=0).fit(X)
    generated = deep.sample(8 * COLUMNS, decode="mean", random_state=0)
    originals = X_test[: 4 * COLUMNS]

    figure = Figure(figsize=(14, 4.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.35, 1, 1])
    figure.get_layout_engine().set(wspace=0.06)
    draw_map(left, flat.transform(X_test), labels_test)
    entitle(left, "transform", "360 held-out digits in two latents; labels only colour them")
    draw_images(middle, grid(generated))
    entitle(middle, "sample", "new digits, from latents drawn from the prior")
    draw_images(right, grid_of_pairs(originals, deep.reconstruct(originals)))
    entitle(right, "reconstruct", "held-out digits; under each, from ten latents")
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()
