"""The Fréchet distance between samples and real images, on the features of a small network trained here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from skvae.data.image import Layout
from skvae.training.randomness import Noise, seeded_torch

# Of fewer images smaller batches are made, for as many steps.
_BATCH, _MIN_BATCH, _STEPS = 256, 16, 60


def frechet_distance(real: Any, samples: Any) -> float:
    """Squared Fréchet distance of two normal distributions with the means and covariances of two sets of features.

    |μ_1 − μ_2|² + tr(Σ_1 + Σ_2 − 2 (Σ_1 Σ_2)^½). It is biased upwards by a term of order D/n, so compare only
    figures from as many samples, and from the same features.

    Parameters
    ----------
    real : array [n, D]
    samples : array [m, D]
        Features, for instance from `FeatureNetwork`.

    Raises
    ------
    ValueError
        If the two have another number of features, or fewer than two rows.

    References
    ----------
    D. C. Dowson & B. V. Landau (1982), The Fréchet distance between multivariate normal distributions.
    M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler & S. Hochreiter (2017), GANs trained by a two time-scale update
    rule converge to a local Nash equilibrium. Their FID is this distance on the features of Inception, trained
    on ImageNet; on other features it is another figure, and not called so here.
    """
    a, b = (np.asarray(X, dtype=np.float64) for X in (real, samples))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"real has shape {a.shape}, samples {b.shape}; expected [n, D] and [m, D] with the same "
            "D and two rows or more"
        )
    gap = a.mean(0) - b.mean(0)
    first, second = (np.atleast_2d(np.cov(X, rowvar=False)) for X in (a, b))
    # tr (Σ_1 Σ_2)^½ = tr (R Σ_2 R)^½ with R = Σ_1^½, which is symmetric, so that its roots are real.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(max(gap @ gap + np.trace(first) + np.trace(second) - 2 * cross, 0.0))


class FeatureNetwork:
    """A small convolutional classifier of labelled images, whose last hidden layer gives features.

    For `frechet_distance` and `density_coverage` of images. Train it once, on real images, and measure all
    samples with the same network.

    Parameters
    ----------
    image_shape : tuple
        (height, width), or with the channels first or last, as of `VAE`.
    n_features : int
    n_epochs : int
    random_state : int
        The same seed gives the same network.

    Attributes
    ----------
    network_ : torch.nn.Module
    accuracy_ : float
        On the images it was trained on.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae.evaluation import FeatureNetwork, frechet_distance
    >>> X, y = load_digits(return_X_y=True)
    >>> network = FeatureNetwork((8, 8), n_epochs=3).fit(X, y)
    >>> features = network.transform(X)
    >>> features.shape
    (1797, 64)
    >>> frechet_distance(features[::2], features[1::2]) < frechet_distance(features[:900], 0 * features[:900])
    True
    """

    def __init__(
        self, image_shape: tuple[int, ...], *, n_features: int = 64, n_epochs: int = 5, random_state: int = 0
    ) -> None:
        self.image_shape = image_shape
        self.n_features = n_features
        self.n_epochs = n_epochs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> FeatureNetwork:
        """Train on images and their labels.

        Parameters
        ----------
        X : array [n, pixels] or [n, *image_shape]
        y : array [n]

        Raises
        ------
        ValueError
            If the images have another shape, or there are fewer than two classes.
        """
        raw = self._images(X)
        self.offset_, self.scale_ = float(raw.mean()), float(raw.std()) or 1.0
        images = (raw - self.offset_) / self.scale_
        labels, codes = np.unique(np.asarray(y), return_inverse=True)
        if len(codes) != len(images) or len(labels) < 2:
            raise ValueError(
                f"y has {len(codes)} labels of {len(labels)} classes for {len(images)} images; expected one label "
                "per image and two classes or more"
            )
        targets = torch.from_numpy(codes.astype(np.int64))
        noise = Noise(self.random_state)
        with seeded_torch(self.random_state):
            self.network_ = self._network(*images.shape[1:])
            head = nn.Linear(self.n_features, len(labels))
        self.network_.train()
        optimizer = torch.optim.Adam([*self.network_.parameters(), *head.parameters()], lr=2e-3)
        stream = noise.stream("feature network")
        size = int(np.clip(len(images) // _STEPS, _MIN_BATCH, _BATCH))
        for _ in range(self.n_epochs):
            for rows in torch.randperm(len(images), generator=stream).split(size):
                loss = nn.functional.cross_entropy(head(self.network_(images[rows])), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.network_.eval()
        with torch.no_grad():
            features = torch.from_numpy(self.transform(X))
            self.accuracy_ = float((head(features).argmax(1) == targets).double().mean())
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> np.ndarray:
        """Features of images.

        Returns
        -------
        ndarray [n, n_features], float32
        """
        if not hasattr(self, "network_"):
            raise ValueError("the network is not trained; call fit(X, y) with labelled images first")
        images = (self._images(X) - self.offset_) / self.scale_
        return torch.cat([self.network_(part) for part in images.split(_BATCH)]).numpy()

    def _images(self, X: Any) -> torch.Tensor:
        """Images [n, channels, height, width], float32."""
        shape = tuple(self.image_shape)
        if len(shape) not in (2, 3):
            raise ValueError(f"image_shape={shape}: expected (height, width), with the channels first or last")
        array, layout = np.asarray(X, dtype=np.float32), Layout(shape)
        if not len(array) or array.shape[1:] not in layout.accepted:
            raise ValueError(
                f"X has shape {array.shape}; expected images of shape {shape}, flat ({layout.n_pixels}) or not"
            )
        planes = layout.by_plane(array.reshape(len(array), -1))
        return torch.from_numpy(np.ascontiguousarray(planes).reshape(len(array), *layout.planes))

    def _network(self, n_channels: int, height: int, width: int) -> nn.Module:
        n_hidden = 32 * -(-height // 4) * -(-width // 4)
        return nn.Sequential(
            nn.Conv2d(n_channels, 16, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(n_hidden, self.n_features),
            nn.GELU(),
        )
