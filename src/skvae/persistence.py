"""Saving and loading: a folder of JSON and safetensors, from which no code is ever run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from skvae.exceptions import LoadError
from skvae.model.component import Component, choices
from skvae.training.engine import choose_device

FORMAT = 1
"""Version of the folder's layout; a reader refuses later ones."""

_DESCRIPTION, _WEIGHTS = "model.json", "weights.safetensors"
_NETWORKS = ("encoder", "decoder")
_OBJECTIVE = "objective."  # in front of the names of the objective's tensors; the others are the model's

# The caller's own classes by import path, while a model is loaded.
_OWN_PARTS: ContextVar[Mapping[str, type[Component]]] = ContextVar("_OWN_PARTS", default={})  # noqa: B039


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a model cannot be saved to."""
    if path.exists():
        if not overwrite:
            raise FileExistsError(f"{path} exists; choose another path or pass overwrite=True")
        if not (path / _DESCRIPTION).is_file():
            raise FileExistsError(f"{path} is not a saved model and is not overwritten; choose another path")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {path.absolute().parent} does not exist; create it first")


def save(estimator: Any, path: Path, *, overwrite: bool) -> None:
    """Write a fitted estimator to the folder `path`, which appears complete or not at all."""
    check_target(path, overwrite=overwrite)
    tensors = dict(estimator.model_.state_dict())
    tensors |= {_OBJECTIVE + name: value for name, value in estimator._objective_tensors().items()}
    weights = save_tensors({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
    model = {
        "estimator": type(estimator).__name__,
        "params": {name: _parameter(name, value) for name, value in estimator.get_params(deep=False).items()},
        "state": estimator._saved_state(),
    }
    description = {"format": FORMAT, "sha256": _checksum(model, weights), "model": model}
    text = json.dumps(description, ensure_ascii=False, indent=1)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.absolute().parent))
    try:
        new = temporary / "new"
        new.mkdir()
        (new / _WEIGHTS).write_bytes(weights)
        (new / _DESCRIPTION).write_bytes(text.encode())
        if path.exists():
            path.rename(temporary / "old")
        try:
            new.rename(path)
        except OSError:
            if (temporary / "old").exists():
                (temporary / "old").rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(
    path: str | os.PathLike[str],
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    parts: Sequence[type[Component]] | Mapping[str, type[Component]] = (),
) -> Any:
    """Load an estimator saved by its `save` method.

    Parameters
    ----------
    path : str or path
        The folder.
    encoder, decoder : torch.nn.Module, optional
        Modules of the same architecture, for a model fitted with your own ones: their code is not in the
        folder, only their weights.
    parts : sequence of classes, or mapping of import path to class
        The classes of your own that the model may use as prior, likelihood, objective and so on. The folder
        names them by import path ("package.module:Class"), and none is imported for being named there: those
        not given here are refused. A mapping gives classes that have moved since, under their old path.

    Returns
    -------
    estimator
        It answers as the saved one did, bit for bit on the same machine.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    LoadError
        If the folder is damaged, incomplete, or was written by a later version, if it uses a class that `parts`
        lacks, or if `encoder` or `decoder` is missing, not asked for, or of another architecture.
    TypeError
        If `parts` holds something else than classes of components.
    """
    from skvae import estimators

    folder = Path(path)
    own_parts = _by_path(parts)
    model, weights = _read(folder)
    before = _OWN_PARTS.set(own_parts)
    try:
        if model["estimator"] not in estimators.__all__:
            raise LoadError(f"{folder} holds a '{model['estimator']}', an estimator that scikit-vae does not have")
        given = {"encoder": encoder, "decoder": decoder}
        params = {
            name: _own_module(name, given[name], value) if name in _NETWORKS else decode(value)
            for name, value in model["params"].items()
        }
        params["device"] = _available(params["device"])
        estimator = estimators.by_name(model["estimator"])(**params)
        estimator._restore_state(model["state"])
        tensors = load_tensors(weights)
        objective = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_OBJECTIVE)}
        estimator.model_.load_state_dict(tensors)
        estimator._saved_objective = {name.removeprefix(_OBJECTIVE): value for name, value in objective.items()}
    except LoadError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        what = " with the modules and parts given" if encoder is not None or decoder is not None or own_parts else ""
        raise LoadError(f"{folder} does not describe a model that can be built{what}: {error}") from error
    finally:
        _OWN_PARTS.reset(before)
    return estimator


def _by_path(parts: Sequence[type[Component]] | Mapping[str, type[Component]]) -> dict[str, type[Component]]:
    """The caller's classes by import path."""
    classes = list(parts.values() if isinstance(parts, Mapping) else parts)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Component)):
            raise TypeError(f"parts holds {cls!r}; expected classes of your own: skvae.load(path, parts=[MyPrior])")
    return dict(parts) if isinstance(parts, Mapping) else {_import_path(cls): cls for cls in classes}


