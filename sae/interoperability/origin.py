"""What is known of a dictionary: what its directory holds, and what the run around it measured."""

from dataclasses import dataclass
from typing import Any

from sae.dictionary_record import CONFIG_KEY
from sae.public_names import public_name
from sae.storage import Place

Json = dict[str, Any]
RUN_DIRECTORY = "dictionaries"


@dataclass(frozen=True)
class Origin:
    """A dictionary's records; what is not there is empty.

    Attributes:
        name: the last part of its URL.
        config: `config.json`.
        result: `result.json` of its training.
        plan: `plan.json` of its training: the recipe.
        evaluation: the run's evaluation of it.
        explanation: the run's summary of its explained features.
        store: the manifest of the activations it was trained on.
    """

    name: str
    config: Json
    result: Json
    plan: Json
    evaluation: Json
    explanation: Json
    store: Json

    @property
    def facts(self) -> Json:
        """Where its activations come from, as other layouts ask for it."""
        metadata = self.config.get("metadata") or {}
        known = {key: metadata.get(key) or self.result.get(key) for key in ("hookpoint", "subject", "subject_digest", "store_digest")}
        known["target_hookpoint"] = metadata.get("target_hookpoint") or self.result.get("target_hookpoint")
        known["subject"] = public_name(known["subject"], known["subject_digest"])
        known["context_length"] = (self.store.get("plan") or {}).get("context_length") or metadata.get("context_length")
        parts = str(known["hookpoint"]).split(".")
        known["layer"] = int(parts[1]) if parts[0] == "blocks" and len(parts) > 1 and parts[1].isdigit() else None
        return known


def origin_of(dictionary: Place) -> Origin:
    """Gather the records of the dictionary at a place; those of its run where it lies at `RUN/dictionaries/NAME`."""
    parent, _, name = dictionary.url.rpartition("/")
    run_url = parent.removesuffix(f"/{RUN_DIRECTORY}") if parent.endswith(f"/{RUN_DIRECTORY}") else None
    run = Place(run_url) if run_url else None
    own = {key: _json(dictionary, f"{key}.json") for key in ("result", "plan")}
    return Origin(
        name=name,
        config=dictionary.get_json(CONFIG_KEY),
        **own,
        evaluation=_json(run, f"evaluation/{name}.json"),
        explanation=_json(run, f"interpretation/{name}/summary.json"),
        store=_store(run),
    )


def _store(run: Place | None) -> Json:
    elsewhere = _json(run, "config.json").get("store")
    return _json(Place(elsewhere), "manifest.json") if elsewhere else _json(run, "store/manifest.json")


def _json(place: Place | None, key: str) -> Json:
    if place is None or not place.exists(key):
        return {}
    value = place.get_json(key)
    return value if isinstance(value, dict) else {}
