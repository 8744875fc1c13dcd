"""Fit pythae's VAE with a convolutional network to images; runs in the peer's environment. Arguments: a JSON
description. Writes reconstructions of the images to be tested and samples from N(0, I)."""

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
from pythae.samplers import NormalSampler
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn

logging.disable(logging.CRITICAL)


def stage(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, channels), nn.SiLU()]


class Encoder(BaseEncoder):
    """The layers of skvae's ConvNet for 28 × 28."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1),
            *stage(32),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            *stage(64),
            nn.Flatten(),
            nn.Linear(64 * 49, 256),
            nn.SiLU(),
        )
        self.mean = nn.Linear(256, latent_dim)
        self.log_var = nn.Linear(256, latent_dim)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        h = self.body(x)
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent_dim, 256),
            nn.SiLU(),
            nn.Linear(256, 64 * 49),
            nn.Unflatten(1, (64, 7, 7)),
            *stage(64),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            *stage(32),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.body(z))


task = json.loads(sys.argv[1])
torch.manual_seed(task["seed"])
torch.set_num_threads(task["threads"])
X = torch.from_numpy(np.load(task["train"]).astype(np.float32) / 255).reshape(-1, 1, 28, 28)
test = torch.from_numpy(np.load(task["test"]).astype(np.float32) / 255).reshape(-1, 1, 28, 28)
with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    model = VAE(
        VAEConfig(input_dim=(1, 28, 28), latent_dim=task["latent_dim"], reconstruction_loss="mse"),
        encoder=Encoder(task["latent_dim"]),
        decoder=Decoder(task["latent_dim"]),
    )
    config = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=task["epochs"],
        per_device_train_batch_size=task["batch_size"],
        learning_rate=task["learning_rate"],
        no_cuda=True,
        seed=task["seed"],
    )
    BaseTrainer(model, BaseDataset(X, torch.zeros(len(X))), training_config=config).train()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        pieces = [model.decoder(model.encoder(piece).embedding).reconstruction for piece in test.split(1000)]
        samples = NormalSampler(model).sample(num_samples=len(test), batch_size=500, return_gen=True)
    for name, images in (("reconstructed", torch.cat(pieces)), ("samples", samples)):
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).reshape(len(images), -1)
        np.save(task[name], pixels.cpu().numpy())
    print(json.dumps({"seconds": seconds}))
