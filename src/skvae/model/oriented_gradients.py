"""Histograms of oriented gradients: images by their outlines."""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from skvae.model.component import resolve
from skvae.model.convolution import ConvNet
from skvae.model.networks import Network

# A power of two.
_N_ORIENTATIONS = 8
# Cells to the shorter side; windows overlap by half.
_CELLS = 5
SMALLEST_SIDE = 4


def oriented_gradients(pixels: Tensor, shown: Tensor | None = None) -> Tensor:
    """Histograms of oriented gradients (Dalal & Triggs 2005) of images [n, channels, height, width], [n, F].

    At each corner of four pixels the gradient of the channel that changes most goes to the nearest two of eight
    orientations of the full circle, by the square root of its length; these are averaged in windows a fifth of the
    shorter side wide that overlap by half, and the whole is scaled to unit length. So neither the brightness of an
    image nor its contrast counts; an image of a single colour is all zeros.

    Parameters
    ----------
    pixels : Tensor [n, channels, height, width]
        Of sides of at least 4.
    shown : Tensor of the same shape, bool, optional
        Which pixels there are; where one is missing there is no gradient.
    """
    corner = pixels[..., 1:, 1:]
    across, down = corner - pixels[..., 1:, :-1], corner - pixels[..., :-1, 1:]
    length = torch.hypot(across, down)  # [n, channels, height − 1, width − 1]
    if shown is not None:
        length = length * (shown[..., 1:, 1:] & shown[..., 1:, :-1] & shown[..., :-1, 1:])
    if pixels.shape[1] > 1:
        strongest = length.argmax(1, keepdim=True)
        across, down, length = (t.gather(1, strongest) for t in (across, down, length))
    turn = torch.atan2(down, across) * (_N_ORIENTATIONS / math.tau)  # in steps between orientations, −4 to 4
    below = turn.floor()
    vote = length.sqrt()
    for_next = (turn - below) * vote
    below = below.long()
    votes = vote.new_zeros(len(vote), _N_ORIENTATIONS, *vote.shape[2:])
    votes.scatter_(1, below & (_N_ORIENTATIONS - 1), vote - for_next)
    votes.scatter_add_(1, (below + 1) & (_N_ORIENTATIONS - 1), for_next)
    width = max(2, round(min(pixels.shape[-2:]) / _CELLS))
    rows, columns = (_windows(side, width, votes) for side in votes.shape[-2:])
    return F.normalize((rows.mT @ (votes @ columns)).flatten(1), dim=1)


def has_outlines(image_shape: tuple[int, int, int] | None) -> bool:
    """Whether rows are images that are large enough."""
    return image_shape is not None and min(image_shape[1:]) >= SMALLEST_SIDE


def _windows(side: int, width: int, like: Tensor) -> Tensor:
    """What each position counts in each window, [side, windows]; the first window begins half its width before."""
    stride, before = max(1, width // 2), width // 2
    start = torch.arange((side + 2 * before - width) // stride + 1, device=like.device) * stride - before
    apart = torch.arange(side, device=like.device).unsqueeze(1) - start
    return ((apart >= 0) & (apart < width)).to(like.dtype) / width


class OrientedGradients(Network):
    """An encoder of images that is shown their outlines too: histograms of oriented gradients beside the pixels.

    The histograms (Dalal & Triggs 2005; `oriented_gradients`) are computed, not learned. What tells things from one
    another is in them already, and need not be found by the training: with few labels, few epochs, or a map of
    two dimensions that is to hold for new images, this is worth more than layers. A pixel that is missing or hidden
    has no gradient.

    Parameters
    ----------
    body : str or Network
        The layers after it, "mlp", "residual" or an object, to which pixels and histograms are features side by side.
    """

    alias = "hog"

    def __init__(self, body: Network | str = "residual") -> None:
        super().__init__()
        self.body = body
        self.role = "encoder"
        self.image_shape: tuple[int, int, int] | None = None

    def place(self, role: str, image_shape: tuple[int, int, int] | None) -> Self:
        self.role, self.image_shape = role, image_shape
        return self

    def bind(self, n_in: int) -> Self:
        if self.role != "encoder":
            raise ValueError(f"{self!r} shows outlines to an encoder, and cannot be a {self.role}; use 'mlp'")
        if not has_outlines(self.image_shape):
            raise ValueError(
                f"{self!r} is for images of {SMALLEST_SIDE} × {SMALLEST_SIDE} pixels or more; set image_shape, as in "
                "VAE(image_shape=(28, 28)), or use 'mlp'"
            )
        assert self.image_shape is not None
        self.n_pixels = math.prod(self.image_shape)
        # The others, if pixels may be missing, are whether they are there; whatever else is told comes after these.
        self.masks = n_in >= 2 * self.n_pixels
        body = resolve(Network, self.body, "body")
        if isinstance(body, ConvNet):
            raise ValueError(
                f"{self!r} has outlines beside the pixels, which are then no image; use 'residual' or 'mlp'"
            )
        n_outlines = oriented_gradients(torch.zeros(1, *self.image_shape)).shape[1]
        self.scale = math.sqrt(n_outlines)  # of which the whole has a length of 1
        self.layers = body.bind(n_in + n_outlines)
        self.n_out = self.layers.n_out
        return self

    def reversed(self) -> Network:
        return resolve(Network, self.body, "body").reversed()

    def computed(self, x: Tensor) -> Tensor:
        """The histograms, as they enter the layers."""
        assert self.image_shape is not None
        pixels = x[:, : self.n_pixels].unflatten(1, self.image_shape)
        shown = x[:, self.n_pixels : 2 * self.n_pixels].unflatten(1, self.image_shape) > 0 if self.masks else None
        return oriented_gradients(pixels, shown) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(torch.cat([x, self.computed(x)], dim=1))
