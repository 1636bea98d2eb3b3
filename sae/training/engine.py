"""One pass over a store trains any number of dictionaries from one reader.

Each dictionary is what it would be alone: it has its own weights, optimiser, random numbers and saved state, and sees the same batches.

::

    <output>/<name>/search.json                      before all else, where a coefficient was searched: what was found, and how
    <output>/<name>/plan.json                        first: what is trained, on which store
    <output>/state/<name>/step-<step>-<digest>...    resumable state, removed at the end
    <output>/<name>/training.jsonl events.jsonl      log rows and resampling events
    <output>/<name>/weights.safetensors config.json  the dictionary
    <output>/<name>/result.json                      last: the dictionary is finished
"""

from collections.abc import Callable
from typing import Any

from sae.parallel.workers import ALONE, Workers
from sae.storage import Place
from sae.store import Store
from sae.training.config import TrainingConfig
from sae.training.store_pass import StorePass


def train(  # noqa: PLR0913, PLR0917 - three of them are how a caller watches and ends it
    store: Store,
    hookpoint: str,
    config: TrainingConfig,
    output: Place,
    progress: Callable[[int, int], None] = lambda done, total: None,
    record: Callable[[str, dict[str, Any]], None] = lambda name, row: None,
    workers: Workers = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, Any]]:
    """Train all dictionaries of `config` that `output` does not yet hold; run again after an interruption, it goes on where it was.

    On one CPU with the same number of threads a resumed run ends with the same bits as an undisturbed one. Over several workers, all call
    this together; batches are the same for any number of them, results equal to rounding, and a run may go on with another number.

    Args:
        store: where activations come from.
        hookpoint: which of its hookpoints is encoded.
        config: the dictionaries and what they share.
        output: one directory for all of them.
        progress: called with vectors done and vectors in all; on the leader alone, as is `record`.
        record: called with the name of a dictionary and each log row or event as it comes.
        workers: who shares the work; they know the device, too.
        should_stop: asked after each batch, on the leader. Once it is true, the state is saved and training ends with StoppedError.

    Returns:
        `result.json` of every dictionary by name.

    Raises:
        PlanError: `output` holds a dictionary of that name from another configuration or store.
        HookpointError: the store lacks a hookpoint that is to be encoded or reconstructed.
        InputError: the store holds less than one batch, only zero vectors, or NaN or infinity.
        ConfigError: the GPU's memory is too small for what is asked; a dictionary cannot be spread over these workers.
        DivergenceError: a loss is NaN or infinite, or a reconstruction far worse than none; the other dictionaries are finished first.
        StoppedError: `should_stop`; run again, training continues at that very batch.
    """
    return StorePass(store, hookpoint, config, output, workers, should_stop=should_stop).run(progress, record)
