"""Fit pythae's VAE with its own trainer; runs in the peer's environment. Arguments: a JSON description."""

import itertools
import json
import logging
import sys
import tempfile
import time

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn

logging.disable(logging.CRITICAL)


def mlp(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class Encoder(BaseEncoder):
    def __init__(self, n_features: int, hidden: list[int], latent_dim: int) -> None:
        super().__init__()
        self.body = mlp([n_features, *hidden])
        self.mean = nn.Linear(hidden[-1], latent_dim)
        self.log_var = nn.Linear(hidden[-1], latent_dim)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        h = self.body(x)
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self, n_features: int, hidden: list[int], latent_dim: int) -> None:
        super().__init__()
        self.body = mlp([latent_dim, *hidden[::-1]])
        self.out = nn.Linear(hidden[0], n_features)

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.out(self.body(z)))


task = json.loads(sys.argv[1])
X = torch.from_numpy(np.load(task["data"]).astype(np.float32))
shape = (X.shape[1], task["hidden"], task["latent_dim"])
with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    model = VAE(
        VAEConfig(input_dim=(X.shape[1],), latent_dim=task["latent_dim"], reconstruction_loss="mse"),
        encoder=Encoder(*shape),
        decoder=Decoder(*shape),
    )
    config = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=task["epochs"],
        per_device_train_batch_size=task["batch_size"],
        learning_rate=1e-3,
        no_cuda=True,
    )
    BaseTrainer(model, BaseDataset(X, torch.zeros(len(X))), training_config=config).train()
    print(json.dumps({"seconds": time.perf_counter() - start}))