def _import_path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Description and weights of a model, checked against each other."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no saved model at {folder}")
    try:
        description = json.loads((folder / _DESCRIPTION).read_bytes())
        version = description["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LoadError(f"{folder / _DESCRIPTION} is missing or damaged ({error!r}); save the model again") from error
    if not (isinstance(version, int) and 1 <= version <= FORMAT):
        raise LoadError(
            f"{folder} has format {version!r}, and this version of scikit-vae reads 1 to {FORMAT}; upgrade scikit-vae"
        )
    try:
        weights = (folder / _WEIGHTS).read_bytes()
    except OSError as error:
        raise LoadError(f"{folder / _WEIGHTS} is missing; copy the whole folder") from error
    model = description.get("model")
    if not isinstance(model, dict) or _checksum(model, weights) != description.get("sha256"):
        raise LoadError(f"{folder} is damaged or was edited (its checksum differs); copy it again or save it anew")
    return model, weights


def _checksum(model: dict[str, Any], weights: bytes) -> str:
    return hashlib.sha256(json.dumps(model).encode() + weights).hexdigest()


def _parameter(name: str, value: Any) -> Any:
    """A constructor's parameter as JSON; the user's own module as its class name, which `load` asks for."""
    if name == "callbacks" or isinstance(value, np.random.RandomState):
        return None
    if name in _NETWORKS and isinstance(value, nn.Module) and not isinstance(value, Component):
        return {"module": type(value).__qualname__}
    try:
        return encode(_with_own_parts(name, value))
    except TypeError as error:
        raise TypeError(f"{name}={value!r} cannot be saved: {error}") from error


def _with_own_parts(name: str, value: Any) -> Any:
    """The parameter with objects for aliases of the user's own classes, which `load` then asks for."""
    from skvae.estimators.making import PARTS

    if isinstance(value, Mapping):
        return {key: _with_own_parts(name, nested) for key, nested in value.items()}
    cls = choices(PARTS[name]).get(value) if name in PARTS and isinstance(value, str) else None
    return value if cls is None or _is_ours(cls) else cls()


def _own_module(name: str, module: nn.Module | None, stored: Any) -> Any:
    """The parameter `name`: as stored, or the module given by the caller where the model had one of its own."""
    is_module = isinstance(stored, dict) and "module" in stored
    is_own = is_module or (isinstance(stored, dict) and ":" in stored.get("component", ""))
    if module is None:
        if is_module:
            raise LoadError(
                f"the model was fitted with {name}={stored['module']}, your own module; pass one: "
                f"skvae.load(path, {name}={stored['module']}(…))"
            )
        return decode(stored)
    if not is_own:
        raise LoadError(f"the model was not fitted with a module of yours as {name}; leave {name} out")
    return module


def _available(device: str) -> str:
    try:
        torch.empty(0, device=choose_device(device))
    except (RuntimeError, AssertionError):
        warnings.warn(f"the model was fitted with device='{device}', which is not here; using 'auto'", stacklevel=3)
        return "auto"
    return device


def encode(value: Any) -> Any:
    """A parameter as JSON; a part of the user's own class by the import path of the class.

    Raises
    ------
    TypeError
        For what cannot be stored without code.
    """
    if isinstance(value, Component):
        cls = type(value)
        params = {name: encode(nested) for name, nested in value.get_params(deep=False).items()}
        return {"component": cls.__name__ if _is_ours(cls) else _import_path(cls), "params": params}
    if isinstance(value, Mapping):
        return {"pairs": [[encode(key), encode(nested)] for key, nested in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(nested) for nested in value]}
    if isinstance(value, list):
        return [encode(nested) for nested in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return encode(value.tolist())
    if isinstance(value, torch.device):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def decode(value: Any) -> Any:
    """The inverse of `encode`; components are looked up by name among those of the package, and by import path
    among those that the caller of `load` gave."""
    if isinstance(value, list):
        return [decode(nested) for nested in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(decode(nested) for nested in value["tuple"])
    if "pairs" in value:
        return {decode(key): decode(nested) for key, nested in value["pairs"]}
    cls = _component(value["component"])
    return cls(**{name: decode(nested) for name, nested in value["params"].items()})


def _component(name: str) -> type[Component]:
    """The class that a saved model names; nothing is imported."""
    from skvae import model

    if ":" in name:
        given = _OWN_PARTS.get()
        if name in given:
            return given[name]
        short = name.rpartition(":")[2].rpartition(".")[2]
        moved = [path for path, cls in given.items() if cls.__name__ == short]
        remedy = f"parts={{'{name}': {short}}}), if {moved[0]} is the same" if moved else f"parts=[{short}])"
        raise LoadError(
            f"the model uses {short}, a class of your own ({name}), whose code is not stored; pass it: "
            f"skvae.load(path, {remedy}"
        )
    cls = getattr(model, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Component) and _is_ours(cls)):
        raise LoadError(f"the model uses a part named '{name}', which scikit-vae does not have")
    return cls


def _is_ours(cls: type) -> bool:
    from skvae import model

    return cls.__name__ in model.__all__ and getattr(model, cls.__name__) is cls
