"""Encoders and decoders, and the layer that turns encoded rows into their input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from skvae.data.columns import Column, Kind
from skvae.model.checks import check_share, check_sizes, check_whole
from skvae.model.component import Component, copied, resolve
from skvae.model.likelihoods.base import Likelihood
from skvae.model.likelihoods.continuous import standardised

ACTIVATIONS = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


# Bins of repeated values are no narrower, in standardised units, than this.
_NARROWEST_BIN = 1e-3

# What a user's own module is given.
_RECEIVED = {
    "encoder": "the features of an embedded row (one per column, two where entries may be missing or are hidden by "
    "`masking`, and eight per column of categories: `model_.embedding.n_out` of an estimator fitted without it)",
    "decoder": "the latents (latent_dim)",
}


class Network(Component):
    """Maps [n, n_in] to [n, n_out]; `bind` makes the layers and sets `n_out`."""

    n_out: int

    def place(self, role: str, image_shape: tuple[int, int, int] | None) -> Self:
        """Tell the network, before it is bound, where it stands; one to which that is all the same passes over it.

        Parameters
        ----------
        role : {"encoder", "decoder"}
        image_shape : (channels, height, width), or None for tables
            Of the rows, whose pixels come in this order.
        """
        return self

    def bind(self, n_in: int) -> Network:
        raise NotImplementedError

    def bind_output(self, likelihood: Likelihood) -> nn.Module:
        """The layer after a decoder, from [n, n_out] to the parameters [n, likelihood.n_params] of all columns."""
        return nn.Linear(self.n_out, likelihood.n_params)

    def reversed(self) -> Network:
        """The network that would decode what this one encodes."""
        return self.fresh()

    def computed(self, x: Tensor) -> Tensor:
        """What it computes of an input [n, n_in] without having learned it, [n, F]; the input, if that is nothing."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class MLP(Network):
    """A multilayer perceptron.

    Parameters
    ----------
    hidden_sizes : sequence of int
        Widths of the hidden layers; empty for the identity, which makes encoder or decoder linear.
    activation : str
        One of "elu", "gelu", "leaky_relu", "relu", "silu", "softplus", "tanh".
    dropout : float
        Share of hidden units dropped in training.
    """

    alias = "mlp"
    layers: nn.Sequential

    def __init__(
        self, hidden_sizes: Sequence[int] = (256, 256), activation: str = "silu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.dropout = dropout

    def bind(self, n_in: int) -> MLP:
        check_sizes(self, "hidden_sizes")
        check_share(self, "dropout")
        layers: list[nn.Module] = []
        for width in self.hidden_sizes:
            layers += [nn.Linear(n_in, width), activation_named(self.activation)]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            n_in = width
        self.layers = nn.Sequential(*layers)
        self.n_out = n_in
        return self

    def reversed(self) -> MLP:
        return self.fresh().set_params(hidden_sizes=tuple(self.hidden_sizes)[::-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResidualMLP(Network):
    """A residual perceptron: h ← h + W₂ act(W₁ norm(h)), with a linear layer in front.

    The pre-normalised block of Gorishniy, Rubachev, Khrulkov & Babenko (2021), section 3.2.

    Parameters
    ----------
    width : int
        Number of units carried along.
    n_blocks : int
        Number of residual blocks.
    activation : str
        As in `MLP`.
    dropout : float
        Share of units dropped inside each block in training.
    """

    alias = "residual"

    def __init__(self, width: int = 256, n_blocks: int = 2, activation: str = "silu", dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.n_blocks = n_blocks
        self.activation = activation
        self.dropout = dropout

    def bind(self, n_in: int) -> ResidualMLP:
        check_whole(self, "width", 1)
        check_whole(self, "n_blocks", 0)
        check_share(self, "dropout")
        self.first = nn.Linear(n_in, self.width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(self.width),
                nn.Linear(self.width, self.width),
                activation_named(self.activation),
                nn.Dropout(self.dropout),
                nn.Linear(self.width, self.width),
            )
            for _ in range(self.n_blocks)
        )
        self.last = nn.Sequential(nn.LayerNorm(self.width), activation_named(self.activation))
        self.n_out = self.width
        return self

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


class Custom(Network):
    """The user's own module, which maps [n, n_in] to [n, n_out]; a copy is trained, from its own weights.

    Parameters
    ----------
    module : Module
    role : {"encoder", "decoder"}
        What it is for, and so what `n_in` counts: for an encoder the features of an embedded row (see
        `Embedding`), which a fitted estimator has as `model_.embedding.n_out`; for a decoder the latents.
    """

    def __init__(self, module: nn.Module, role: str = "encoder") -> None:
        super().__init__()
        self.module = module
        self.role = role

    def bind(self, n_in: int) -> Custom:
        was_training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                out = self.module(torch.zeros(2, n_in))
        except Exception as error:
            raise ValueError(
                f"{self.role} {type(self.module).__name__} does not accept an input of shape [n, {n_in}], "
                f"{_RECEIVED[self.role]}: {error}"
            ) from error
        finally:
            self.module.train(was_training)
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 2:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"{self.role} {type(self.module).__name__} maps an input of shape [2, {n_in}] to {shape}; "
                "expected [2, hidden]"
            )
        self.n_out = out.shape[1]
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def network(value: Any, default: Network, name: str) -> Network:
    """The network that the parameter `encoder` or `decoder` stands for, unbound."""
    if value is None:
        return default
    if isinstance(value, nn.Module) and not isinstance(value, Network):
        return Custom(copied(value), name)
    return resolve(Network, value, name)


class Embedding(nn.Module):
    """The first layer: encoded rows [n, C] to features [n, n_out] for the encoder.

    Numeric columns enter standardised, discrete columns with two or ordered levels as standardised codes,
    the others as learned vectors, looked up for all columns at once (no one-hot matrices). A missing entry
    gives 0 or a vector of its own; with `masks`, every entry that is not embedded is accompanied by 0 or 1.
    With `piecewise`, a numeric column enters also as how far it has come through each of its bins (the piecewise
    linear encoding of Gorishniy, Rubachev & Babenko 2022, equation 1, less ½), so that the network need not learn
    where a column bends. The edges are its 33 quantiles and the values that repeat often, up to 128, which may tell
    more than those around them.

    Parameters
    ----------
    columns : sequence of Column
    masks : bool
        Whether rows with missing or hidden entries are to be expected.
    size : int
        Length of the vectors.
    piecewise : bool
        Whether numeric columns enter by their bins too.

    Attributes
    ----------
    n_out : int
        Number of features: one per column that is not embedded, two with `masks`, as many more per numeric one with
        `piecewise` as the one with the most bins has, at most 160, and `size` per embedded one.
    """

    offset: Tensor
    factor: Tensor
    dense: Tensor
    embedded: Tensor
    first_level: Tensor
    missing_level: Tensor
    numeric: Tensor
    lower_edge: Tensor
    bin_width: Tensor

    def __init__(self, columns: Sequence[Column], masks: bool, size: int = 8, piecewise: bool = False) -> None:
        super().__init__()
        embedded = [j for j, column in enumerate(columns) if column.kind == Kind.CATEGORICAL]
        dense = [j for j in range(len(columns)) if j not in set(embedded)]
        self.masks = masks
        self.rescales = any(columns[j].is_discrete for j in dense)
        codes = [columns[j].is_discrete for j in dense]
        offset = [columns[j].offset if code else 0.0 for j, code in zip(dense, codes, strict=True)]
        factor = [1 / columns[j].scale if code else 1.0 for j, code in zip(dense, codes, strict=True)]
        self.register_buffer("offset", torch.tensor(offset), persistent=False)
        self.register_buffer("factor", torch.tensor(factor), persistent=False)
        self.register_buffer("dense", torch.tensor(dense, dtype=torch.int64), persistent=False)
        self.register_buffer("embedded", torch.tensor(embedded, dtype=torch.int64), persistent=False)
        self.n_out = len(dense) * (2 if masks else 1) + len(embedded) * size
        if embedded:
            sizes = torch.tensor([columns[j].cardinality + 1 for j in embedded])  # one more for missing
            ends = sizes.cumsum(0)
            self.register_buffer("first_level", ends - sizes, persistent=False)
            self.register_buffer("missing_level", ends - 1, persistent=False)
            self.vectors = nn.Embedding(int(ends[-1]), size)
        numeric = [k for k, j in enumerate(dense) if columns[j].quantiles] if piecewise else []
        self.piecewise = bool(numeric)
        if self.piecewise:
            edges = _bin_edges([columns[dense[k]] for k in numeric])  # [numeric, bins + 1]
            self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.int64), persistent=False)
            self.register_buffer("lower_edge", edges[:, :-1].contiguous(), persistent=False)
            self.register_buffer("bin_width", edges.diff(dim=1).clamp(min=_NARROWEST_BIN), persistent=False)
            self.n_out += self.lower_edge.numel()

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        only_dense = self.embedded.numel() == 0
        x = values if only_dense else values.index_select(1, self.dense)  # [n, dense]
        if self.rescales:
            x = (x - self.offset) * self.factor
        if mask is not None:
            shown = (mask if only_dense else mask.index_select(1, self.dense)).to(x.dtype)
            x = x * shown
        features = [x]
        if self.piecewise:
            along = (x.index_select(1, self.numeric).unsqueeze(-1) - self.lower_edge) / self.bin_width
            along = along.clamp(0.0, 1.0) - 0.5  # [n, numeric, bins]
            if mask is not None:
                along = along * shown.index_select(1, self.numeric).unsqueeze(-1)
            features.append(along.flatten(1))
        if self.masks:
            features.append(torch.ones_like(x) if mask is None else shown)
        if not only_dense:
            level = values.index_select(1, self.embedded).long() + self.first_level  # [n, embedded]
            if mask is not None:
                level = torch.where(mask.index_select(1, self.embedded), level, self.missing_level)
            features.append(self.vectors(level).flatten(1))
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)


def _bin_edges(columns: Sequence[Column]) -> Tensor:
    """The edges of the bins of numeric columns, standardised; the last one repeated where a column has fewer."""
    edges = [sorted({*column.quantiles, *column.spikes}) for column in columns]
    most = max(map(len, edges))
    return standardised([its + its[-1:] * (most - len(its)) for its in edges], columns).float()


def activation_named(name: str) -> nn.Module:
    """The activation of that name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} is not understood; expected one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
