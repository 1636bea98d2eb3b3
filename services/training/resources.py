"""CPUs of training workers on the connected cluster."""

import ray

from sae.errors import InputError
from services.training.options import TrainerOptions

OVERLAPPED_CPU_SHARE = 0.5  # of a node, where a harvest runs next to the training


def reserved_cpus(options: TrainerOptions, num_workers: int, overlapped: bool) -> float:
    """CPUs, as Ray counts them, that each worker reserves: half of a shared-out node where a harvest runs beside it."""
    return worker_cpus(options, num_workers) * (OVERLAPPED_CPU_SHARE if overlapped and not options.num_cpus else 1.0)


def worker_cpus(options: TrainerOptions, num_workers: int) -> float:
    """CPUs of each worker where nothing runs beside it."""
    return options.num_cpus or max(1.0, _largest_node_cpus(options.labels) // num_workers)


def _largest_node_cpus(labels: dict[str, str]) -> float:
    nodes = [node for node in ray.nodes() if node["Alive"] and labels.items() <= node.get("Labels", {}).items()]
    largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
    if not largest:
        among = f" labelled {', '.join(f'{key}={value}' for key, value in labels.items())}" if labels else ""
        raise InputError(f"there is no node{among} yet whose CPUs training could share out (a group scaled to zero?): set trainer.num_cpus")
    return float(largest)
