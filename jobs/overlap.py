"""Harvest and training as one stage of a run, where the cluster has room for both."""

from collections.abc import Callable

import ray

from jobs.config import RunConfig
from jobs.stages import corpus_stage, harvest_stage, train_stage
from sae.batches.loader import batch_order
from sae.corpus.packing import TokenCorpus
from sae.log import log
from sae.storage import Place
from sae.store import MANIFEST_KEY, StorePlan, start_store
from sae.store.growing import expected_rows
from sae.store.harvest import Beside, describe_subject, fill_store, make_plan
from services.session import Session
from services.training.options import worker_count
from services.training.overlap import Overlap, run_together
from services.training.resources import reserved_cpus
from services.training.trainer import train_dictionaries


def harvest_and_train(config: RunConfig, session: Session, done: Callable[[str], None]) -> None:
    """Harvest and train at the same time, or one after the other where the cluster cannot hold both or the store is finished.

    Args:
        config: of the run.
        session: on a Ray cluster.
        done: called with the name of each stage as it ends.
    """
    num_workers = harvest_workers_beside_training(config)
    place = Place(config.store_url)
    if num_workers == 0 or place.exists(MANIFEST_KEY):
        reason = "the cluster cannot hold both" if num_workers == 0 else "the store is finished"
        log("stages_in_turn", stages="harvest,train", reason=reason)
        harvest_stage(config, session)
        done("harvest")
        train_stage(config, session)
        done("train")
        return
    corpus_stage(config, session)
    corpus = TokenCorpus(Place(config.corpus_url))
    facts = describe_subject(config.subject.absolute(), config.harvest.hookpoints, config.harvest.pool, session.executor)
    plan = make_plan(config.harvest, corpus, config.subject, facts)
    turns = shard_turns(config, plan, corpus)
    start_store(place, plan)  # training reads it first of all
    harvest = config.harvest.model_copy(update={"num_workers": num_workers})
    log("stages_overlap", stages="harvest,train", harvest_workers=num_workers, training_workers=worker_count(config.training, config.trainer))
    overlap = Overlap.start(config.corpus_url)

    def fill(check: Callable[[], None]) -> None:
        fill_store(harvest, plan, config.corpus_url, config.store_url, config.subject, session.executor, Beside(turns, check))
        done("harvest")

    def train() -> None:
        output = f"{config.output}/dictionaries"
        train_dictionaries(config.training, config.store_url, config.hookpoint, output, config.trainer, session.monitor, overlap)
        done("train")

    run_together(overlap, fill, train)


def harvest_workers_beside_training(config: RunConfig) -> int:
    """Count the harvest workers that the connected cluster can hold next to the training's; 0: none."""
    resources, pool = ray.cluster_resources(), config.harvest.pool
    workers = worker_count(config.training, config.trainer)
    room = [float(config.harvest.num_workers)]
    if pool.num_cpus:
        room.append((resources.get("CPU", 0.0) - workers * reserved_cpus(config.trainer, workers, overlapped=True)) / pool.num_cpus)
    if pool.num_gpus:
        room.append((resources.get("GPU", 0.0) - workers * config.trainer.num_gpus) / pool.num_gpus)
    return max(0, int(min(room)))


def shard_turns(config: RunConfig, plan: StorePlan, corpus: TokenCorpus) -> list[int]:
    """When the first epoch of training wants each shard: 0 for the first one."""
    order = batch_order(plan, expected_rows(plan, corpus), config.hookpoint, config.training.batch_size, config.training.seed)
    wanted = order.shards(epoch=0)
    turns = [len(wanted)] * plan.num_shards  # shards without a row come last
    for turn, shard in enumerate(wanted):
        turns[shard] = turn
    return turns
