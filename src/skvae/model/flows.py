"""Invertible maps of latents, for posteriors and priors; the maps themselves are zuko's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from skvae.model.checks import check, check_sizes, check_whole, is_whole
from skvae.model.component import Component

# Shapes of the numbers that describe the map of one dimension; a spline has eight bins.
_SHAPES: dict[str, list[tuple[int, ...]]] = {"affine": [(), ()], "spline": [(8,), (8,), (7,)]}

# Splines flatter than this cannot be inverted in single precision.
_LEAST_SLOPE = 1e-2


def check_flow(part: Component) -> None:
    """Refuse values of the parameters that posteriors and priors by a flow have in common."""
    check_whole(part, "n_transforms", 1)
    check_sizes(part, "hidden_sizes")
    check(part, "transform", lambda v: v in _SHAPES, f"one of {sorted(_SHAPES)}")
    check(part, "passes", lambda v: v is None or (is_whole(v) and v >= 2), "None or a whole number ≥ 2")


class Flow(nn.Module):
    """A chain of masked autoregressive maps (Papamakarios, Pavlakou & Murray 2017), the identity at first.

    One way takes a single pass, the other `passes` of them.

    Parameters
    ----------
    n_features, n_context : int
        Dimensions of what is mapped, and of what the map depends on.
    n_transforms : int
    hidden_sizes : sequence of int
    transform : {"affine", "spline"}
        Splines leave what is outside of [−5, 5] where it is.
    passes : int or None
        None for as many as there are dimensions.

    Attributes
    ----------
    width : int
        Numbers held for each point on the way.

    Raises
    ------
    ImportError
        If zuko is not installed.
    """

    def __init__(
        self,
        n_features: int,
        n_context: int,
        n_transforms: int,
        hidden_sizes: Sequence[int],
        transform: str,
        passes: int | None,
    ) -> None:
        super().__init__()
        zuko = _import_zuko()
        univariate = {
            "affine": zuko.transforms.MonotonicAffineTransform,
            "spline": partial(zuko.transforms.MonotonicRQSTransform, slope=_LEAST_SLOPE),
        }
        order = torch.arange(n_features)
        self.chain = zuko.lazy.LazyComposedTransform(
            *(
                zuko.flows.autoregressive.MaskedAutoregressiveTransform(
                    n_features,
                    n_context,
                    passes=passes,
                    order=order if k % 2 == 0 else order.flip(0),
                    univariate=univariate[transform],
                    shapes=_SHAPES[transform],
                    hidden_features=tuple(hidden_sizes),
                    activation=nn.SiLU,
                )
                for k in range(n_transforms)
            )
        )
        for link in self.chain.transforms:
            # A single dimension without context has no network.
            last = link.phi if hasattr(link, "phi") else link.hyper[-1].parameters()
            for parameter in last:
                nn.init.zeros_(parameter)
        n_numbers = sum(shape[0] if shape else 1 for shape in _SHAPES[transform])
        self.width = max(n_features + n_context, 2 * n_features * n_numbers, *hidden_sizes, 0)

    def forward(self, x: Tensor, context: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Images [S, B, D] of `x` [S, B, D] given `context` [B, n_context], and log |det ∂image/∂x| [S, B]."""
        chain = self.chain(context)
        return (chain.inv if inverse else chain).call_and_ladj(x)


def _import_zuko() -> Any:
    validates = Distribution._validate_args
    try:
        import zuko
    except ImportError as error:
        raise ImportError("flows need zuko: pip install scikit-vae[flows]") from error
    # Loading zuko turns off the checks of torch's distributions for everyone.
    Distribution.set_default_validate_args(validates)
    return zuko
