# An architecture of your own: ReLU features with a penalty on their squared sum. Run: python examples/own_architecture.py

from typing import Literal

import torch

import sae
from sae.architectures.base import FIRST_STEP, Dictionary
from sae.config import Config


class SquaredConfig(Config):
    architecture: Literal["squared"] = "squared"
    d_sae: int = 64
    coefficient: float = 0.01


class SquaredDictionary(Dictionary):
    @torch.no_grad()
    def initialize(self, b_dec, generator):
        self.draw_directions(generator)
        self.b_dec.copy_(b_dec)

    def features(self, scaled, workers=None):
        return torch.relu((scaled - self.b_dec) @ self.W_enc + self.b_enc)

    def training_pass(self, x, context=FIRST_STEP):
        features = self.features(scaled := self.scaled(x))
        error = (scaled - (decoded := self.decode_scaled(features))).square().sum(dim=1).mean()
        return self.result({"error": error, "sparsity": self.config.coefficient * features.sum(dim=1).square().mean()}, decoded, features)


sae.register("squared", SquaredConfig, SquaredDictionary)
vectors = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0)).relu()
dictionary = sae.train(vectors, SquaredConfig(), batch_size=500, epochs=20)
sae.save_dictionary("squared", dictionary)
print(sae.load_dictionary("squared"), sae.measure(dictionary, vectors))
