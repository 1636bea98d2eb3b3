"""Device that a worker computes on: the GPU that Ray gave it, or the CPU."""

import ray
import torch

from sae.errors import InputError


def check_gpu_runtime() -> None:
    """Refuse to be a worker with a GPU that torch cannot use: it would compute on the CPU, some hundred times slower, and say nothing.

    Raises:
        InputError: Ray gave this worker a GPU, and torch has no CUDA here.
    """
    if ray.is_initialized() and ray.get_gpu_ids() and not torch.cuda.is_available():
        build = f"torch {torch.__version__} sees no CUDA device" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        raise InputError(
            f"this worker was given a GPU, but {build}: use an image with the GPU runtime and its driver on the node, or ask for no GPU (num_gpus: 0)"
        )


class GpuProbe:
    """A worker that does nothing: that it starts says that its GPU can be used."""

    def run(self, task: None) -> None:
        """Nothing."""


def device() -> str:
    """Where a worker computes: the GPU that Ray gave it, or the CPU; outside Ray, a GPU if there is one.

    Ray leaves the GPUs of a machine visible to workers that asked for none: they would share them with those that did.
    """
    given = bool(ray.get_gpu_ids()) if ray.is_initialized() else True
    return "cuda" if given and torch.cuda.is_available() else "cpu"
