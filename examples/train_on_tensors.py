"""Train on tensors of your own, measure, save and load.

Run: python examples/train_on_tensors.py
"""

import torch

import sae

generator = torch.Generator().manual_seed(0)
directions = torch.nn.functional.normalize(torch.randn(24, 32, generator=generator), dim=1)
vectors = ((torch.rand(45_000, 24, generator=generator) < 0.06) * (0.5 + torch.rand(45_000, 24, generator=generator))) @ directions

dictionary = sae.train(vectors[5_000:], sae.TopK(d_sae=48, k=2), batch_size=200)
print(sae.measure(dictionary, vectors[:5_000]))
found = (torch.nn.functional.normalize(dictionary.W_dec) @ directions.T).max(dim=0).values
print(f"{(found > 0.9).double().mean():.0%} of the planted directions are features")

sae.save_dictionary("my-dictionary", dictionary)
print(sae.load_dictionary("my-dictionary"))
