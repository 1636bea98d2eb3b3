"""One training step of each peer, timed in the peers' own process: whole steps, by the peers' own trainers, optimiser included."""

import time
from collections.abc import Callable
from typing import Any

import torch
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from tests.benchmarks.peers import serve

LEARNING_RATE = 1e-5  # as small as ours in these benchmarks: the features that fire stay about those of the start
NUM_STEPS = 100_000

steps: dict[str, Callable[[], Any]] = {}


def answer(action: str, **arguments: Any) -> dict[str, Any]:
    """`prepare` builds the peers and tells each one's L0; `step` runs one step of one of them and tells its seconds."""
    return prepare(**arguments) if action == "prepare" else timed_step(**arguments)


def prepare(architecture: str, batch_path: str, d_sae: int, k: int, l0: float, device: str = "cpu") -> dict[str, Any]:
    torch.set_num_threads(2)
    x = torch.load(batch_path).to(device)
    builders = {
        "relu": {"saelens": saelens_relu, "dictionary_learning": dictionary_learning_relu},
        "topk": {
            "saelens": saelens_topk,
            "dictionary_learning": dictionary_learning_topk,
            "sparsify": sparsify_topk,
        },
    }[architecture]
    found = {}
    for name, build in builders.items():
        steps[name], found[name] = build(x, d_sae, l0 if architecture == "relu" else k, device)
    return {"l0": found}


def timed_step(peer: str) -> dict[str, Any]:
    synchronize()
    began = time.perf_counter()
    steps[peer]()
    synchronize()
    return {"seconds": time.perf_counter() - began}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def shift_to_l0(b_enc: Tensor, pre: Tensor, l0: float) -> float:
    """Lower the encoder's bias so far that a vector fires `l0` features on average; pre-activations of some vectors decide. The L0 found."""
    with torch.no_grad():
        bound = pre.flatten().kthvalue(pre.numel() - int(l0 * len(pre))).values
        b_enc.sub_(bound)
    return float((pre > bound).sum()) / len(pre)


def saelens_trainer(sae: Any, x: Tensor, device: str) -> Callable[[], Any]:
    config = SAETrainerConfig(
        total_training_samples=NUM_STEPS * len(x),
        train_batch_size_samples=len(x),
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE,
        device=device,
        autocast=device != "cpu",
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    return lambda: trainer.step(x)


def saelens_relu(x: Tensor, d_sae: int, l0: float, device: str) -> tuple[Callable[[], Any], float]:
    sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=x.shape[1], d_sae=d_sae, l1_coefficient=0.01, device=device))
    found = shift_to_l0(sae.b_enc, sae.encode_with_hidden_pre(x[:1024])[1].detach(), l0)
    return saelens_trainer(sae, x, device), found


def saelens_topk(x: Tensor, d_sae: int, k: int, device: str) -> tuple[Callable[[], Any], float]:
    """Dense, as its default is: the step with `use_sparse_activations` ends in an operator that torch lacks on CPUs."""
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=d_sae, k=int(k), device=device))
    return saelens_trainer(sae, x, device), k


def dictionary_learning_relu(x: Tensor, d_sae: int, l0: float, device: str) -> tuple[Callable[[], Any], float]:
    trainer = StandardTrainer(
        steps=NUM_STEPS, activation_dim=x.shape[1], dict_size=d_sae, layer=0, lm_name="none", lr=LEARNING_RATE, warmup_steps=1, device=device
    )
    ae = trainer.ae
    found = shift_to_l0(ae.encoder.bias, ae.encoder(x[:1024] - ae.bias).detach(), l0)
    counter = iter(range(NUM_STEPS))
    return lambda: trainer.update(next(counter), x), found


def dictionary_learning_topk(x: Tensor, d_sae: int, k: int, device: str) -> tuple[Callable[[], Any], float]:
    trainer = TopKTrainer(
        steps=NUM_STEPS,
        activation_dim=x.shape[1],
        dict_size=d_sae,
        k=int(k),
        layer=0,
        lm_name="none",
        lr=LEARNING_RATE,
        warmup_steps=1,
        device=device,
    )
    counter = iter(range(1, NUM_STEPS))  # step 0 computes a geometric median, once in a run
    return lambda: trainer.update(next(counter), x), k


def sparsify_topk(x: Tensor, d_sae: int, k: int, device: str) -> tuple[Callable[[], Any], float]:
    """Its trainer is bound to a language model; this is the step that it makes for each batch, with Adam."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=d_sae, k=int(k)), device=device)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        out = coder(x)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        coder.set_decoder_norm_to_unit_norm()

    return step, k


if __name__ == "__main__":
    serve(answer)
