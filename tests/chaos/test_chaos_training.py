"""A training whose store misbehaves at two of five requests ends with the same bits as one that reads from a quiet disk."""

import pytest

from sae.architectures.config import TopKConfig
from sae.storage import Place
from sae.store.reader import Store
from sae.training.config import DictionaryConfig, TrainingConfig
from sae.training.engine import train
from sae.training.optimization import OptimizerConfig
from tests.chaos.conftest import HOOKPOINTS, copy_store
from tests.servers.fault_proxy import FaultProxy

FAULTS = {"internal_error": 0.08, "slow_down": 0.08, "reset": 0.08, "lost_answer": 0.08, "truncated": 0.08}
FAULTS_AT_LEAST = 25  # of this test, of the 200 of all
TOPK = DictionaryConfig(name="topk", sae=TopKConfig(d_sae=64, k=4), optimizer=OptimizerConfig(learning_rate=3e-3))
CONFIG = TrainingConfig(dictionaries=[TOPK], batch_size=512, log_every=20)


@pytest.mark.timeout(900)
def test_training_from_a_store_that_misbehaves_gives_the_same_bits(swift, swift_directly, calm, tmp_path, injected, rounds):
    bucket, through = swift_directly
    straight = Place(f"{bucket}/store")
    copy_store(calm, straight)
    train(Store(calm), HOOKPOINTS[0], CONFIG, Place(tmp_path / "calm"))
    expected = Place(tmp_path / "calm").get("topk/weights.safetensors")
    for seed in range(rounds):
        with FaultProxy(swift.port, FAULTS, seed=seed) as proxy:
            through(proxy)
            output = Place(tmp_path / f"rough-{seed}")
            train(Store(Place(straight.url)), HOOKPOINTS[0], CONFIG, output)
            assert output.get("topk/weights.safetensors") == expected
            injected.update({f"{fault} while training": count for fault, count in proxy.faults.items()})
            assert proxy.faults.total() >= FAULTS_AT_LEAST, proxy.faults
