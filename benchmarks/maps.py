"""Two-dimensional maps and wider latents: how well do they keep neighbours and classes? Mean ± sd over the seeds.

1-NN and 5-NN are accuracies for test rows that no training has seen, classified by the latents of training rows;
trustworthiness and continuity (15 neighbours) are of the map of test rows, at most 2,000. t-SNE cannot map new rows:
it is given training and test rows together. No label touches training.

    python benchmarks/maps.py [--seeds 5] [--first 0] [--data digits fashion] [--only UMAP …] [--rows 60000]
"""

import argparse
import math
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.model_selection import train_test_split

from comparison import shown
from data import fashion_mnist
from skvae import ELBO, MLP, VAE, Neighbours, OrientedGradients
from skvae.evaluation import continuity, knn_accuracy

N_JUDGED = 2_000


def digits(n_rows):
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.3, random_state=0)
    return X, y, X_test, y_test


def fashion(n_rows):
    (X, y), (X_test, y_test) = fashion_mnist()
    return X[:n_rows] / 255.0, y[:n_rows], X_test / 255.0, y_test


DATA = {"digits": digits, "fashion": fashion}
# A map of Fashion-MNIST needs many steps; batches, epochs and the parameters of maps by outlines were chosen on the
# last 10,000 training images; a first test seed of another map by outlines had been seen before the last choice.
FEW_EPOCHS, MANY_EPOCHS = {"digits": 300, "fashion": 40}, {"digits": 300, "fashion": 100}

RESIDUAL = {"encoder": "residual", "decoder": "mlp"}


def vae(latent_dim, epochs, batch_size, **params):
    def maps(X, X_test, seed):
        side = math.isqrt(X.shape[1])
        model = VAE(
            latent_dim=latent_dim,
            image_shape=(side, side),
            likelihood="gaussian",
            max_epochs=epochs["digits" if side == 8 else "fashion"],
            batch_size=min(batch_size, len(X) // 8),
            latent_density=None,
            random_state=seed,
        ).set_params(**params)
        model.fit(X)
        return model.transform(X), model.transform(X_test)

    return maps


def umap(X, X_test, seed):
    from umap import UMAP

    model = UMAP(random_state=seed, n_jobs=1).fit(X)
    return model.embedding_, model.transform(X_test)


def pca(X, X_test, seed):
    model = PCA(2).fit(X)
    return model.transform(X), model.transform(X_test)


def tsne(X, X_test, seed):
    both = TSNE(random_state=seed).fit_transform(np.concatenate([X, X_test]))
    return both[: len(X)], both[len(X) :]


MAPS = {
    "VAE + Neighbours, 2-D": vae(2, MANY_EPOCHS, 256, objective=ELBO() + Neighbours(), **RESIDUAL),
    "VAE + Neighbours, 2-D, outlines": vae(
        2,
        MANY_EPOCHS,
        256,
        objective=ELBO() + Neighbours(hog=0.22, early_exaggeration=8),
        encoder="hog",
        decoder="mlp",
    ),
    "VAE, 2-D": vae(2, FEW_EPOCHS, 512, **RESIDUAL),
    "VAE + Neighbours, 64-D": vae(
        64, FEW_EPOCHS, 512, objective=ELBO() + Neighbours(weight=0.03, scale=1.0), hidden_sizes=(512, 512)
    ),
    "VAE + Neighbours, 64-D, outlines": vae(
        64,
        FEW_EPOCHS,
        512,
        objective=ELBO() + Neighbours(weight=0.05, scale=1.0, hog=1.0),
        encoder=OrientedGradients(MLP((512, 512))),
        decoder=MLP((512, 512)),
    ),
    "UMAP": umap,
    "PCA": pca,
    "t-SNE": tsne,
}


def measures(X, y, X_test, y_test, Z, Z_test):
    found = {}
    for k in (1, 5):
        found[f"{k}-NN"] = knn_accuracy(Z, y, Z_test, y_test, n_neighbors=k)
    X_some, Z_some = X_test[:N_JUDGED], Z_test[:N_JUDGED]
    found["trustworthiness"] = trustworthiness(X_some, Z_some, n_neighbors=15)
    found["continuity"] = continuity(X_some, Z_some, n_neighbors=15)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--data", nargs="*", default=["digits", "fashion"], choices=list(DATA))
    parser.add_argument("--only", nargs="*", default=list(MAPS), choices=list(MAPS))
    arguments = parser.parse_args()
    for data in arguments.data:
        X, y, X_test, y_test = DATA[data](arguments.rows)
        for name in arguments.only:
            results = []
            for seed in range(arguments.first, arguments.first + arguments.seeds):
                start = time.perf_counter()
                Z, Z_test = MAPS[name](X, X_test, seed)
                seconds = time.perf_counter() - start
                results.append(measures(X, y, X_test, y_test, Z, Z_test) | {"seconds": seconds})
                print(f"  {data} {name} seed {seed}: {shown(results[-1:])}", flush=True)
            print(f"{data:8} {name:32} {shown(results)}", flush=True)


if __name__ == "__main__":
    main()
