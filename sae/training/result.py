"""Result of a finished dictionary: its weights, and a record of its origin and of the end of its training."""

import platform

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.records import digests_of, put_record
from sae.storage import Place
from sae.store import Store
from sae.training.dictionary_run import DictionaryRun
from sae.training.inputs import TrainingInputs
from sae.training.records import EVENTS_KEY, LOG_KEY, RESULT_KEY, FoundCoefficient, TrainingResult


def write_dictionary(
    place: Place,
    run: DictionaryRun,
    weights: dict[str, Float[Tensor, "..."]],
    store: Store,
    inputs: TrainingInputs,
    search: FoundCoefficient | None,
) -> None:
    """Write the dictionary, then `result.json`, without which it counts as unfinished. The logs are there.

    Args:
        place: the dictionary's own directory.
        run: at its end.
        weights: all features' weights, wherever they are held.
        store: that it was trained on.
        inputs: what it encodes, and how long all dictionaries of the pass have waited for it.
        search: how its coefficient was found, where it was searched.
    """
    part, config, final = run.dictionary, run.config, run.progress.rows[-1]
    dictionary = build_dictionary(config.sae, part.d_in, part.d_out if part.is_transcoder else None)
    dictionary.load_state_dict(weights)
    if config.ema_decay is not None:
        dictionary.after_step()  # a mean of unit vectors is shorter than they
    origin = {
        "name": config.name,
        "hookpoint": inputs.hookpoint,
        "subject": store.plan.subject,
        "subject_digest": store.plan.subject_digest,
        "store_digest": store.manifest.digest,
        "context_length": store.plan.context_length,
        "dtype": store.plan.dtype,
        "vectors": final["vectors"],
        "dead_fraction": final["dead_fraction"],
        **({"target_hookpoint": config.target_hookpoint} if config.target_hookpoint else {}),
    }
    record = save_dictionary(place, dictionary, origin)
    result = {
        "target_hookpoint": None,
        **origin,
        "architecture": dictionary.architecture,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "steps": run.step,
        "dead_window_vectors": run.schedule.dead_window_vectors,
        "final": final,
        "wall_seconds": run.progress.seconds,
        "read_seconds": inputs.seconds,
        "seed": config.seed,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "target_l0": search,
        "dictionary_digest": record.digest,
        "logs": digests_of(place, (LOG_KEY, EVENTS_KEY)),
    }
    put_record(place, RESULT_KEY, TrainingResult.parse(result))
