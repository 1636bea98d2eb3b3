"""Where work lands on a cluster: the nodes with its labels, the GPU it was given; and what is said where there is none."""

import json
import subprocess
import sys

import pytest
import ray
import torch

from sae.errors import InputError
from services.training.options import TrainerOptions
from services.training.resources import reserved_cpus

# Ray takes our word for it that there is a GPU; a cluster of its own, since that cannot be said of one that is running.
PRETENDED_GPU = """
import json, sys
import ray
import torch
from sae.architectures.config import TopKConfig
from sae.training.dictionary_run import DictionaryConfig
from sae.training.config import TrainingConfig
from services.pool.devices import GpuProbe, device
from services.training.trainer import train_dictionaries
from services.training.options import TrainerOptions
from sae.execution import PoolOptions
from services.pool.ray_pool import run_pool

HERE, ELSEWHERE = {"monosem-group": "harvest"}, {"monosem-group": "train"}

def said(work):
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return "done"

def pool(**options):
    return list(run_pool(GpuProbe, (), [None], 1, PoolOptions(num_cpus=0, **options)))

def train():
    config = TrainingConfig(dictionaries=[DictionaryConfig(name="one", sae=TopKConfig(d_sae=8, k=2))])
    train_dictionaries(config, "nowhere", "hookpoint", sys.argv[1], TrainerOptions(num_cpus=1, num_gpus=1))

@ray.remote(num_cpus=0)
def chosen():
    torch.cuda.is_available = lambda: True
    return device()

ray.init(num_cpus=1, num_gpus=1, labels=HERE, include_dashboard=False, configure_logging=False, log_to_driver=False, object_store_memory=80 * 2**20)
found = {
    "pool": said(lambda: pool(num_gpus=1)),
    "training": said(train),
    "labelled": said(lambda: pool(labels=HERE)),
    "with a GPU": ray.get(chosen.options(num_gpus=1).remote()),
    "without": ray.get(chosen.remote()),
    "labelled otherwise": said(lambda: pool(labels=ELSEWHERE, start_timeout_seconds=1)),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    command = [sys.executable, "-c", PRETENDED_GPU, str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not list(output.iterdir()), "training left something where nothing could be trained"
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU here")
@pytest.mark.parametrize("work", ["pool", "training"])
def test_a_gpu_that_torch_cannot_use_is_refused_before_work_starts(said, work):
    kind, message = said[work]
    assert kind == "InputError"
    assert message.startswith("this worker was given a GPU, but torch ")
    assert "use an image with the GPU runtime" in message


def test_a_worker_that_asked_for_no_gpu_leaves_those_of_the_machine_alone(said):
    assert said["with a GPU"] == "cuda"
    assert said["without"] == "cpu"


def test_work_goes_to_nodes_with_its_labels_and_waits_where_there_are_none(said):
    assert said["labelled"] == "done"
    kind, message = said["labelled otherwise"]
    assert kind == "WorkerError"
    assert "on a node labelled monosem-group=train" in message


def node(cpus, **labels):
    return {"Alive": True, "Resources": {"CPU": cpus} if cpus else {}, "Labels": labels}


def test_training_shares_out_the_largest_node_that_it_may_use(monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [node(0), node(32, group="harvest"), node(12, group="train"), node(8, group="train")])
    assert reserved_cpus(TrainerOptions(), 2, overlapped=False) == 16
    assert reserved_cpus(TrainerOptions(labels={"group": "train"}), 2, overlapped=False) == 6
    assert reserved_cpus(TrainerOptions(labels={"group": "train"}, num_cpus=3), 2, overlapped=False) == 3


def test_with_every_group_at_zero_training_asks_for_its_cpus(monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [node(0), node(32, group="harvest")])
    with pytest.raises(InputError, match=r"^there is no node labelled group=train yet .*: set trainer.num_cpus$"):
        reserved_cpus(TrainerOptions(labels={"group": "train"}), 1, overlapped=False)
    assert reserved_cpus(TrainerOptions(labels={"group": "train"}, num_cpus=12), 1, overlapped=False) == 12
