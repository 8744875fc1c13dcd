"""Histograms of oriented gradients against a loop over pixels."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skvae import MLP, VAE, OrientedGradients, load
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


def test_an_encoder_by_hand():
    torch.manual_seed(0)
    shape = (2, 6, 5)
    net = OrientedGradients(MLP((7,), activation="tanh")).place("encoder", shape).bind(60)
    x = torch.randn(3, 60)
    outlines = oriented_gradients(x.view(3, *shape))
    scaled = outlines * math.sqrt(outlines.shape[1])
    (layer, _) = net.layers.layers
    expected = torch.tanh(torch.cat([x, scaled], 1) @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net.computed(x), scaled)
    assert net.n_out == 7
    with_more = net.fresh().place("encoder", shape).bind(60 + 4)  # what the model tells an encoder beside the rows
    assert with_more(torch.cat([x, torch.randn(3, 4)], 1)).shape == (3, 7)


def test_missing_pixels_have_no_gradient():
    shape = (1, 6, 6)
    net = OrientedGradients(MLP(())).place("encoder", shape).bind(72)
    shown = torch.rand(4, 36, generator=torch.Generator().manual_seed(0)) > 0.2
    x = torch.randn(4, 36, generator=torch.Generator().manual_seed(1)) * shown
    found = net(torch.cat([x, shown.float()], 1))
    outlines = oriented_gradients(x.view(4, *shape), shown.view(4, *shape))
    torch.testing.assert_close(found[:, 72:], outlines * math.sqrt(outlines.shape[1]))
    torch.testing.assert_close(found[:, :36], x)


@pytest.mark.parametrize("encoder", ["hog", OrientedGradients("mlp"), OrientedGradients(MLP((8,)))], ids=repr)
@pytest.mark.parametrize("holes", [False, True])
def test_as_an_encoder(encoder, holes, tmp_path):
    X, _ = load_digits(return_X_y=True)
    X = X[:300]
    if holes:
        X = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    vae = VAE(image_shape=(8, 8), encoder=encoder, latent_dim=3, max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(vae.transform(X)).all()
    vae.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").transform(X), vae.transform(X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"image_shape": None}, r"4 × 4 pixels or more; set image_shape"),
        ({"image_shape": (2, 32)}, r"4 × 4 pixels or more"),
        ({"decoder": "hog"}, r"cannot be a decoder; use 'mlp'"),
        ({"encoder": OrientedGradients("conv")}, r"no image; use 'residual' or 'mlp'"),
        ({"encoder": OrientedGradients("resnet")}, r"body='resnet' is not understood"),
    ],
)
def test_where_it_has_no_place(params, message):
    with pytest.raises(ValueError, match=message):
        VAE(**{"image_shape": (8, 8), "encoder": "hog", "max_epochs": 1} | params).fit(np.eye(20, 64))


def test_it_decodes_by_what_its_body_would():
    assert OrientedGradients(MLP((4, 3))).reversed().get_params() == MLP((3, 4)).get_params()
