"""A table's likelihood is its columns' likelihoods, in whatever order they come."""

import pytest
import torch

from skvae.data.columns import Column, Kind
from skvae.model import Bernoulli, Categorical, Gaussian, Poisson, Table

S, B = 2, 4


def levels(name, kind, cardinality):
    return Column(name, kind, "str", levels=tuple(range(cardinality)))


COLUMNS = [
    Column("cm", Kind.CONTINUOUS, "float64", offset=170.0, scale=10.0),
    Column("age", Kind.INTEGER, "int64", offset=40.0, scale=12.0, lower=18.0, resolution=1.0),
    levels("smokes", Kind.BINARY, 2),
    levels("city", Kind.CATEGORICAL, 5),
    Column("born", Kind.DATE, "datetime64", offset=1e15, scale=1e14),
    levels("grade", Kind.ORDINAL, 7),
]
ORDERS = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 2, 4, 1], [2], [0, 4], [4, 3, 0]]


def own_params(table: Table, params: torch.Tensor, position: int, column: Column) -> torch.Tensor:
    """The decoder outputs of one column, picked by hand."""
    start = 0
    for k, part in enumerate(table.parts):
        members = table.get_buffer(f"positions_{k}").tolist()
        piece = params[..., start : start + part.n_params]
        start += part.n_params
        if position not in members:
            continue
        j = members.index(position)
        if isinstance(part, Gaussian):
            return piece[..., [j, len(members) + j]]
        if isinstance(part, Bernoulli):
            return piece[..., [j]]
        return piece.unflatten(-1, part.shape)[..., j, : column.cardinality]
    raise AssertionError


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_any_order_of_columns_equals_them_one_by_one(order):
    columns = [COLUMNS[j] for j in order]
    table = Table().bind(columns)
    params = torch.randn(S, B, table.n_params)
    u = torch.rand(S, B, len(columns))
    weights = torch.full((S, B), 1 / S)
    whole = table(params)
    values = whole.icdf(u)[0]
    for c, column in enumerate(columns):
        alone = Table().bind([column])(own_params(table, params, c, column))
        one = slice(c, c + 1)
        torch.testing.assert_close(whole.log_prob(values)[..., one], alone.log_prob(values[:, one]))
        torch.testing.assert_close(whole.cdf(values)[..., one], alone.cdf(values[:, one]))
        torch.testing.assert_close(whole.icdf(u)[..., one], alone.icdf(u[..., one]))
        torch.testing.assert_close(whole.mean[..., one], alone.mean)
        torch.testing.assert_close(whole.centre(weights)[..., one], alone.centre(weights))


def parts_by_column(likelihood, columns):
    table = Table(likelihood).bind(columns)
    found = {}
    for k, part in enumerate(table.parts):
        for position in table.get_buffer(f"positions_{k}").tolist():
            found[columns[position].name] = part
    return found


def test_auto_chooses_by_kind():
    parts = parts_by_column("auto", COLUMNS)
    assert {name: type(part) for name, part in parts.items()} == {
        "cm": Gaussian,
        "age": Gaussian,
        "born": Gaussian,
        "smokes": Bernoulli,
        "city": Categorical,
        "grade": Categorical,
    }
    assert [parts[name].rounded for name in ("cm", "age", "born")] == [False, True, False]
    assert [parts[name].scale for name in ("cm", "age", "born")] == ["row"] * 3


def test_a_mapping_by_name_goes_before_one_by_kind():
    columns = [Column(name, Kind.CONTINUOUS, "float64") for name in "abc"] + [levels("flag", Kind.BINARY, 2)]
    parts = parts_by_column({"continuous": Gaussian("column"), "b": "gaussian", "binary": "categorical"}, columns)
    assert parts["a"] is parts["c"]
    assert [parts[name].scale for name in "abc"] == ["column", "shared", "column"]
    assert isinstance(parts["flag"], Categorical)


@pytest.mark.parametrize("same", [True, False])
def test_a_shared_scale_is_shared_within_one_entry_of_a_mapping(same):
    """Whether or not the entries hold the same object, which saving would forget."""
    columns = [Column(name, Kind.CONTINUOUS, "float64") for name in "abcd"]
    first = Gaussian("shared")
    second = first if same else Gaussian("shared")
    table = Table({"a": first, "b": second, "continuous": "gaussian"}).bind(columns)
    assert sorted(table.get_buffer(f"positions_{k}").tolist() for k in range(3)) == [[0], [1], [2, 3]]
    assert sum(p.numel() for p in table.parameters()) == 3
    for k, part in enumerate(table.parts):
        torch.nn.init.constant_(part.log_scale, float(k))
    log_p = table(torch.zeros(1, 1, 4)).log_prob(torch.zeros(1, 4))[0, 0]
    assert len(set(log_p.tolist())) == 3
    assert log_p[2] == log_p[3]


