"""What the estimators share: parameters and saving."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skvae import persistence
from skvae.data.image_schema import schema_from_dict
from skvae.estimators.making import PARTS, TrainsModel
from skvae.estimators.settings import Settings
from skvae.estimators.task import Task
from skvae.model import Network, Prior
from skvae.model.component import choices
from skvae.model.networks import Custom
from skvae.training import History
from skvae.training.engine import threads_for


class also_parameter:
    """Marks a method whose name is also that of a constructor's parameter.

    Reading the attribute gives the method; assigning to it sets the parameter, which `get_params` returns.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[..., Any]:
        return self.method.__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = value


class BaseVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainsModel):
    """Shared by all estimators of one model: what its parts are, its parameters, saving."""

    @property
    def _prior_of_bound(self) -> Prior:
        """The prior under which the bound was maximised at the end of training."""
        joint = self.history_.info.get("latent_density", {}).get("joint", False)
        return self.prior_ if joint else self.model_.prior

    @property
    def prior_(self) -> Prior:
        """p(z) of all that is generated, completed and scored: the density fitted to the latents after training, or
        the prior of training, `model_.prior`, where none was better."""
        return self.model_.density

    @contextlib.contextmanager
    def _answering(self, n_latents: int) -> Iterator[None]:
        """Where the fitted model is asked about `n_latents` latents: no gradients, one thread for small work."""
        n_weights = sum(p.numel() for p in self.model_.parameters())
        with torch.no_grad(), threads_for(n_latents * n_weights):
            yield

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    @property
    def encoder_(self) -> Any:
        """The trained encoder network; the copy of your own module, where you gave one."""
        return _unwrapped(self.model_.encoder)

    @property
    def decoder_(self) -> Any:
        """The trained decoder network; the copy of your own module, where you gave one."""
        return _unwrapped(self.model_.decoder)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with `deep`, those of components as `name__parameter`."""
        params = super().get_params(deep=deep)
        for name in params:
            if isinstance(inspect.getattr_static(type(self), name, None), also_parameter):
                params[name] = value = vars(self)[name]
                if deep and hasattr(value, "get_params"):
                    params = params | {f"{name}__{key}": nested for key, nested in value.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of components as `name__parameter`.

        Raises
        ------
        ValueError
            For an unknown parameter, or a nested one of something that has no parameters.
        """
        current = self.get_params(deep=False)
        for key in params:
            name, _, rest = key.partition("__")
            if not rest or name not in current:
                continue
            value = params.get(name, current[name])
            if not hasattr(value, "set_params"):
                known = choices(PARTS[name]) if name in PARTS else {}
                part = known.get(value) if isinstance(value, str) else None
                example = f"an object, for example {name}=skvae.{part.__name__}()" if part else "an object"
                what = ", which is a string" if isinstance(value, str) else ", which has no parameters"
                raise ValueError(
                    f"'{key}' asks for a parameter of {name}={value!r}{what}; give {name} as {example}, and then "
                    f"set '{key}'"
                )
        return super().set_params(**params)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Save the fitted estimator as a folder of JSON and safetensors; `skvae.load` reads it.

        The folder appears complete or not at all. No training row is stored in it, but what the columns are is:
        their names, levels, bounds, quantiles and repeated values. Of parts of your own the folder has the
        weights and the parameters, but no code: `load` asks you for their classes. Callbacks and a RandomState
        are not saved.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
            Whether an existing model at `path` may be replaced.

        Raises
        ------
        FileExistsError
            If `path` exists and `overwrite` is false, or is not a saved model.
        TypeError
            If a parameter, or one of a part, has no form in JSON.
        """
        check_is_fitted(self)
        persistence.save(self, Path(path), overwrite=overwrite)

    def _objective_tensors(self) -> dict[str, torch.Tensor]:
        """The objective's parameters and buffers; those of a loaded model wait until it is trained further."""
        return self._objective.state_dict() if self._saved_objective is None else self._saved_objective

    def _saved_state(self) -> dict[str, Any]:
        return {
            "schema": self.schema_.to_dict(),
            "settings": self.settings_,
            "history": self.history_.to_dict(),
            "noise_seed": self._noise_seed,
            "likelihood": {name: persistence.encode(part) for name, part in (self.likelihood_.chosen or {}).items()},
            "n_features_in": self.n_features_in_,
            "has_feature_names": hasattr(self, "feature_names_in_"),
            "task": None if self._task is None else self._task.to_dict(),
            "latent_density": persistence.encode(self.model_.latent_density),
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        schema = schema_from_dict(state["schema"])
        chosen = {name: persistence.decode(part) for name, part in state.get("likelihood", {}).items()}
        if state.get("task") is not None:
            self._task = Task.from_dict(state["task"])
        self._assemble(schema, Settings.from_dict(state["settings"]), state["noise_seed"], chosen)
        density = persistence.decode(state.get("latent_density"))
        if density is not None:
            self.model_.latent_density = density.bind(self.model_.latent_dim).requires_grad_(False).to(self._device)
        self.history_ = History.from_dict(state["history"])
        self.n_features_in_ = state["n_features_in"]
        if state["has_feature_names"]:
            self.feature_names_in_ = np.array([column.name for column in schema.columns], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return "history_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _unwrapped(part: Network) -> Any:
    return part.module if isinstance(part, Custom) else part
