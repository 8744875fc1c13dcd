"""Convolutional encoders and decoders: shapes, and which pixel depends on which."""

import copy

import pytest
import torch

from skvae.data.columns import Column, Kind
from skvae.model import ConvNet, DiscretisedLogistic, Gaussian, ResidualConvNet, Table
from skvae.model.convolution import Doubling, normalisation

SHAPES = [(1, 28, 28), (1, 5, 7), (3, 33, 20), (2, 1, 9), (1, 1, 1), (3, 8, 8), (1, 2, 65)]
NETWORKS = [ConvNet(width=16), ConvNet((8, 12), 16), ResidualConvNet((8,), 16, n_blocks=2)]


def pixels(shape):
    column = Column("x", Kind.INTEGER, "uint8", scale=50.0, upper=255.0, resolution=1.0)
    return [column] * (shape[0] * shape[1] * shape[2])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_sides_need_not_be_powers_of_two(network, shape):
    n_pixels = shape[0] * shape[1] * shape[2]
    encoder = network.fresh().place("encoder", shape).bind(n_pixels)
    assert encoder(torch.randn(3, n_pixels)).shape == (3, encoder.n_out) == (3, 16)
    likelihood = Table(DiscretisedLogistic(2)).bind(pixels(shape))
    decoder = network.reversed().place("decoder", shape).bind(4)
    hidden = decoder(torch.randn(3, 4))
    assert hidden.shape == (3, decoder.n_out)
    assert decoder.bind_output(likelihood)(hidden).shape == (3, likelihood.n_params) == (3, 6 * n_pixels)


def test_masks_are_more_planes_and_what_else_there_is_goes_past_the_convolutions():
    torch.manual_seed(0)
    encoder = ConvNet((4,), 8).place("encoder", (3, 6, 5)).bind(2 * 90 + 2)
    assert encoder.planes == 6
    assert encoder.dense[0].in_features == 4 * 3 * 3 + 2
    x = torch.randn(2, 182)
    moved = x.clone()
    moved[:, -1] += 1.0
    assert not torch.equal(encoder(x), encoder(moved))
    assert torch.equal(
        encoder.stages(x[:, :180].reshape(2, 6, 6, 5)), encoder.stages(moved[:, :180].reshape(2, 6, 6, 5))
    )


def test_an_encoder_by_hand():
    torch.manual_seed(0)
    net = ConvNet((4,), 3, activation="relu").place("encoder", (2, 4, 4)).bind(32)
    conv, norm, _ = net.stages
    x = torch.randn(5, 32)
    hidden = torch.relu(norm(torch.nn.functional.conv2d(x.reshape(5, 2, 4, 4), conv.weight, conv.bias, 2, 1)))
    torch.testing.assert_close(net(x), torch.relu(hidden.flatten(1) @ net.dense[0].weight.T + net.dense[0].bias))


def test_parameters_of_a_pixel_come_from_its_place():
    """Features of one corner reach the parameters of the pixels there, of every kind, and no others."""
    shape = (2, 6, 8)
    likelihood = Table(Gaussian("row")).bind(pixels(shape))
    decoder = ConvNet((3,), 4).place("decoder", shape).bind(2)
    output = decoder.bind_output(likelihood)
    hidden = torch.zeros(1, decoder.n_out, requires_grad=True)
    mean, raw = output(hidden).reshape(2, 2, 6, 8)
    for params in (mean, raw):
        (grad,) = torch.autograd.grad(params[1, 0, 0], hidden, retain_graph=True)
        touched = grad.reshape(3, 3, 4).abs().sum(0).nonzero().tolist()
        assert touched == [[0, 0]]
        (grad,) = torch.autograd.grad(params[0, 5, 7], hidden, retain_graph=True)
        assert grad.reshape(3, 3, 4).abs().sum(0).nonzero().tolist() == [[2, 3]]


def test_doubling_is_cut_to_the_larger_half():
    for side in (5, 6):
        assert Doubling(2, 3, (side, side))(torch.zeros(1, 2, 3, 3)).shape == (1, 3, side, side)


@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (12, 6), (7, 7), (1, 1), (11, 1), (64, 8)])
def test_groups_divide_the_channels(channels, groups):
    assert normalisation(channels).num_groups == groups


@pytest.mark.parametrize(
    ("side", "channels"),
    [(8, [32]), (14, [32]), (28, [32, 64]), (32, [32, 64, 128]), (300, [32, 64, 128, 256, 256, 256])],
)
def test_channels_double_until_the_image_is_small(side, channels):
    assert ConvNet().place("encoder", (1, side, 4))._channels() == channels


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (ConvNet(channels=()), r"ConvNet\(channels=\(\)\): expected 'auto' or a sequence"),
        (ConvNet(channels="many"), r"ConvNet\(channels='many'\)"),
        (ConvNet(channels=(8, 0)), r"ConvNet\(channels=\(8, 0\)\)"),
        (ConvNet(channels=8), r"ConvNet\(channels=8\)"),
        (ConvNet(width=0), r"ConvNet\(width=0\): expected a whole number ≥ 1"),
        (ResidualConvNet(n_blocks=-1), r"ResidualConvNet\(n_blocks=-1\): expected a whole number ≥ 0"),
        (ConvNet(activation="swish"), "activation='swish' is not understood"),
    ],
    ids=repr,
)
def test_parameters_out_of_range(network, message):
    with pytest.raises(ValueError, match=message):
        network.place("encoder", (1, 8, 8)).bind(64)


def test_without_images_there_is_nothing_to_convolve():
    with pytest.raises(ValueError, match=r"ConvNet\(\) is for images; set image_shape"):
        ConvNet().place("encoder", None).bind(64)


def test_pixels_of_different_likelihoods_are_refused():
    columns = [Column(str(j), Kind.INTEGER, "uint8", upper=255.0, resolution=1.0) for j in range(16)]
    likelihood = Table({"3": "gaussian"}).bind(columns)
    decoder = ConvNet((4,), 4).place("decoder", (1, 4, 4)).bind(2)
    with pytest.raises(ValueError, match="one likelihood for all"):
        decoder.bind_output(likelihood)(decoder(torch.zeros(1, 2)))


def test_a_copy_is_arranged_by_its_own_likelihood():
    decoder = ConvNet((4,), 4).place("decoder", (1, 4, 4)).bind(2)
    likelihood = Table(Gaussian()).bind(pixels((1, 4, 4)))
    model = torch.nn.ModuleDict({"likelihood": likelihood, "output": decoder.bind_output(likelihood)})
    twin = copy.deepcopy(model)
    assert twin["output"]._arranged.__self__ is twin["likelihood"]
    assert not any(name.startswith("output.likelihood") for name in model.state_dict())
