"""Directories as other libraries write them, made by hand: a configuration and drawn weights."""

import json

import torch
from safetensors.torch import save_file

WIDTH, FEATURES = 8, 32
VECTORS = {"relu": ("b_enc",), "topk": ("b_enc",), "jumprelu": ("b_enc", "threshold"), "gated": ("b_gate", "b_mag", "r_mag")}


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def saelens_tensors(rule="relu", d_out=WIDTH):
    tensors = {"W_enc": drawn(WIDTH, FEATURES), "W_dec": drawn(FEATURES, d_out), "b_dec": drawn(d_out)}
    return tensors | {name: drawn(FEATURES + index).abs()[:FEATURES].clone() * 0.3 for index, name in enumerate(VECTORS[rule])}


def saelens_directory(path, config=None, tensors=None):
    """A directory of SAELens; `config` is added to the least that a configuration of release 5 holds."""
    path.mkdir(parents=True)
    plain = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu"} | (config or {})
    (path / "cfg.json").write_text(json.dumps({key: value for key, value in plain.items() if value != "absent"}))
    save_file(tensors or saelens_tensors(), path / "sae_weights.safetensors")
    return path


def version_6(**metadata):
    return {"architecture": "standard", "metadata": {"sae_lens_version": "6.54.12"} | metadata}


def sparsify_directory(path, config=None):
    path.mkdir(parents=True)
    plain = {"activation": "topk", "expansion_factor": 4, "normalize_decoder": True, "num_latents": 0, "k": 5, "multi_topk": False, "d_in": WIDTH}
    (path / "cfg.json").write_text(json.dumps(plain | (config or {})))
    tensors = {"encoder.weight": drawn(FEATURES, WIDTH), "encoder.bias": drawn(FEATURES), "W_dec": drawn(FEATURES, WIDTH), "b_dec": drawn(WIDTH)}
    save_file(tensors, path / "sae.safetensors")
    return path


def dictionary_learning_directory(path, trainer=None, buffer=None, tensors=None):
    path.mkdir(parents=True)
    plain = {"dict_class": "AutoEncoder", "trainer_class": "StandardTrainer", "activation_dim": WIDTH, "dict_size": FEATURES, "lr": 1e-3}
    (path / "config.json").write_text(json.dumps({"trainer": plain | (trainer or {}), "buffer": buffer or {"ctx_len": 128, "io": "out"}}))
    torch.save(tensors or linear_tensors(), path / "ae.pt")
    return path


def linear_tensors():
    return {"encoder.weight": drawn(FEATURES, WIDTH), "decoder.weight": drawn(WIDTH, FEATURES), "encoder.bias": drawn(FEATURES), "bias": drawn(WIDTH)}
