"""Encoders, decoders, and the first layer."""

import numpy as np
import pytest
import torch
from torch import nn

from skvae.data.columns import Column, Kind
from skvae.model import MLP, ResidualMLP
from skvae.model.networks import ACTIVATIONS, Custom, Embedding, network


class TwoDimensional(nn.Module):
    """A user's module that takes its promise at its word."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, x):
        n, width = x.shape
        assert width == 3
        return self.linear(x).reshape(n, 5)


NETWORKS = [
    (MLP(()), 3, 0),
    (MLP((7,)), 7, 3 * 7 + 7),
    (MLP((7, 4), activation="relu", dropout=0.2), 4, 28 + 32),
    (ResidualMLP(6, 2), 6, 24 + 2 * (12 + 42 + 42) + 12),
    (Custom(TwoDimensional()), 5, 20),
]


@pytest.mark.parametrize(("unbound", "n_out", "n_weights"), NETWORKS, ids=lambda value: repr(value)[:12])
def test_networks(unbound, n_out, n_weights):
    bound = unbound.fresh().bind(3)
    assert bound.n_out == n_out
    assert sum(p.numel() for p in bound.parameters()) == n_weights
    x = torch.randn(4, 3)
    out = bound.eval()(x)
    assert out.shape == (4, n_out)
    # Rows do not see each other.
    torch.testing.assert_close(torch.cat([bound(row.unsqueeze(0)) for row in x]), out)


def test_mlp_by_hand():
    mlp = MLP((4,), activation="tanh").bind(3)
    x = torch.randn(2, 3)
    layer = mlp.layers[0]
    torch.testing.assert_close(mlp(x), torch.tanh(x @ layer.weight.T + layer.bias))
    assert (MLP(()).bind(3)(x) == x).all()


def test_residual_by_hand():
    net = ResidualMLP(4, 1, activation="relu").bind(3)
    x = torch.randn(2, 3)
    hidden = net.first(x)
    norm, first, _, _, second = net.blocks[0]
    hidden = hidden + second(torch.relu(first(norm(hidden))))
    torch.testing.assert_close(net(x), torch.relu(net.last[0](hidden)))


def test_reversed():
    assert MLP([8, 4, 2], activation="relu").reversed().get_params() == MLP((2, 4, 8), activation="relu").get_params()
    assert ResidualMLP(8, 3).reversed().get_params() == ResidualMLP(8, 3).get_params()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    assert MLP((2,), activation=name).bind(1)(torch.zeros(1, 1)).shape == (1, 2)


def test_unknown_activation():
    with pytest.raises(
        ValueError, match=r"activation='swish' is not understood; expected one of \['elu', .*'tanh'\]"
    ):
        MLP((2,), activation="swish").bind(1)


@pytest.mark.parametrize(
    ("unbound", "message"),
    [
        (MLP(5), r"MLP\(hidden_sizes=5\): expected a sequence of whole numbers ≥ 1"),
        (MLP("ab"), r"MLP\(hidden_sizes='ab'\)"),
        (MLP((8, 0)), r"MLP\(hidden_sizes=\(8, 0\)\)"),
        (MLP((8, 2.5)), r"MLP\(hidden_sizes=\(8, 2.5\)\)"),
        (MLP((8, True)), r"MLP\(hidden_sizes=\(8, True\)\)"),
        (MLP(dropout=1.0), r"MLP\(dropout=1.0\): expected a share in \[0, 1\)"),
        (MLP(dropout=-0.1), r"MLP\(dropout=-0.1\)"),
        (MLP(dropout="some"), r"MLP\(dropout='some'\)"),
        (ResidualMLP(width=0), r"ResidualMLP\(width=0\): expected a whole number ≥ 1"),
        (ResidualMLP(width=2.5), r"ResidualMLP\(width=2.5\)"),
        (ResidualMLP(n_blocks=-1), r"ResidualMLP\(n_blocks=-1\): expected a whole number ≥ 0"),
        (ResidualMLP(dropout=2), r"ResidualMLP\(dropout=2\)"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_parameters_out_of_range(unbound, message):
    with pytest.raises(ValueError, match=message):
        unbound.bind(3)


@pytest.mark.parametrize("unbound", [MLP([4]), MLP((np.int64(4),)), ResidualMLP(np.int64(4), 0)], ids=repr)
def test_parameters_within_range(unbound):
    assert unbound.bind(3)(torch.zeros(2, 3)).shape == (2, 4)


class Wrong(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(4, 2), r"Linear does not accept an input of shape \[n, 3\]"),
        (Wrong(lambda x: x.sum()), r"Wrong maps an input of shape \[2, 3\] to \(\); expected \[2, hidden\]"),
        (Wrong(lambda x: x[:1]), r"to \(1, 3\); expected \[2, hidden\]"),
        (Wrong(lambda x: x.unsqueeze(0)), r"to \(1, 2, 3\); expected \[2, hidden\]"),
        (Wrong(lambda x: (x, x)), r"to tuple; expected \[2, hidden\]"),
    ],
    ids=str,
)
def test_modules_that_do_not_fit(module, message):
    with pytest.raises(ValueError, match=message):
        Custom(module).bind(3)


@pytest.mark.parametrize(
    ("name", "what"),
    [("encoder", r"the features of an embedded row .*`model_.embedding.n_out`"), ("decoder", "the latents")],
)
def test_what_a_module_is_given(name, what):
    with pytest.raises(ValueError, match=rf"^{name} Linear does not accept an input of shape \[n, 3\], {what}"):
        network(nn.Linear(4, 2), MLP(()), name).bind(3)


def test_binding_leaves_the_users_module_as_it_was():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    unbound = network(module, MLP(()), "encoder")
    unbound.bind(3)
    assert unbound.module is not module
    assert unbound.module.training
    assert all((value == weights[name]).all() for name, value in unbound.module.state_dict().items())


@pytest.mark.parametrize(
    ("value", "cls"), [(None, MLP), ("residual", ResidualMLP), (MLP((2,)), MLP), (nn.Linear(2, 3), Custom)], ids=str
)
def test_what_a_parameter_stands_for(value, cls):
    assert type(network(value, MLP((5,)), "encoder")) is cls


def test_what_a_parameter_does_not_stand_for():
    with pytest.raises(ValueError, match=r"encoder='cnn' is not understood; expected one of \['conv', 'hog', .*\]"):
        network("cnn", MLP(()), "encoder")


def levels(name, kind, cardinality, offset=0.0, scale=1.0):
    return Column(name, kind, "str", levels=tuple(range(cardinality)), offset=offset, scale=scale)


NUMBER = Column("cm", Kind.CONTINUOUS, "float64", offset=170.0, scale=10.0)
FLAG = levels("flag", Kind.BINARY, 2, offset=0.25, scale=0.4)
GRADE = levels("grade", Kind.ORDINAL, 5, offset=2.0, scale=1.5)
CITY = levels("city", Kind.CATEGORICAL, 3)
TREE = levels("tree", Kind.CATEGORICAL, 4)


def test_numbers_enter_as_they_are_and_codes_standardised():
    values = torch.tensor([[1.5, 1.0, 4.0], [-0.2, 0.0, 1.0]])
    features = Embedding([NUMBER, FLAG, GRADE], masks=False)(values, None)
    expected = torch.tensor([[1.5, 0.75 / 0.4, 2 / 1.5], [-0.2, -0.25 / 0.4, -1 / 1.5]])
    torch.testing.assert_close(features, expected)


def test_missing_entries_are_zero_and_marked():
    columns = [NUMBER, GRADE]
    values = torch.tensor([[1.5, 4.0], [0.7, 0.0]])
    mask = torch.tensor([[True, False], [False, True]])
    features = Embedding(columns, masks=True)(values, mask)
    torch.testing.assert_close(features, torch.tensor([[1.5, 0.0, 1.0, 0.0], [0.0, -2 / 1.5, 0.0, 1.0]]))
    whole = Embedding(columns, masks=True)(values, None)
    torch.testing.assert_close(whole[:, 2:], torch.ones(2, 2))
    torch.testing.assert_close(whole, Embedding(columns, masks=True)(values, torch.ones(2, 2, dtype=torch.bool)))


def test_no_mask_features_where_nothing_is_ever_missing():
    assert Embedding([NUMBER, GRADE, CITY], masks=False, size=4).n_out == 2 + 4
    assert Embedding([NUMBER, GRADE, CITY], masks=True, size=4).n_out == 2 * 2 + 4


def test_categories_are_looked_up_each_in_its_own_table():
    embedding = Embedding([CITY, NUMBER, TREE], masks=False, size=2)
    vectors = embedding.vectors.weight  # three cities, missing, four trees, missing
    assert vectors.shape == (4 + 5, 2)
    values = torch.tensor([[0.0, 0.5, 3.0], [2.0, 0.5, 0.0]])
    features = embedding(values, None)
    assert features.shape == (2, embedding.n_out)
    torch.testing.assert_close(features[0], torch.cat([torch.tensor([0.5]), vectors[0], vectors[7]]))
    torch.testing.assert_close(features[1], torch.cat([torch.tensor([0.5]), vectors[2], vectors[4]]))


def test_a_missing_category_has_a_vector_of_its_own():
    embedding = Embedding([CITY, TREE], masks=True, size=2)
    vectors = embedding.vectors.weight
    mask = torch.tensor([[False, True], [True, False]])
    features = embedding(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), mask)
    torch.testing.assert_close(features[0], torch.cat([vectors[3], vectors[6]]))
    torch.testing.assert_close(features[1], torch.cat([vectors[1], vectors[8]]))


def test_hidden_values_do_not_matter():
    columns = [NUMBER, FLAG, CITY]
    embedding = Embedding(columns, masks=True)
    mask = torch.zeros(1, 3, dtype=torch.bool)
    one = embedding(torch.tensor([[3.0, 1.0, 2.0]]), mask)
    torch.testing.assert_close(one, embedding(torch.zeros(1, 3), mask))


def test_ten_thousand_levels_are_no_one_hot_matrix():
    embedding = Embedding([levels("city", Kind.CATEGORICAL, 10_000)], masks=True)
    assert embedding.n_out == 8
    assert sum(p.numel() for p in embedding.parameters()) == 10_001 * 8
    assert embedding(torch.tensor([[9_999.0]]), None).shape == (1, 8)
