"""Saving and loading: a folder of JSON and safetensors, from which no code is ever run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from skvae.exceptions import LoadError
from skvae.model.component import Component

FORMAT = 1
"""Version of the folder's layout; a reader refuses later ones."""

_DESCRIPTION, _WEIGHTS = "model.json", "weights.safetensors"


def save(estimator: Any, path: Path, *, overwrite: bool) -> None:
    """Write a fitted estimator to the folder `path`, which appears complete or not at all."""
    if path.exists():
        if not overwrite:
            raise FileExistsError(f"{path} exists; choose another path or pass overwrite=True")
        if not (path / _DESCRIPTION).is_file():
            raise FileExistsError(f"{path} is not a saved model and is not overwritten; choose another path")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {path.absolute().parent} does not exist; create it first")
    weights = save_tensors(
        {name: value.detach().cpu().contiguous().clone() for name, value in estimator.model_.state_dict().items()}
    )
    description = {
        "format": FORMAT,
        "estimator": type(estimator).__name__,
        "params": {name: encode(value) for name, value in estimator.get_params(deep=False).items()},
        "state": estimator._saved_state(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(description, ensure_ascii=False, indent=1)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.absolute().parent))
    try:
        new = temporary / "new"
        new.mkdir()
        (new / _WEIGHTS).write_bytes(weights)
        (new / _DESCRIPTION).write_text(text, encoding="utf-8")
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


def load(path: str | os.PathLike[str], *, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> Any:
    """Load an estimator saved by its `save` method.

    Parameters
    ----------
    path : str or path
        The folder.
    encoder, decoder : torch.nn.Module, optional
        Modules of the same architecture, for a model fitted with your own ones: their code is not in the
        folder, only their weights.

    Returns
    -------
    estimator
        It answers as the saved one did, bit for bit on the same machine.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    LoadError
        If the folder is damaged, incomplete, or was written by a later version.
    """
    from skvae import estimators

    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no saved model at {folder}")
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        version = description["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{folder / _DESCRIPTION} is missing or damaged ({error!r}); save the model again") from error
    if not isinstance(version, int) or version > FORMAT:
        raise LoadError(
            f"{folder} has format {version!r}, and this version of scikit-vae reads up to {FORMAT}; upgrade "
            "scikit-vae"
        )
    try:
        weights = (folder / _WEIGHTS).read_bytes()
    except OSError as error:
        raise LoadError(f"{folder / _WEIGHTS} is missing; copy the whole folder") from error
    if hashlib.sha256(weights).hexdigest() != description.get("weights_sha256"):
        raise LoadError(f"{folder / _WEIGHTS} is damaged or truncated (its checksum differs); copy the folder again")
    given = {"encoder": encoder, "decoder": decoder}
    try:
        cls = estimators.by_name(description["estimator"])
        params = {}
        for name, value in description["params"].items():
            if isinstance(value, dict) and "module" in value:
                if given.get(name) is None:
                    raise LoadError(
                        f"the model was fitted with {name}={value['module']}, your own module; pass one: "
                        f"skvae.load(path, {name}={value['module']}(…))"
                    )
                params[name] = given[name]
            else:
                params[name] = decode(value)
        estimator = cls(**params)
        estimator._restore_state(description["state"])
        estimator.model_.load_state_dict(load_tensors(weights))
    except LoadError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        raise LoadError(f"{folder} does not describe a model that this version can build: {error}") from error
    return estimator


def encode(value: Any) -> Any:
    """A parameter as JSON; what cannot be stored without code (callbacks, random generators) becomes None."""
    if isinstance(value, Component):
        params = {name: encode(nested) for name, nested in value.get_params(deep=False).items()}
        return {"component": type(value).__name__, "params": params}
    if isinstance(value, nn.Module):
        return {"module": type(value).__qualname__}
    if isinstance(value, Mapping):
        return {"pairs": [[encode(key), encode(nested)] for key, nested in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(nested) for nested in value]}
    if isinstance(value, list) and not any(callable(nested) for nested in value):
        return [encode(nested) for nested in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool)) else None


def decode(value: Any) -> Any:
    """The inverse of `encode`; components are looked up by name among those of the package."""
    if isinstance(value, list):
        return [decode(nested) for nested in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(decode(nested) for nested in value["tuple"])
    if "pairs" in value:
        return {decode(key): decode(nested) for key, nested in value["pairs"]}
    from skvae import model

    cls = getattr(model, value["component"]) if value["component"] in model.__all__ else None
    if not (isinstance(cls, type) and issubclass(cls, Component)):
        raise LoadError(f"the model uses a part named '{value['component']}', which scikit-vae does not have")
    return cls(**{name: decode(nested) for name, nested in value["params"].items()})
