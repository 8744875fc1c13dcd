"""The parameters of VAE, which the estimators made of one take too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Self

from skvae.estimators.reading import TakesTables
from skvae.estimators.vae import VAE
from skvae.model import ELBO, Neighbours, Objective

# Of the term by which rows that are neighbours come together in the latent space; chosen on blobs and digits. More
# neighbours bridge clusters of a hundred rows or two.
_ATTRACTION, _SCALE, _NEIGHBOURS = 4.0, 1.0, 5


def if_open(value: Any, settled: Any) -> Any:
    """A parameter, or what it is settled to if it was left on "auto"."""
    return settled if isinstance(value, str) and value == "auto" else value


def grouping() -> Objective:
    """The objective of a VAE whose latents are to fall into groups, if none is given."""
    return ELBO() + Neighbours(n_neighbors=_NEIGHBOURS, attraction=_ATTRACTION, scale=_SCALE)


def takes_parameters_of(parent: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a constructor that stores its own keyword parameters and all those of `parent`'s."""

    def decorate(own: Callable[..., None]) -> Callable[..., None]:
        mine = list(inspect.signature(own).parameters.values())
        names = {parameter.name for parameter in mine}
        theirs = [p for p in inspect.signature(parent.__init__).parameters.values() if p.name not in names]  # type: ignore[misc]
        parameters = [*mine, *theirs]

        def construct(self: Any, **given: Any) -> None:
            unknown = set(given) - {parameter.name for parameter in parameters[1:]}
            if unknown:
                raise TypeError(f"{type(self).__name__} has no parameter '{sorted(unknown)[0]}'")
            for parameter in parameters[1:]:
                setattr(self, parameter.name, given.get(parameter.name, parameter.default))

        functools.update_wrapper(construct, own)
        described: Any = construct
        described.__signature__ = inspect.Signature(parameters)
        return construct

    return decorate


class TakesVAEParameters(TakesTables):
    """An estimator that makes a VAE of those of its parameters that are a VAE's."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of components as `name__parameter`; see `VAE.set_params`."""
        ours, current = self._vae_params(), self.get_params(deep=False)
        for key in params:
            name, _, rest = key.partition("__")
            value = params.get(name, current.get(name))
            if rest and name in current and name not in ours and not hasattr(value, "set_params"):
                raise ValueError(
                    f"'{key}' asks for a parameter of {name}={value!r}, which has no parameters; set {name} itself, "
                    "or give it as an object"
                )
        # VAE says what is wrong with its own.
        VAE(**ours).set_params(**{key: value for key, value in params.items() if key.partition("__")[0] in ours})
        return super().set_params(**params)

    def _vae_params(self) -> dict[str, Any]:
        names = inspect.signature(VAE.__init__).parameters
        params = self.get_params(deep=False)
        return {name: params[name] for name in list(names)[1:]}
