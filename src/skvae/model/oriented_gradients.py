"""Histograms of oriented gradients: images by their outlines."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

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
    strongest = length.argmax(1, keepdim=True)
    across, down, length = (t.gather(1, strongest).squeeze(1) for t in (across, down, length))
    turn = torch.atan2(down, across) * (_N_ORIENTATIONS / math.tau)  # in steps between orientations
    orientation = torch.arange(_N_ORIENTATIONS, device=pixels.device).view(-1, 1, 1)
    half = _N_ORIENTATIONS / 2
    apart = (turn.unsqueeze(1) - orientation + half).remainder(_N_ORIENTATIONS) - half
    votes = (1 - apart.abs()).clamp(min=0) * length.sqrt().unsqueeze(1)  # [n, orientations, …]
    window = max(2, round(min(pixels.shape[-2:]) / _CELLS))
    cells = F.avg_pool2d(votes, window, stride=max(1, window // 2), padding=window // 2)
    return F.normalize(cells.flatten(1), dim=1)
