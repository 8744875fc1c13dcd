"""Encoders and decoders of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from skvae.model.checks import check, check_whole, is_whole
from skvae.model.likelihoods import Likelihood
from skvae.model.networks import Network, activation_named

# The longer side of an image is halved until it is no longer than this; channels double from the first on.
_COARSEST, _FIRST_CHANNELS, _MOST_CHANNELS = 7, 32, 256
_GROUPS = 8


class ConvNet(Network):
    """Convolutions that halve an image stage by stage, or, as a decoder, double it again.

    Each stage is a convolution with stride 2, group normalisation (Wu & He 2018) and an activation; between the
    coarsest stage and the latents is a dense layer. A decoder ends in a transposed convolution to the parameters of
    all pixels. Sides need not be powers of two: an odd one is halved to the larger half.

    Parameters
    ----------
    channels : sequence of int or "auto"
        Channels of each stage. "auto": 32, 64, 128 …, at most 256, until the longer side is at most 7.
    width : int
        Units of the dense layer.
    activation : str
        As in `MLP`.
    """

    alias = "conv"
    role: str = "encoder"
    image_shape: tuple[int, int, int] | None = None

    def __init__(self, channels: Sequence[int] | str = "auto", width: int = 256, activation: str = "silu") -> None:
        super().__init__()
        self.channels = channels
        self.width = width
        self.activation = activation

    def place(self, role: str, image_shape: tuple[int, int, int] | None) -> Self:
        self.role, self.image_shape = role, image_shape
        return self

    def bind(self, n_in: int) -> Self:
        if self.image_shape is None:
            raise ValueError(
                f"{self!r} is for images; set image_shape, as in VAE(image_shape=(28, 28)), or use 'mlp'"
            )
        check_whole(self, "width", 1)
        check(self, "channels", _are_channels, "'auto' or a sequence of one or more whole numbers ≥ 1")
        sizes: list[tuple[int, ...]] = [self.image_shape[1:]]
        channels = self._channels()
        for _ in channels:
            sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
        coarsest = (channels[-1], *sizes[-1])
        if self.role == "encoder":
            self._bind_encoder(n_in, channels, coarsest)
        else:
            self._bind_decoder(n_in, channels, sizes, coarsest)
        return self

    def _channels(self) -> list[int]:
        assert self.image_shape is not None
        if not isinstance(self.channels, str):
            return list(self.channels)
        side, found = max(self.image_shape[1:]), [_FIRST_CHANNELS]
        while (side := (side + 1) // 2) > _COARSEST:
            found.append(min(2 * found[-1], _MOST_CHANNELS))
        return found

    def _bind_encoder(self, n_in: int, channels: Sequence[int], coarsest: tuple[int, ...]) -> None:
        assert self.image_shape is not None
        n_colours, height, width = self.image_shape
        # Pixels, then where they are missing if that is told, then whatever else the model tells the encoder.
        self.planes = n_in // (n_colours * height * width) * n_colours
        self.n_pixels = self.planes * height * width
        stages: list[nn.Module] = []
        for before, after in zip([self.planes, *channels], channels, strict=False):
            stages += [nn.Conv2d(before, after, 3, stride=2, padding=1), *self._stage(after)]
        self.stages = nn.Sequential(*stages)
        n_features = coarsest[0] * coarsest[1] * coarsest[2] + n_in - self.n_pixels
        self.dense = nn.Sequential(nn.Linear(n_features, self.width), activation_named(self.activation))
        self.n_out = self.width

    def _bind_decoder(
        self, n_in: int, channels: Sequence[int], sizes: Sequence[tuple[int, ...]], coarsest: tuple[int, ...]
    ) -> None:
        self.dense = nn.Sequential(
            nn.Linear(n_in, self.width),
            activation_named(self.activation),
            nn.Linear(self.width, coarsest[0] * coarsest[1] * coarsest[2]),
            nn.Unflatten(1, coarsest),
            *self._stage(coarsest[0]),
        )
        stages: list[nn.Module] = []
        for k in range(len(channels) - 1, 0, -1):
            stages += [Doubling(channels[k], channels[k - 1], sizes[k]), *self._stage(channels[k - 1])]
        self.stages = nn.Sequential(*stages)
        self.features = (channels[0], *sizes[1])
        self.n_out = self.features[0] * self.features[1] * self.features[2]

    def _stage(self, channels: int) -> list[nn.Module]:
        """What follows a change of resolution."""
        return [normalisation(channels), activation_named(self.activation)]

    def bind_output(self, likelihood: Likelihood) -> nn.Module:
        if self.role == "encoder":
            return super().bind_output(likelihood)
        assert self.image_shape is not None
        return PixelOutput(self.features, self.image_shape, likelihood)

    def forward(self, x: Tensor) -> Tensor:
        if self.role != "encoder":
            return self.stages(self.dense(x)).flatten(1)
        assert self.image_shape is not None
        pixels, rest = x[:, : self.n_pixels], x[:, self.n_pixels :]
        hidden = self.stages(pixels.unflatten(1, (self.planes, *self.image_shape[1:]))).flatten(1)
        return self.dense(torch.cat([hidden, rest], dim=1) if rest.shape[1] else hidden)


class ResidualConvNet(ConvNet):
    """`ConvNet` with residual blocks at each resolution: h ← h + W₂ act(norm(W₁ act(norm(h)))).

    Blocks with the order of He, Zhang, Ren & Sun (2016, identity mappings), figure 1b.

    Parameters
    ----------
    channels, width, activation
        As in `ConvNet`.
    n_blocks : int
        Residual blocks of each stage.
    """

    alias = "residual-conv"

    def __init__(
        self, channels: Sequence[int] | str = "auto", width: int = 256, activation: str = "silu", n_blocks: int = 1
    ) -> None:
        super().__init__(channels, width, activation)
        self.n_blocks = n_blocks

    def bind(self, n_in: int) -> Self:
        check_whole(self, "n_blocks", 0)
        return super().bind(n_in)

    def _stage(self, channels: int) -> list[nn.Module]:
        blocks = [ResidualBlock(channels, self.activation) for _ in range(self.n_blocks)]
        return [*blocks, *super()._stage(channels)]


class ResidualBlock(nn.Module):
    """Two convolutions that add to what they are given."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            normalisation(channels),
            activation_named(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
            normalisation(channels),
            activation_named(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Doubling(nn.Module):
    """A transposed convolution to twice the resolution, cut to `size`, which may be one less."""

    def __init__(self, n_in: int, n_out: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.weights = nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.weights(x)[:, :, : self.size[0], : self.size[1]]


class PixelOutput(nn.Module):
    """The last layer of a decoder of images: features at half the resolution to the parameters of every pixel.

    Parameters
    ----------
    features : (channels, height, width)
        Of its input, which comes flattened.
    image_shape : (channels, height, width)
    likelihood : Likelihood
        Bound to the pixels, all of one kind.
    """

    def __init__(self, features: tuple[int, ...], image_shape: tuple[int, int, int], likelihood: Likelihood) -> None:
        super().__init__()
        n_pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.features, self.n_colours = features, image_shape[0]
        self.up = Doubling(features[0], likelihood.n_params // n_pixels * image_shape[0], image_shape[1:])
        self._arranged = likelihood.arranged  # a method, so that the likelihood is no part of this module

    def forward(self, hidden: Tensor) -> Tensor:
        planes = self.up(hidden.unflatten(1, self.features))  # [n, P × colours, H, W]
        return self._arranged(planes.unflatten(1, (-1, self.n_colours)).flatten(2))


def normalisation(channels: int) -> nn.GroupNorm:
    """Group normalisation in 8 groups, or as many as divide the channels."""
    return nn.GroupNorm(next(n for n in range(_GROUPS, 0, -1) if channels % n == 0), channels)


def _are_channels(value: object) -> bool:
    if isinstance(value, str):
        return value == "auto"
    return len(value) > 0 and all(is_whole(n) and n >= 1 for n in value)  # type: ignore[arg-type, attr-defined]
