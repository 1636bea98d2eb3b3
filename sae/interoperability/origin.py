"""Known facts about a dictionary: the content of its directory, and measurements of the run around it."""

from dataclasses import dataclass
from typing import Any

from sae.config import Config
from sae.dictionary_record import describe_dictionary
from sae.evaluation.report import read_report
from sae.interpretation.sources.directory import read_source
from sae.public_names import public_name
from sae.run.layout import SUMMARY_KEY
from sae.storage import Place
from sae.training.records import RESULT_KEY, read_result

Json = dict[str, Any]
RUN_DIRECTORY, PLAN_KEY = "dictionaries", "plan.json"


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
    """

    name: str
    config: Json
    result: Json
    plan: Json
    evaluation: Json
    explanation: Json

    @property
    def facts(self) -> Json:
        """Where its activations come from, as other layouts ask for it."""
        metadata = self.config.get("metadata") or {}
        known = {key: metadata.get(key) or self.result.get(key) for key in ("hookpoint", "subject", "subject_digest", "store_digest")}
        known["target_hookpoint"] = metadata.get("target_hookpoint") or self.result.get("target_hookpoint")
        known["subject"] = public_name(known["subject"], known["subject_digest"])
        known["context_length"] = metadata.get("context_length")
        parts = str(known["hookpoint"]).split(".")
        known["layer"] = int(parts[1]) if parts[0] == "blocks" and len(parts) > 1 and parts[1].isdigit() else None
        return known


def origin_of(dictionary: Place) -> Origin:
    """Gather the records of the dictionary at a place, proved; those of its run where it lies at `RUN/dictionaries/NAME`.

    Raises:
        InputError: a field is missing, unknown or of a wrong type.
        CorruptObjectError: a record was changed after it was written.
    """
    parent, _, name = dictionary.url.rpartition("/")
    run_url = parent.removesuffix(f"/{RUN_DIRECTORY}") if parent.endswith(f"/{RUN_DIRECTORY}") else None
    run = Place(run_url) if run_url else None
    record = describe_dictionary(dictionary)
    explained = run.child("interpretation", name) if run and run.exists(f"interpretation/{name}/{SUMMARY_KEY}") else None
    return Origin(
        name=name,
        config=_fields(record),
        result=_fields(read_result(dictionary)) if dictionary.exists(RESULT_KEY) else {},
        plan=dictionary.get_sealed(PLAN_KEY) if dictionary.exists(PLAN_KEY) else {},
        evaluation=_fields(read_report(run.child("evaluation"), name)) if run and run.exists(f"evaluation/{name}.json") else {},
        explanation=_fields(read_source(explained, record.digest)) if explained else {},
    )


def _fields(record: Config) -> Json:
    return record.model_dump(mode="json")
