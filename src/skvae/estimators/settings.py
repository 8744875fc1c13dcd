"""What is left on "auto", settled by the data and by `quality`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from skvae.data.image_schema import ImageSchema
from skvae.data.schema import Schema
from skvae.inference import joint_density
from skvae.inference.latent_density import check_latent_density
from skvae.model.checks import is_number

QUALITIES = ("fast", "default", "high")
PRECISIONS = ("auto", "float32")

# Optimiser steps and width of the hidden layers.
_STEPS = {"fast": 3_000, "default": 8_000, "high": 40_000}
# Share of the planned steps that training goes on without a better bound, and, without early stopping, the steps
# that a small table gets (chosen by cross-validation on wine, iris, diabetes and breast cancer).
_PATIENCE, _FEWEST_STEPS, _STEPS_PER_ROW = 0.1, 1_500, 8
_WIDTH = {"fast": 128, "default": 256, "high": 512}
# Of tables with a target for every row: the smallest batches, and the learning rate (chosen on splits inside the
# training rows of red wine and concrete).
_SUPERVISED_BATCH, _SUPERVISED_RATE = 128, 1e-3
# The parts of a model that is trained together with a density of its latents.
_USUAL = {
    "prior": ("normal",),
    "posterior": ("diagonal", "full"),
    "objective": ("elbo",),
    "latent_density": ("auto",),
}


@dataclass(frozen=True)
class Settings:
    """The values that training used, after "auto" was settled."""

    latent_dim: int
    hidden_sizes: tuple[int, ...] | None  # None: convolutions
    max_epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    masking: float
    latent_density: str | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hidden_sizes": None if self.hidden_sizes is None else list(self.hidden_sizes)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Settings:
        # Models saved before there were densities of the latents have none.
        sizes = state["hidden_sizes"]
        return cls(
            **{
                "latent_density": None,
                **state,
                "hidden_sizes": None if sizes is None else tuple(sizes),
            }
        )


def settle(params: dict[str, Any], schema: Schema | ImageSchema, n_rows: int, supervised: bool = False) -> Settings:
    """Settle the parameters of an estimator for `n_rows` training rows of these columns or images.

    `supervised` says that each of the rows has a target.

    Raises
    ------
    ValueError
        A parameter out of range; the message says what is expected.
    """
    check_parameters(params)
    quality, columns = params["quality"], schema.modelled
    of_images = isinstance(schema, ImageSchema)
    if of_images and params["column_kinds"]:
        raise ValueError("column_kinds is for tables, and all pixels of images are of one kind; leave it out")
    n_features = sum(min(column.cardinality - 1, 4) if column.cardinality > 2 else 1 for column in columns)

    def auto(name: str, value: Any) -> Any:
        return value if isinstance(params[name], str) and params[name] == "auto" else params[name]

    width = _WIDTH[quality] if n_rows >= 2_000 else 128
    hidden_sizes = auto("hidden_sizes", None if of_images else (width, width))
    hidden_sizes = None if hidden_sizes is None else tuple(hidden_sizes)
    is_linear = hidden_sizes == () and params["encoder"] is None and params["decoder"] is None
    supervised = supervised and params["max_epochs"] == "auto"  # given epochs are to be of many steps
    smallest = _SUPERVISED_BATCH if supervised else 32
    batch_size = int(auto("batch_size", min(256, max(smallest, 2 ** round(math.log2(max(n_rows, 1) / 40))))))
    learning_rate = 1e-2 if is_linear else _SUPERVISED_RATE if supervised else 2e-3
    steps_per_epoch = max(1, n_rows // batch_size)
    n_steps = _STEPS[quality]
    masks = not is_linear and len(columns) > 1 and (not of_images or columns[0].missing > 0)
    if not params["early_stopping"] and not is_linear:
        # Nothing then stops a small table from being learned by heart.
        n_steps = min(n_steps, max(_FEWEST_STEPS, _STEPS_PER_ROW * n_rows))
    return Settings(
        latent_dim=int(auto("latent_dim", min(32, max(2, math.ceil(n_features / 2))))),
        hidden_sizes=hidden_sizes,
        max_epochs=int(auto("max_epochs", min(2_000, max(20, n_steps // steps_per_epoch)))),
        batch_size=batch_size,
        learning_rate=float(auto("learning_rate", learning_rate)),
        patience=int(auto("patience", max(20, math.ceil(_PATIENCE * _STEPS[quality] / steps_per_epoch)))),
        # A linear encoder cannot answer for every subset of columns at once.
        masking=float(auto("masking", 0.25 if masks else 0.0)),
        # A linear model is asked for as one whose density is known.
        latent_density=_named(auto("latent_density", None if is_linear else "auto")),
    )


def trains_jointly(
    params: dict[str, Any], settings: dict[str, Any], schema: Schema | ImageSchema, n_rows: int
) -> bool:
    """Whether a model of tables is trained together with a density of its latents (see `inference.joint_density`).

    That takes some thousand rows and steps, and time that "fast" does not have; what other prior, objective or
    density is asked for is trained as asked.
    """
    n_steps = settings["max_epochs"] * (n_rows // settings["batch_size"])
    return (
        params["quality"] in joint_density.SHARES
        and not isinstance(schema, ImageSchema)
        and settings["hidden_sizes"] != []
        and n_rows >= joint_density.MIN_ROWS
        and n_steps >= joint_density.MIN_STEPS
        and all(isinstance(params[name], str) and params[name] in usual for name, usual in _USUAL.items())
    )


def check_parameters(params: dict[str, Any]) -> None:
    """Refuse values out of range and combinations that contradict each other."""
    for name in ("latent_dim", "max_epochs", "batch_size"):
        _check(params, name, lambda v: _is_whole(v) and v >= 1, "'auto' or a whole number ≥ 1")
    _check(
        params,
        "image_shape",
        lambda v: v is None or (len(v) in (2, 3) and all(_is_whole(side) and side >= 1 for side in v)),
        "(height, width), (channels, height, width) or (height, width, channels)",
    )
    _check(
        params,
        "hidden_sizes",
        lambda v: not isinstance(v, str) and all(_is_whole(width) and width >= 1 for width in v),
        "'auto' or a tuple of whole numbers ≥ 1 (empty for a linear model)",
    )
    _check(params, "learning_rate", lambda v: is_number(v) and 0 < v < math.inf, "'auto' or a number > 0")
    _check(params, "masking", lambda v: is_number(v) and 0 <= v <= 1, "'auto' or a share of rows in [0, 1]")
    _check(params, "validation_fraction", lambda v: is_number(v) and 0 < v < 1, "a share of rows in (0, 1)")
    _check(params, "patience", lambda v: _is_whole(v) and v >= 1, "'auto' or a whole number ≥ 1")
    _check(params, "quality", lambda v: v in QUALITIES, f"one of {QUALITIES}")
    _check(params, "handle_unknown", lambda v: v in ("error", "missing"), "'error' or 'missing'")
    _check(params, "precision", lambda v: v in PRECISIONS, f"one of {PRECISIONS}")
    _check(params, "compile", lambda v: isinstance(v, bool), "True, False or 'auto'")
    for name in ("early_stopping", "warm_start"):
        _check(params, name, lambda v: isinstance(v, (bool, np.bool_)), "True or False")
    _check(params, "verbose", lambda v: isinstance(v, bool) or (_is_whole(v) and v >= 0), "a whole number ≥ 0")
    _check(
        params,
        "callbacks",
        lambda v: v is None or all(callable(callback) for callback in v),
        "None or a sequence of functions (history, model) → whether to stop",
    )
    _check(params, "column_kinds", lambda v: v is None or isinstance(v, Mapping), "None or a dict of column to kind")
    _check(params, "device", _is_device, "'auto', 'cpu' or another device that torch has here, as 'cuda:0'")
    check_latent_density(params["latent_density"])
    has_sizes = not isinstance(params["hidden_sizes"], str)
    if has_sizes and params["encoder"] is not None and params["decoder"] is not None:
        raise ValueError(
            f"hidden_sizes={params['hidden_sizes']!r} contradicts encoder and decoder, which are both given; "
            "leave hidden_sizes on 'auto'"
        )


def _named(latent_density: Any) -> str | None:
    """As JSON has it; an object is looked up among the parameters."""
    return latent_density if latent_density is None or isinstance(latent_density, str) else "given"


def _check(params: dict[str, Any], name: str, valid: Any, expected: str) -> None:
    value = params[name]
    if isinstance(value, str) and value == "auto" and "'auto'" in expected:
        return
    try:
        good = bool(valid(value))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name}={value!r}: expected {expected}")


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")


def _is_device(value: Any) -> bool:
    try:
        torch.zeros(0, device=value)
    except (RuntimeError, AssertionError, TypeError):
        return False
    return value is not None
