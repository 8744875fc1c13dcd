"""Fashion-MNIST: samples, reconstructions and their sharpness, against pythae's VAE of the same network.

Every model is trained on the same images for the same epochs. What it samples is compared with test images by the
Fréchet distance between features of a small classifier trained here (never to be compared with distances on other
features), and by sharpness: the mean variance of the Laplacian, as a share of that of test images. Of each model the
decoder's means are taken. "other test images" says what a perfect sampler would get. The peer's environment is made
on first use in .bench/pythae.

    python benchmarks/images.py [--images 12800] [--epochs 15] [--seeds 1] [--first 0]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.nn import functional as F

from data import answer_of_peer, fashion_mnist
from skvae import VAE, ConvNet
from skvae.evaluation import frechet_distance

LATENT_DIM, BATCH_SIZE, LEARNING_RATE = 16, 128, 1e-3
N_TEST = 5_000
LIKELIHOODS = {"discretised logistic (auto)": "auto", "Gaussian, one σ": "gaussian"}


class Features:
    """The penultimate layer of a classifier of images."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, epochs: int = 6) -> None:
        torch.manual_seed(0)
        self.body = ConvNet(width=64).place("encoder", (1, 28, 28)).bind(784)
        head = nn.Linear(64, 10)
        x, y = self._scaled(images), torch.from_numpy(labels.astype(np.int64))
        optimizer = torch.optim.Adam([*self.body.parameters(), *head.parameters()], lr=2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(128):
                loss = F.cross_entropy(head(self.body(x[rows])), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self._head = head

    @staticmethod
    def _scaled(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        return torch.cat([self.body(piece) for piece in self._scaled(images).split(1000)]).double().numpy()

    @torch.no_grad()
    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        scores = self._head(torch.from_numpy(self(images)).float())
        return float((scores.argmax(1).numpy() == labels).mean())


def sharpness(images: np.ndarray) -> float:
    """Mean over images of the variance of their Laplacian."""
    x = images.reshape(-1, 28, 28).astype(np.float64)
    inner = x[:, 1:-1, 1:-1]
    laplacian = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:] - 4 * inner
    return float(laplacian.reshape(len(x), -1).var(1).mean())


class Report:
    """Prints, line by line, what samples and reconstructions are like."""

    def __init__(self, features: Features, test: np.ndarray) -> None:
        self.features, self.test = features, test
        self.target, self.sharp = features(test), sharpness(test)
        print(f"\n{'':58}{'Fréchet':>9}{'sharpness':>11}{'squared error':>15}")

    def line(self, name: str, images: np.ndarray, of: np.ndarray | None = None) -> float:
        distance = frechet_distance(self.features(images), self.target)
        error = "" if of is None else f"{((images / 255.0 - of / 255.0) ** 2).mean():15.4f}"
        print(f"{name:58}{distance:9.2f}{sharpness(images) / self.sharp:11.2f}{error}", flush=True)
        return distance


def ours(name: str, likelihood: str, train: np.ndarray, report: Report, epochs: int, seed: int) -> dict[str, float]:
    start = time.perf_counter()
    vae = VAE(
        image_shape=(28, 28),
        likelihood=likelihood,
        latent_dim=LATENT_DIM,
        max_epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        early_stopping=False,
        random_state=seed,
    ).fit(train)
    print(f"{name}: fitted in {time.perf_counter() - start:.0f} s")
    report.line("  reconstructions", vae.reconstruct(report.test), report.test)
    rng = np.random.default_rng(seed)
    n = len(report.test)
    normal = report.line("  samples, z from N(0, I)", vae.inverse_transform(rng.normal(size=(n, LATENT_DIM))))
    own = report.line("  samples, as VAE.sample draws", vae.sample(n, decode="mean", random_state=seed))
    latents = np.concatenate(vae.posterior(train, n_draws=2)).astype(np.float64)
    mixture = GaussianMixture(20, random_state=seed, max_iter=50, init_params="k-means++", tol=1e-2).fit(latents)
    peer = report.line("  samples, z from scikit-learn's mixture of 20", vae.inverse_transform(mixture.sample(n)[0]))
    return {"N(0, I)": normal, "sample": own, "mixture": peer}


def pythae(train: np.ndarray, report: Report, epochs: int, seed: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{name}.npy") for name in ("train", "test", "reconstructed", "samples")}
        np.save(files["train"], train)
        np.save(files["test"], report.test)
        task = files | {
            "latent_dim": LATENT_DIM,
            "epochs": epochs,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "seed": seed,
            "threads": torch.get_num_threads(),
        }
        print(f"pythae's VAE: fitted in {answer_of_peer('pythae', 'pythae_images.py', task)['seconds']:.0f} s")
        report.line("  reconstructions", np.load(files["reconstructed"]), report.test)
        return report.line("  samples, z from N(0, I)", np.load(files["samples"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    (images, labels), (test, test_labels) = fashion_mnist()
    train = images[: arguments.images]
    features = Features(train, labels[: arguments.images])
    half = len(test) // 2
    print(f"features of a classifier with {features.accuracy(test, test_labels):.1%} test accuracy")
    report = Report(features, test[:half][:N_TEST])
    report.line("other test images", test[half:][:N_TEST])
    results = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        found = {
            name: ours(f"{name}, seed {seed}", likelihood, train, report, arguments.epochs, seed)
            for name, likelihood in LIKELIHOODS.items()
        }
        peer = pythae(train, report, arguments.epochs, seed)
        results.append((next(iter(found.values())), peer))
    print(
        f"\nof the default likelihood, {arguments.seeds} seeds{'':16}lower than N(0, I)   share of pythae's distance"
    )
    for density in ("sample", "mixture"):
        gain = np.mean([1 - distances[density] / distances["N(0, I)"] for distances, _ in results])
        ratio = np.mean([distances[density] / peer for distances, peer in results])
        print(f"{density:42}{gain:16.0%}{ratio:28.2f}")
    print(f"{'bar':42}{'≥ 40%':>16}{'< 1':>28}")


if __name__ == "__main__":
    main()
