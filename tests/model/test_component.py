"""Hyper-parameters: read, set, nested, cloned, printed; and the names that stand for parts."""

import pytest
from sklearn.base import clone
from torch import nn

from skvae.model import (
    ELBO,
    MLP,
    AutoregressivePrior,
    Bernoulli,
    Categorical,
    Component,
    ContinuousBernoulli,
    ConvNet,
    DiagonalNormal,
    FlowMatchingPrior,
    Gaussian,
    Likelihood,
    Network,
    Objective,
    OrientedGradients,
    Posterior,
    Prior,
    ResidualConvNet,
    ResidualMLP,
    StandardNormal,
    Table,
)
from skvae.model.component import choices, copied, resolve
from skvae.model.networks import Custom

PARTS = [
    ELBO(beta=2.0, warm_up=0.1),
    MLP((3, 4), activation="tanh"),
    ResidualMLP(width=8, n_blocks=1),
    ConvNet((8, 16), width=4),
    ResidualConvNet(n_blocks=2),
    OrientedGradients(MLP((3,))),
    ContinuousBernoulli(),
    Custom(nn.Linear(2, 3)),
    Gaussian("row"),
    Bernoulli(),
    Categorical(),
    Table(Gaussian("column")),
    Table({"a": Gaussian("column")}),
    DiagonalNormal(),
    StandardNormal(),
    AutoregressivePrior(3, hidden_size=8),
    FlowMatchingPrior(8, n_steps=4),
]
every_part = pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)


@every_part
def test_clone_by_scikit_learn(part):
    twin = clone(part)
    assert twin is not part
    assert type(twin) is type(part)
    assert repr(twin) == repr(part)
    for name, value in part.get_params(deep=False).items():
        if isinstance(value, (nn.Module, dict)):
            assert twin.get_params(deep=False)[name] is not value


@every_part
def test_fresh_copies_are_unbound(part):
    twin = part.fresh()
    assert twin is not part
    assert repr(twin) == repr(part)


def test_fresh_after_binding_shares_nothing():
    bound = MLP((3,)).bind(2)
    assert not list(bound.fresh().parameters())


@every_part
def test_parameters_are_those_of_the_constructor(part):
    names = part.get_params(deep=False)
    assert type(part)(**names).get_params(deep=False).keys() == names.keys()


def test_nested_parameters():
    table = Table(Gaussian("column"))
    assert table.get_params()["likelihood__scale"] == "column"
    table.set_params(likelihood__scale="row", likelihood__rounded=True)
    assert (table.likelihood.scale, table.likelihood.rounded) == ("row", True)


def test_a_part_gives_way_to_a_name_and_back():
    table = Table(Gaussian("column"))
    assert table.set_params(likelihood="auto").likelihood == "auto"
    assert isinstance(table.set_params(likelihood=Bernoulli()).likelihood, Bernoulli)
    assert table.set_params(likelihood={"a": "gaussian"}).likelihood == {"a": "gaussian"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 1}, r"ELBO has no parameter 'gamma'; it has \['beta', .*'n_draws'\]"),
        ({"kl__weight": 1}, r"'kl__weight' asks for a parameter of kl='auto', which is not a component object"),
    ],
)
def test_parameters_that_do_not_exist(params, message):
    with pytest.raises(ValueError, match=message):
        ELBO().set_params(**params)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (ELBO(), "ELBO()"),
        (ELBO(beta=2.0), "ELBO(beta=2.0)"),
        (MLP([5], dropout=0.1), "MLP(hidden_sizes=[5], dropout=0.1)"),
        (Table(Gaussian("row")), "Table(likelihood=Gaussian(scale='row'))"),
        (Table({"a": Bernoulli()}), "Table(likelihood={'a': Bernoulli()})"),
    ],
    ids=str,
)
def test_repr_shows_what_was_changed(part, text):
    assert repr(part) == text


def test_a_part_of_the_users_own_needs_no_constructor():
    class Own(StandardNormal):
        pass

    class Bare(Component):
        pass

    assert Own().get_params() == {}
    assert Bare().get_params() == {}
    assert repr(Bare().fresh()) == "Bare()"


@pytest.mark.parametrize(
    ("base", "alias", "cls"),
    [
        (Objective, "elbo", ELBO),
        (Network, "mlp", MLP),
        (Network, "residual", ResidualMLP),
        (Network, "conv", ConvNet),
        (Network, "residual-conv", ResidualConvNet),
        (Likelihood, "gaussian", Gaussian),
        (Likelihood, "bernoulli", Bernoulli),
        (Likelihood, "categorical", Categorical),
        (Posterior, "diagonal", DiagonalNormal),
        (Prior, "normal", StandardNormal),
    ],
)
def test_names_stand_for_parts(base, alias, cls):
    assert choices(base)[alias] is cls
    assert type(resolve(base, alias, "part")) is cls
    part = cls()
    assert resolve(base, part, "part") is not part


@pytest.mark.parametrize("value", ["gauss", 3, None, StandardNormal, ELBO()], ids=str)
def test_what_stands_for_no_part_lists_the_choices(value):
    with pytest.raises(
        ValueError, match=r"prior=.* is not understood; expected one of \[.*'normal'.*\] or a Prior object"
    ):
        resolve(Prior, value, "prior")


def test_a_copied_module_keeps_its_weights_and_a_component_does_not():
    linear = nn.Linear(2, 3)
    twin = copied(linear)
    assert twin is not linear
    assert (twin.weight == linear.weight).all()
    assert not list(copied(MLP((3,)).bind(2)).parameters())
