"""Run by the peers' interpreter: SAELens, dictionary_learning and sparsify load what Monosem exported, and make what it imports."""

import json
from pathlib import Path

import torch
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig

from tests.benchmarks.peers import serve


def answer(action: str, layout: str, directory: str, tensors: str, kind: str = "") -> dict:
    """`load` or `make` a dictionary at `directory`; features and reconstruction of `x` go into the file `tensors`."""
    with torch.no_grad():
        torch.manual_seed(0)
        x = load_file(tensors)["x"]
        library = {"saelens": SAELens, "dictionary_learning": DictionaryLearning, "sparsify": Sparsify}[layout]
        if action == "make":
            library.make(Path(directory), kind, x.shape[1])
        features, reconstruction = library.apply(directory, x)
        save_file({"x": x, "features": features.contiguous(), "reconstruction": reconstruction.contiguous()}, tensors)
    return {}


def shake(module: torch.nn.Module) -> None:
    """Weights as training leaves them: nothing zero, nothing of unit norm, no encoder that is the decoder's transpose."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape) * 0.1
        parameter.copy_(noise.abs() if name == "threshold" else parameter + noise)


class SAELens:
    @staticmethod
    def make(directory: Path, kind: str, width: int) -> None:
        extra = {"topk": {"k": 6, "rescale_acts_by_decoder_norm": True}}.get(kind, {})
        config = {"architecture": kind, "d_in": width, "d_sae": 4 * width, "dtype": "float32", "device": "cpu", **extra}
        config |= {
            "apply_b_dec_to_input": kind != "transcoder",
            "normalize_activations": "none",
            "metadata": {"hook_name": "blocks.3.hook_resid_post"},
        }
        sae = SAE.from_dict(config | ({"d_out": width + 8} if kind == "transcoder" else {}))
        shake(sae)
        sae.save_model(directory)

    @staticmethod
    def apply(directory: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sae = SAE.load_from_disk(directory)
        features = sae.encode(x)
        return features, sae.decode(features)


class DictionaryLearning:
    @staticmethod
    def make(directory: Path, kind: str, width: int) -> None:
        from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
        from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
        from dictionary_learning.trainers.top_k import AutoEncoderTopK

        known = (AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, BatchTopKSAE, MatryoshkaBatchTopKSAE, AutoEncoderTopK)
        dict_class = {each.__name__: each for each in known}[kind]
        extra = {"k": 6} if "TopK" in kind else {}
        extra |= {"group_sizes": [width, 3 * width]} if "Matryoshka" in kind else {}
        dictionary = dict_class(width, 4 * width, **extra)
        shake(dictionary)
        if "BatchTopK" in kind:
            dictionary.threshold.fill_(0.3)
        directory.mkdir(parents=True)
        torch.save(dictionary.state_dict(), directory / "ae.pt")
        trainer = {"dict_class": kind, "activation_dim": width, "dict_size": 4 * width, "lm_name": "a/model", "submodule_name": "resid_post_layer_3"}
        (directory / "config.json").write_text(json.dumps({"trainer": trainer | ({"k": 6} if "TopK" in kind else {}), "buffer": {"ctx_len": 128}}))

    @staticmethod
    def apply(directory: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dictionary, _ = load_dictionary(directory, "cpu")
        features = dictionary.encode(x)
        return features, dictionary.decode(features)


class Sparsify:
    @staticmethod
    def make(directory: Path, kind: str, width: int) -> None:
        coder = SparseCoder(width, SparseCoderConfig(num_latents=4 * width, k=6, transcode=kind == "transcoder", activation="topk"))
        shake(coder)
        coder.save_to_disk(directory)

    @staticmethod
    def apply(directory: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        coder = SparseCoder.load_from_disk(directory)
        top = coder.encode(x)
        features = torch.zeros(len(x), coder.num_latents).scatter_(1, top.top_indices, top.top_acts)
        return features, coder.decode(top.top_acts, top.top_indices)


if __name__ == "__main__":
    serve(answer)
