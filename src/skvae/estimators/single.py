"""What estimators made of one VAE share: fitting it, saving it, and what of it they pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted

from skvae import persistence
from skvae.estimators.parameters import TakesVAEParameters
from skvae.estimators.vae import VAE


class SingleVAE(TakesVAEParameters):
    """An estimator that is one VAE with another question first."""

    vae_: VAE

    def _refuse_images(self, instead: str) -> None:
        """Say what answers for images, whose pixels are not columns to look at one by one."""
        shape = self.get_params(deep=False)["image_shape"]
        if shape is not None:
            raise ValueError(
                f"image_shape={shape!r}: {type(self).__name__} is for tables; use "
                f"VAE(image_shape={shape!r}).{instead}, or pass the images as rows of a table, with image_shape=None"
            )

    def _fit_vae(self, X: Any, y: Any, sample_weight: Any, validation_data: Any = None) -> None:
        """Fit `vae_`, or train it further where `warm_start` asks for that."""
        goes_on = self.get_params(deep=False)["warm_start"] and self.__sklearn_is_fitted__()
        vae = self.vae_.set_params(**self._vae_params()) if goes_on else VAE(**self._vae_params())
        self.vae_ = vae.fit(X, y, sample_weight=sample_weight, validation_data=validation_data)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Save the fitted estimator as a folder of JSON and safetensors; see `VAE.save`."""
        check_is_fitted(self)
        persistence.save(self, Path(path), overwrite=overwrite)

    @property
    def model_(self) -> Any:
        """The torch module of the VAE."""
        return self.vae_.model_

    @property
    def history_(self) -> Any:
        """The training of the VAE."""
        return self.vae_.history_

    @property
    def schema_(self) -> Any:
        """The columns that the VAE knows, as seen at fit."""
        return self.vae_.schema_

    def _objective_tensors(self) -> dict[str, torch.Tensor]:
        return self.vae_._objective_tensors()

    @property
    def _saved_objective(self) -> Any:
        return self.vae_._saved_objective

    @_saved_objective.setter
    def _saved_objective(self, tensors: dict[str, torch.Tensor]) -> None:
        self.vae_._saved_objective = tensors

    def _saved_state(self) -> dict[str, Any]:
        return {"vae": self.vae_._saved_state()}

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.vae_ = VAE(**self._vae_params())
        self.vae_._restore_state(state["vae"])

    def __sklearn_is_fitted__(self) -> bool:
        return "vae_" in vars(self) and self.vae_.__sklearn_is_fitted__()
