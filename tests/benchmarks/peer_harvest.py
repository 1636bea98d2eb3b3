"""SAELens' CacheActivationsRunner on the embedded model and given tokens; run by the peers' interpreter."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import sae_lens.cache_activations_runner as runner_module
import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

from tests.benchmarks.peers import serve


def hooked_transformer(model_directory: str) -> HookedTransformer:
    """The GPT-2 model of a Hugging Face directory with the weights as they are."""
    plain = GPT2LMHeadModel.from_pretrained(model_directory, dtype=torch.float32).eval()
    sizes = plain.config
    config = HookedTransformerConfig(
        n_layers=sizes.n_layer, d_model=sizes.n_embd, n_heads=sizes.n_head, d_head=sizes.n_embd // sizes.n_head, d_mlp=sizes.n_inner,
        d_vocab=sizes.vocab_size, n_ctx=sizes.n_positions, act_fn=sizes.activation_function, normalization_type="LN", eps=sizes.layer_norm_epsilon,
        device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        convert_gpt2_weights(plain, config), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model


def answer(model: str, tokens: str, hookpoint: str, d_in: int, target: str) -> dict[str, Any]:
    """Cache the activations of all tokens; returns seconds, and the activations of the first sequence as a file."""
    given = np.load(tokens)
    loaded = hooked_transformer(model)
    runner_module.load_model = lambda **_: loaded
    dataset = Dataset.from_dict({"tokens": given.astype(np.int64).tolist()})
    buffer = 256  # sequences: as many as our shards
    config = CacheActivationsRunnerConfig(
        dataset_path="given", model_name="given", model_batch_size=32, hook_name=hookpoint, d_in=d_in, training_tokens=given.size,
        context_size=given.shape[1], new_cached_activations_path=target, dtype="float16", device="cpu", prepend_bos=False, streaming=False,
        shuffle=False, buffer_size_gb=buffer * given.shape[1] * d_in * 2 / 1e9 * 1.001,
    )  # fmt: skip
    runner = CacheActivationsRunner(config, override_dataset=dataset)
    began = time.perf_counter()
    cached = runner.run()
    seconds = time.perf_counter() - began
    first = Path(target, "first.npy")
    np.save(first, np.array(cached[0][hookpoint], dtype=np.float16))
    return {"seconds": seconds, "sequences": len(cached), "tokens": np.array(cached[0]["token_ids"]).tolist(), "first": str(first)}


if __name__ == "__main__":
    serve(answer)