def test_what_is_learned_per_column_is_computed_together_whoever_asked_for_it():
    columns = [Column(name, Kind.CONTINUOUS, "float64") for name in "abcd"]
    entries = {"a": Gaussian("column"), "b": Gaussian("column"), "c": Gaussian("row"), "d": Gaussian("row")}
    table = Table(entries).bind(columns)
    assert [table.get_buffer(f"positions_{k}").tolist() for k in range(len(table.parts))] == [[0, 1], [2, 3]]


def test_what_is_chosen_fills_what_is_left_to_auto():
    """And only that: a column that bears the name of a kind speaks for itself alone."""
    columns = [
        Column("a", Kind.INTEGER, "int64", offset=2.0, scale=1.0, lower=0.0, upper=9.0, resolution=1.0),
        Column("b", Kind.INTEGER, "int64", offset=2.0, scale=1.0, lower=0.0, upper=9.0, resolution=1.0),
        Column("binary", Kind.INTEGER, "int64", offset=2.0, scale=1.0, lower=0.0, upper=9.0, resolution=1.0),
        levels("flag", Kind.BINARY, 2),
    ]
    table = Table({"b": "negative-binomial"}, {"a": Poisson(), "b": Poisson(), "binary": Poisson()})
    assert [column.name for column in table.undecided(columns)] == ["a", "binary", "flag"]
    table.bind(columns)
    assert repr(table).splitlines() == [
        "Table of 4 columns",
        "  Poisson(): 'a', 'binary'",
        "  NegativeBinomial(): 'b'",
        "  Bernoulli(): 'flag'",
    ]
    assert Table("gaussian").undecided(columns) == []
    assert Table({"integer": "auto"}).undecided(columns) == columns


def test_log_cell_prob_joins_the_columns():
    table = Table({"cm": "gaussian"}).bind(COLUMNS)
    distribution = table(torch.randn(S, B, table.n_params))
    values, half = distribution.icdf(torch.rand(S, B, 6))[0], torch.linspace(0.01, 0.06, 6)
    log_p = distribution.log_cell_prob(values, half)
    is_mass = torch.tensor([False, True, True, True, False, True])
    torch.testing.assert_close(log_p[..., is_mass], distribution.log_prob(values)[..., is_mass])
    mass = distribution.cdf(values + half) - distribution.cdf(values - half)
    torch.testing.assert_close(log_p[..., ~is_mass].exp(), mass[..., ~is_mass], rtol=1e-3, atol=1e-5)


def test_one_likelihood_for_all_columns_is_computed_at_once():
    columns = [Column(name, Kind.CONTINUOUS, "float64") for name in "abc"]
    likelihood = Gaussian("shared")
    table = Table(likelihood).bind(columns)
    assert len(table.parts) == 1
    assert table.parts[0] is not likelihood
    assert table.order is None
    assert sum(p.numel() for p in table.parameters()) == 1


@pytest.mark.parametrize(
    ("likelihood", "column", "message"),
    [
        ("gaussian", COLUMNS[3], r"likelihood Gaussian\(\) cannot score column 'city' \(categorical\)"),
        (
            "bernoulli",
            COLUMNS[0],
            r"likelihood Bernoulli\(\) cannot score column 'cm' \(continuous\); it scores binary",
        ),
        ("categorical", COLUMNS[1], r"cannot score column 'age' \(integer\); it scores binary, categorical, ordinal"),
        (Gaussian(rounded=True), COLUMNS[0], r"Gaussian\(rounded=True\) cannot score column 'cm'"),
        ({"city": "bernoulli"}, COLUMNS[3], "cannot score column 'city'"),
        ({"town": "bernoulli"}, COLUMNS[3], "names 'town', which is neither a column that varies nor a kind"),
        ("poison", COLUMNS[1], "likelihood='poison' is not understood; expected one of .*'bernoulli'.*'gaussian'"),
    ],
)
def test_what_cannot_be_scored_is_named(likelihood, column, message):
    with pytest.raises(ValueError, match=message):
        Table(likelihood).bind([column])


@pytest.mark.parametrize(
    ("likelihood", "kinds"),
    [
        ("auto", set(Kind)),
        ({"a": "gaussian"}, set(Kind)),
        ("gaussian", {Kind.CONTINUOUS, Kind.INTEGER, Kind.DATE}),
        (Gaussian(rounded=True), {Kind.INTEGER}),
        ("bernoulli", {Kind.BINARY}),
        (Categorical(), {Kind.BINARY, Kind.CATEGORICAL, Kind.ORDINAL}),
    ],
    ids=["auto", "mapping", "gaussian", "rounded", "bernoulli", "categorical"],
)
def test_kinds_that_can_be_scored(likelihood, kinds):
    assert Table(likelihood).kinds == kinds


def test_cost_grows_with_the_number_of_kinds_not_of_columns():
    for n in (2, 50):
        columns = [column for column in COLUMNS for _ in range(n)]
        assert len(Table().bind(columns).parts) == len(Table().bind(COLUMNS).parts)
