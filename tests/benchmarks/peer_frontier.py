"""Run by the peers' interpreter: SAELens and dictionary_learning train on the very batches that Monosem trains on, each by its own trainer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tests.benchmarks.peers import serve

FRACTIONS = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]  # of the features, in Matryoshka's groups


def answer(library: str, kind: str, batches: str, sparsity: float, settings: dict[str, Any], output: str) -> dict[str, Any]:
    """Train one dictionary and leave it at `output` in the library's own layout."""
    torch.set_num_threads(settings["threads"])
    train = {"saelens": train_with_saelens, "dictionary_learning": train_with_dictionary_learning}[library]
    with safe_open(batches, framework="pt") as file:
        names = [f"{number:06d}" for number in range(settings["steps"])]
        train(kind, (file.get_tensor(name).float() for name in names), sparsity, settings, Path(output))
    return {}


def train_with_saelens(kind: str, batches: Iterator[torch.Tensor], sparsity: float, settings: dict[str, Any], output: Path) -> None:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import TrainingSAE
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(settings["seed"])
    widths = [sum(int(fraction * settings["d_sae"]) for fraction in FRACTIONS[: count + 1]) for count in range(len(FRACTIONS))]
    warm_up = settings["sparsity_warm_up_steps"]
    of_kind: dict[str, dict[str, Any]] = {
        "standard": {"l1_coefficient": sparsity, "l1_warm_up_steps": warm_up},
        "topk": {"k": int(sparsity)},
        "batchtopk": {"k": sparsity},
        "matryoshka_batchtopk": {"k": sparsity, "matryoshka_widths": widths},
        "gated": {"l1_coefficient": sparsity, "l1_warm_up_steps": warm_up},
    }
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(kind)
    sae: TrainingSAE[Any] = sae_class(config_class(d_in=settings["d_in"], d_sae=settings["d_sae"], **of_kind[kind]))
    size = settings["batch_size"]
    config = SAETrainerConfig(
        total_training_samples=settings["steps"] * size,
        train_batch_size_samples=size,
        lr=settings["lr"],
        lr_end=0.0,
        lr_warm_up_steps=settings["warm_up_steps"],
        lr_decay_steps=settings["decay_steps"],
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=max(1, settings["dead_window_vectors"] // size),
    )
    SAETrainer(config, sae, batches).fit()
    sae.save_inference_model(output)


def train_with_dictionary_learning(kind: str, batches: Iterator[torch.Tensor], sparsity: float, settings: dict[str, Any], output: Path) -> None:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer
    from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
    from dictionary_learning.trainers.top_k import TopKTrainer

    steps, warm_up = settings["steps"], settings["sparsity_warm_up_steps"]
    penalty = {"l1_penalty": sparsity, "sparsity_warmup_steps": warm_up}
    top_k = {"k": int(sparsity), "threshold_start_step": steps // 4}
    annealing = {"anneal_start": warm_up + 1, "anneal_end": steps, "p_end": settings["p_end"], "sparsity_function": "Lp^p", "n_sparsity_updates": 10}
    trainers: dict[str, tuple[Any, dict[str, Any]]] = {
        "standard": (StandardTrainer, penalty),
        "april": (StandardTrainerAprilUpdate, penalty),
        "gated": (GatedSAETrainer, penalty),
        "p_annealing": (PAnnealTrainer, {"initial_sparsity_penalty": sparsity, "sparsity_warmup_steps": warm_up, **annealing}),
        "topk": (TopKTrainer, top_k),
        "batch_topk": (BatchTopKTrainer, top_k),
        "matryoshka": (MatryoshkaBatchTopKTrainer, top_k | {"group_fractions": FRACTIONS}),
    }
    trainer_class, extra = trainers[kind]
    shape = {"activation_dim": settings["d_in"], "dict_size": settings["d_sae"], "layer": 0, "lm_name": "embedded", "device": "cpu"}
    schedule = {"steps": steps, "lr": settings["lr"], "warmup_steps": settings["warm_up_steps"], "decay_start": steps - settings["decay_steps"]}
    trainer = trainer_class(**shape, **schedule, seed=settings["seed"], **extra)
    if hasattr(trainer, "dead_feature_threshold"):
        trainer.dead_feature_threshold = settings["dead_window_vectors"]
    for step, x in enumerate(batches):
        trainer.update(step, x)
    output.mkdir(parents=True)
    torch.save(trainer.ae.state_dict(), output / "ae.pt")
    (output / "config.json").write_text(json.dumps({"trainer": {key: value for key, value in trainer.config.items() if key in ("dict_class", "k")}}))


if __name__ == "__main__":
    serve(answer)
