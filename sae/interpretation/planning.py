"""What there is to interpret, and with what: settled before any work begins, small enough to send to every worker."""

from dataclasses import dataclass

import numpy as np

from sae.checkpoint import CONFIG_KEY, load_dictionary
from sae.corpus.packing import Split, TokenCorpus
from sae.errors import ConfigError, HookpointError, InputError, WidthError
from sae.interpretation.passages import passage_ids
from sae.interpretation.records import Budget
from sae.interpretation.source_directory import SourcePlan
from sae.interpretation.sources import NEURONS, RANDOM_DIRECTIONS, SourceSpec, examined_features
from sae.storage import Place, sha256_hex, to_json
from sae.store.reader import Store
from sae.subject import SubjectConfig

SPLITS: dict[str, Split] = {"explanation": "train", "scoring": "held_out"}


@dataclass(frozen=True)
class InterpretationJob:
    """Everything a worker needs to know."""

    budget: Budget
    subject: SubjectConfig
    corpus_url: str
    store_url: str
    hookpoint: str
    output_url: str
    specs: tuple[SourceSpec, ...]

    def place(self, source: str) -> Place:
        """The directory of a source."""
        return Place(self.output_url).child(source)

    def examined(self, spec: SourceSpec) -> np.ndarray:
        """The features of a source that are looked at."""
        return examined_features(spec, self.budget.max_features, self.budget.seed)

    def sequence_ids(self, corpus: TokenCorpus, used_for: str) -> np.ndarray:
        """The sequences of the text for `explanation` or `scoring`."""
        wanted = self.budget.explanation_sequences if used_for == "explanation" else self.budget.scoring_sequences
        return passage_ids(corpus.num_sequences(SPLITS[used_for]), wanted)


def dictionary_sources(urls: dict[str, str], store: Store) -> tuple[str, list[SourceSpec]]:
    """The hookpoint that all dictionaries share, and each as a source.

    Raises:
        ConfigError: no dictionary, dictionaries of several hookpoints, or a name that a baseline has.
        HookpointError: the store does not have the hookpoint.
        InputError: a dictionary that does not say where it belongs.
        WidthError: a dictionary of another width than the hookpoint.
    """
    taken = {NEURONS, RANDOM_DIRECTIONS} & urls.keys()
    if taken or not urls:
        raise ConfigError(
            f"a dictionary is called {taken.pop()!r}, as a baseline is: rename it" if taken else "there is no dictionary: name at least one"
        )
    configs = {name: Place(url).get_json(CONFIG_KEY) for name, url in urls.items()}
    hookpoints: dict[str, str] = {}
    for name, config in configs.items():
        hookpoint = config.get("metadata", {}).get("hookpoint") if isinstance(config, dict) else None
        if not isinstance(hookpoint, str):
            raise InputError(f"{urls[name]}/{CONFIG_KEY} does not name the dictionary's hookpoint (metadata.hookpoint): train it with this tool")
        hookpoints[name] = hookpoint
    if len(set(hookpoints.values())) > 1:
        found = ", ".join(f"{name}: {hookpoint}" for name, hookpoint in hookpoints.items())
        raise ConfigError(f"the dictionaries belong to several hookpoints ({found}): interpret those of each hookpoint by themselves")
    hookpoint = next(iter(hookpoints.values()))
    if hookpoint not in store.plan.hookpoints:
        raise HookpointError(f"{store.place.url} has no {hookpoint!r}, only {', '.join(store.plan.hookpoints)}: give the dictionaries' own store")
    return hookpoint, [_dictionary_source(name, url, configs[name], store.plan.hookpoints[hookpoint]) for name, url in urls.items()]


def baseline_sources(budget: Budget, d_in: int) -> list[SourceSpec]:
    """The neurons, and random directions where they are asked for."""
    specs = [SourceSpec(name=NEURONS, kind="neurons", num_features=d_in)]
    if budget.num_random_directions:
        specs.append(SourceSpec(name=RANDOM_DIRECTIONS, kind="random_directions", num_features=budget.num_random_directions))
    return specs


def source_plan(spec: SourceSpec, hookpoint: str, store: Store, budget: Budget) -> SourcePlan:
    """All that determines the records of a source."""
    return SourcePlan(
        name=spec.name,
        kind=spec.kind,
        source_digest=spec.digest,
        hookpoint=hookpoint,
        subject_digest=store.plan.subject_digest,
        corpus_digest=store.plan.corpus_digest,
        store_digest=store.manifest.digest,
        budget=budget,
    )


def _dictionary_source(name: str, url: str, config: dict[str, object], d_in: int) -> SourceSpec:
    dictionary = load_dictionary(url)
    if dictionary.d_in != d_in:
        raise WidthError(f"dictionary {name!r} has d_in {dictionary.d_in}, its hookpoint in the store is {d_in} wide: give the store it comes from")
    return SourceSpec(name=name, kind="dictionary", url=url, digest=sha256_hex(to_json(config)), num_features=dictionary.d_sae)
