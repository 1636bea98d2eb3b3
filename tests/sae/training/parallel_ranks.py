"""What the ranks of the distributed tests do.

`python parallel_ranks.py RANK DIRECTORY`, four at once: each case is trained by groups of two and of four ranks, along rows and along features,
and what came out is left in the directory. With a third argument, an axis, two at once train a store until one of them dies.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from safetensors.torch import save_file
from stores import HOOKPOINT

from sae.architectures.config import SAEConfig
from sae.architectures.registry import ARCHITECTURES, build_dictionary
from sae.config import nested_models
from sae.parallel.process_groups import ProcessGroups
from sae.parallel.workers import Workers
from sae.storage import Place
from sae.store.reader import Store
from sae.training.config import DictionaryConfig, TrainingConfig, can_be_resampled
from sae.training.dictionary_run import DictionaryRun, Schedule
from sae.training.engine import train
from sae.training.optimization import MOMENTS, OptimizerConfig
from sae.training.resampling import InputSource, ResamplingConfig
from sae.training.sharding import all_features, shard_dictionary

RANKS = 4
D_IN, D_SAE, BATCH, STEPS = 8, 32, 101, 16  # 101 rows divide by neither 2 nor 4
RESAMPLED = tuple(architecture for architecture in ARCHITECTURES if can_be_resampled(architecture))


def sae_config(architecture: str):
    """A small member of each architecture; `k` where it has one."""
    fields = {name: value for name, value in (("k", 3), ("aux_k", 4)) if name in config_fields(architecture)}
    return TypeAdapter(SAEConfig).validate_python({"architecture": architecture, "d_sae": D_SAE, **fields})


def config_fields(architecture: str):
    """The keys that an architecture's configuration has."""
    [model] = [model for model in nested_models(SAEConfig) if model.model_fields["architecture"].default == architecture]
    return model.model_fields


def dictionary_config(architecture: str) -> DictionaryConfig:
    return DictionaryConfig(
        name=architecture,
        sae=sae_config(architecture),
        optimizer=OptimizerConfig(learning_rate=3e-3, warm_up_fraction=0.2, max_gradient_norm=0.5),
        sparsity_warm_up_fraction=0.3,
        resampling=ResamplingConfig(at_fractions=(0.5,), silent_fraction=0.2, num_inputs=300) if architecture in RESAMPLED else None,
        ema_decay=0.9,
    )


def vectors(dtype: torch.dtype) -> torch.Tensor:
    """Sixteen batches of sparse positive combinations, in a few directions so that some features die."""
    draw = torch.Generator().manual_seed(3)
    directions = torch.randn(12, D_IN, generator=draw, dtype=torch.float64)
    amounts = torch.rand(STEPS, BATCH, 12, generator=draw, dtype=torch.float64)
    active = torch.rand(STEPS, BATCH, 12, generator=draw, dtype=torch.float64) < 0.2
    return ((amounts * active) @ directions).to(dtype)


def train_alone_or_together(architecture: str, dtype: torch.dtype, workers: Workers) -> dict[str, torch.Tensor]:
    """Sixteen steps with everything that a step may hold; returns all weights, moments, averages, log values and resampled ids."""
    data, config = vectors(dtype), dictionary_config(architecture)
    dictionary = build_dictionary(config.sae, D_IN).to(dtype)
    dictionary.input_scale.fill_(D_IN**0.5 / data[0].norm(dim=1).mean())
    dictionary.initialize(torch.zeros(D_IN, dtype=dtype), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for bias in (name for name in dictionary.feature_axes if name.startswith("b_")):
            dictionary.get_parameter(bias)[::5] = -100.0  # these are dead from the start
    shard_dictionary(dictionary, workers)
    schedule = Schedule(STEPS, BATCH, log_every=5, dead_window_vectors=3 * BATCH)
    inputs = InputSource(lambda number: (data[number], None), BATCH)
    run = DictionaryRun(config, dictionary, schedule, inputs, data[0].mean(0), lambda name, row: None, workers)
    rank, size = workers.data_rank, workers.data_size
    for step in range(STEPS):
        run.train_on(data[step, rank * BATCH // size : (rank + 1) * BATCH // size])
    axes = dictionary.feature_axes
    found = {f"weights.{name}": all_features(tensor, axes.get(name), workers) for name, tensor in dictionary.state_dict().items()}
    found |= {f"saved.{name}": tensor for name, tensor in run.final_weights().items()}
    for name, parameter in dictionary.named_parameters():
        for moment in MOMENTS:
            found[f"{moment}.{name}"] = all_features(run.optimizer.state[parameter][moment], axes.get(name), workers)
    found["l0"] = torch.tensor([row["l0"] for row in run.progress.rows], dtype=torch.float64)
    found["fvu"] = torch.tensor([row["fvu"] for row in run.progress.rows], dtype=torch.float64)
    found["loss"] = torch.tensor([row["losses"]["total"] for row in run.progress.rows], dtype=torch.float64)
    found["density"] = torch.tensor([list(row["density_quantiles"].values()) for row in run.progress.rows])
    found["dead"] = torch.tensor([row["dead_fraction"] for row in run.progress.rows])
    found["resampled"] = torch.tensor([0, *(event["resampled"] for event in run.progress.events)], dtype=torch.float64)
    return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}


def cases() -> list[tuple[str, str, str, int]]:
    """`(architecture, dtype, axis, number of workers)`: all in float64, where nothing hides, and two in the precision that users train in."""
    return [
        (architecture, dtype, axis, size)
        for architecture, kind in ARCHITECTURES.items()
        for dtype in ("float64", *(("float32",) if architecture in ("relu", "topk") else ()))
        for axis in ("data", *(("features",) if kind.feature_parallel else ()))
        for size in (2, 4)
    ]


def case_file(directory: Path, architecture: str, dtype: str, axis: str, size: int) -> Path:
    return directory / f"{architecture}-{dtype}-{axis}-{size}.safetensors"


def main(rank: int, directory: Path) -> None:
    """Train every case."""
    meet(rank, RANKS, directory)
    groups = {2: dist.new_group([0, 1]), 4: dist.group.WORLD}
    for architecture, dtype, axis, size in cases():
        if rank < size:
            workers = ProcessGroups(**{axis: groups[size]})
            found = train_alone_or_together(architecture, getattr(torch, dtype), workers)
            if rank == size - 1:  # not the leader: what it holds must be the same
                save_file(found, case_file(directory, architecture, dtype, axis, size))
    dist.barrier()
    dist.destroy_process_group()


def lose_the_leader(rank: int, directory: Path, axis: str) -> None:
    """Two ranks train the store of the directory, until the leader dies in the middle of a step and the other cannot go on."""

    def die(done: int, total: int) -> None:
        if done > total // 2:
            os._exit(9)

    meet(rank, 2, directory)
    train(
        Store(Place(directory / "store")),
        HOOKPOINT,
        whole_run(),
        Place(directory / axis),
        progress=die,
        workers=ProcessGroups(**{axis: dist.group.WORLD}),
    )


def whole_run() -> TrainingConfig:
    """One dictionary, with a state after every step."""
    return TrainingConfig(
        dictionaries=[dictionary_config("relu")], batch_size=BATCH, log_every=5, checkpoint_seconds=0, dead_window_vectors=3 * BATCH
    )


def meet(rank: int, size: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=size)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(int(sys.argv[1]), Path(sys.argv[2]))
    else:
        lose_the_leader(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
