"""What every part of a model shares: hyper-parameters first, parameters when it is bound to data."""

from __future__ import annotations

import copy
import inspect
from typing import Any, ClassVar, Self, TypeVar

from torch import nn


class Component(nn.Module):
    """A part of the model: network, likelihood, posterior, prior or objective.

    A component is made from hyper-parameters alone, stored under the names of the constructor's arguments, so
    that scikit-learn's `clone` and nested parameters (`prior__n_components`) work on it. An estimator takes a
    `fresh` copy and binds that to shapes and data at `fit`, which is when tensors are made.

    Attributes
    ----------
    alias : str
        The short name by which estimators accept it (`prior="normal"`).
    """

    alias: ClassVar[str] = ""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Hyper-parameters by name; with `deep`, those of nested components as `name__parameter`."""
        params = {name: getattr(self, name) for name in self._parameter_names()}
        if deep:
            for name, value in list(params.items()):
                if isinstance(value, Component):
                    params |= {f"{name}__{key}": nested for key, nested in value.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set hyper-parameters, nested ones as `name__parameter`."""
        for key, value in params.items():
            name, _, rest = key.partition("__")
            if name not in self._parameter_names():
                raise ValueError(f"{type(self).__name__} has no parameter '{name}'; it has {self._parameter_names()}")
            part = getattr(self, name)
            if not rest:
                if isinstance(part, nn.Module):
                    delattr(self, name)  # torch lets nothing but a module take a module's place
                setattr(self, name, value)
                continue
            if not isinstance(part, Component):
                raise ValueError(f"'{key}' asks for a parameter of {name}={part!r}, which is not a component object")
            part.set_params(**{rest: value})
        return self

    def fresh(self) -> Self:
        """An unbound copy with the same hyper-parameters."""
        return type(self)(**{name: copied(value) for name, value in self.get_params(deep=False).items()})

    def __repr__(self) -> str:
        signature = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params(deep=False).items()
            if isinstance(value, nn.Module) or value != signature[name].default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


Part = TypeVar("Part", bound=Component)


def copied(part: Any) -> Any:
    """A copy to be bound: fresh for a component, deep for a user's module (its weights are a start)."""
    if isinstance(part, Component):
        return part.fresh()
    return copy.deepcopy(part)


def choices(base: type[Part]) -> dict[str, type[Part]]:
    """All subclasses of `base` that have an alias, by alias."""
    found: dict[str, type[Part]] = {}
    pending = [base]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls.__dict__.get("alias"):
            found[cls.alias] = cls
    return found


def resolve(base: type[Part], value: Any, name: str) -> Part:
    """The component that a parameter stands for: a fresh copy of an object, or the class with that alias.

    Raises
    ------
    ValueError
        If `value` is neither.
    """
    if isinstance(value, base):
        return value.fresh()
    known = choices(base)
    if isinstance(value, str) and value in known:
        return known[value]()
    raise ValueError(
        f"{name}={value!r} is not understood; expected one of {sorted(known)} or a {base.__name__} object"
    )
