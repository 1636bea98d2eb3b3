"""SAELens' run_evals with everything switched on, on the embedded model, given tokens and an exported dictionary; run by the peers' interpreter."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

from tests.benchmarks.peer_harvest import hooked_transformer
from tests.benchmarks.peers import serve


def answer(model: str, tokens: str, dictionary: str, hookpoint: str, batch: int, special: list[int], threads: int) -> dict[str, Any]:
    """Figures of the dictionary over all tokens, and the seconds that run_evals took."""
    torch.set_num_threads(threads)
    given = torch.from_numpy(np.load(tokens).astype(np.int64))
    subject, sae = hooked_transformer(model), SAE.load_from_disk(dictionary)
    sae.cfg.metadata.hook_name = hookpoint
    position = 0

    def next_batch(size: int) -> torch.Tensor:
        nonlocal position
        found = given[position : position + size]
        position += size
        return found

    def start_again() -> None:
        nonlocal position
        position = 0

    store = SimpleNamespace(context_size=given.shape[1], store_batch_size_prompts=batch, get_batch_tokens=next_batch, reset_input_dataset=start_again)
    config = get_eval_everything_config(
        batch, n_eval_reconstruction_batches=len(given) // batch, n_eval_sparsity_variance_batches=len(given) // batch
    )
    run_evals(sae, store, subject, ActivationScaler(), get_eval_everything_config(batch, 1, 1), exclude_special_tokens=special)
    start_again()
    began = time.perf_counter()
    figures, _ = run_evals(sae, store, subject, ActivationScaler(), config, exclude_special_tokens=special)
    return {"seconds": time.perf_counter() - began, "figures": figures}


if __name__ == "__main__":
    serve(answer)
