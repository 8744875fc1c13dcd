"""Histograms of oriented gradients against a loop over pixels."""

import math

import numpy as np
import pytest
import torch

from skvae.model.oriented_gradients import oriented_gradients


def pixel_by_pixel(image, shown, window):
    n_channels, height, width = image.shape
    votes = np.zeros((8, height - 1, width - 1))
    for i in range(1, height):
        for j in range(1, width):
            found = []
            for c in range(n_channels):
                whole = shown[c, i, j] and shown[c, i, j - 1] and shown[c, i - 1, j]
                gradient = (image[c, i, j] - image[c, i, j - 1], image[c, i, j] - image[c, i - 1, j])
                found.append((math.hypot(*gradient) if whole else 0.0, *gradient))
            length, across, down = max(found, key=lambda f: f[0])
            place = (math.atan2(down, across) / (2 * math.pi) * 8) % 8
            lower, share = int(place) % 8, place % 1
            votes[lower, i - 1, j - 1] += (1 - share) * math.sqrt(length)
            votes[(lower + 1) % 8, i - 1, j - 1] += share * math.sqrt(length)
    pad = window // 2
    padded = np.pad(votes, ((0, 0), (pad, pad), (pad, pad)))
    starts = [range(0, size - window + 1, window // 2) for size in padded.shape[1:]]
    cells = [padded[o, i : i + window, j : j + window].mean() for o in range(8) for i in starts[0] for j in starts[1]]
    return np.array(cells) / np.linalg.norm(cells)


@pytest.mark.parametrize(("shape", "window"), [((1, 8, 8), 2), ((3, 20, 24), 4)])
def test_against_a_loop(shape, window):
    rng = np.random.default_rng(0)
    images, shown = rng.normal(size=(3, *shape)), rng.random((3, *shape)) > 0.1
    expected = [pixel_by_pixel(image, mask, window) for image, mask in zip(images, shown, strict=True)]
    found = oriented_gradients(torch.from_numpy(images), torch.from_numpy(shown))
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-10, atol=1e-12)
    whole = oriented_gradients(torch.from_numpy(images))
    np.testing.assert_allclose(whole[0], pixel_by_pixel(images[0], np.ones(shape, dtype=bool), window))


def test_brightness_and_contrast_do_not_count():
    images = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(oriented_gradients(0.3 * images + 2), oriented_gradients(images))
    assert not torch.allclose(oriented_gradients(images.flip(-1)), oriented_gradients(images), atol=0.1)
    assert (oriented_gradients(torch.ones(2, 1, 4, 4)) == 0).all()
