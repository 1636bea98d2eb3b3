"""What there is to interpret, and with what: settled before any work begins, small enough to send to every worker."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from sae.checkpoint import CONFIG_KEY, load_dictionary
from sae.corpus.packing import Split, TokenCorpus
from sae.errors import ConfigError, HookpointError, InputError, PlanError, WidthError
from sae.interpretation.controls import DEFAULT_K, FITTED, ControlKind, ControlsConfig
from sae.interpretation.passages import passage_ids
from sae.interpretation.records import Budget
from sae.interpretation.source_directory import SourcePlan
from sae.interpretation.sources import NEURONS, SourceSpec, examined_features
from sae.storage import Place, sha256_hex, to_json
from sae.store.reader import Store
from sae.subject import SubjectConfig

SPLITS: dict[str, Split] = {"explanation": "train", "scoring": "held_out"}
SHUFFLED = "shuffled_"


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


def all_sources(budget: Budget, urls: dict[str, str], store: Store, subject: SubjectConfig) -> tuple[str, list[SourceSpec]]:
    """The hookpoint of the dictionaries, and what is interpreted: they, the neurons, the controls; the functions below say what it may raise."""
    hookpoint, dictionaries = dictionary_sources(urls, store)
    controls = control_sources(budget, store.plan.hookpoints[hookpoint], Place(dictionaries[0].url))
    return hookpoint, [*dictionaries, *controls, *shuffled_sources(budget, hookpoint, store, subject)]


def dictionary_sources(urls: dict[str, str], store: Store) -> tuple[str, list[SourceSpec]]:
    """The hookpoint that all dictionaries share, and each as a source.

    Raises:
        ConfigError: no dictionary, dictionaries of several hookpoints, or a name that a control has.
        HookpointError: the store does not have the hookpoint.
        InputError: a dictionary that does not say where it belongs.
        WidthError: a dictionary of another width than the hookpoint.
    """
    taken = [name for name in urls if name in (NEURONS, *get_args(ControlKind)) or name.startswith(SHUFFLED)]
    if taken or not urls:
        raise ConfigError(
            f"a dictionary is called {taken[0]!r}, as a control is: rename it" if taken else "there is no dictionary: name at least one"
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


def control_sources(budget: Budget, d_in: int, dictionary: Place) -> list[SourceSpec]:
    """The neurons, and the controls that are asked for; a random dictionary is as wide and as sparse as `dictionary`."""
    specs, limit = [SourceSpec(name=NEURONS, kind="neurons", num_features=d_in)], budget.controls.num_features
    for kind in dict.fromkeys(budget.controls.kinds):
        if kind == "random_dictionary":
            config = dictionary.get_json(CONFIG_KEY)["config"]
            d_sae, k = config["d_sae"], config.get("k") or DEFAULT_K
            specs.append(SourceSpec(name=kind, kind=kind, num_features=d_sae, max_examined=limit, k=min(int(k), d_sae)))
        else:
            specs.append(SourceSpec(name=kind, kind=kind, num_features=min(limit, d_in) if kind in FITTED else limit))
    return specs


def shuffled_sources(budget: Budget, hookpoint: str, store: Store, subject: SubjectConfig) -> list[SourceSpec]:
    """The dictionaries of the control run on the weight-shuffled model, if there is one.

    Raises:
        ConfigError: that run's subject is not this one, weight-shuffled; or it has no dictionary.
        InputError: there is no such run.
        PlanError: its store holds another text or hookpoint.
    """
    if budget.controls.shuffled_run is None:
        return []
    run = Place(budget.controls.shuffled_run)
    config = run.get_json("config.json")
    shuffled = SubjectConfig.parse(config["subject"])
    if shuffled.shuffle_seed is None or shuffled.absolute() != subject.absolute().model_copy(update={"shuffle_seed": shuffled.shuffle_seed}):
        raise ConfigError(f"{run.url} was made with {shuffled}, expected this run's subject with a shuffle_seed: make it anew, or leave it out")
    other = Store(Place(config["store"]) if config.get("store") else run.child("store"))
    if other.plan.corpus_digest != store.plan.corpus_digest or hookpoint not in other.plan.hookpoints:
        raise PlanError(f"{run.url} was harvested from another text or hookpoint than {store.place.url}: give it the same corpus and hookpoints")
    specs = []
    for dictionary in config["training"]["dictionaries"]:
        place = run.child("dictionaries", dictionary["name"])
        spec = _dictionary_source(SHUFFLED + dictionary["name"], place.url, place.get_json(CONFIG_KEY), store.plan.hookpoints[hookpoint])
        more = {"kind": "shuffled_model", "max_examined": budget.controls.num_features, "subject": shuffled.absolute()}
        specs.append(spec.model_copy(update=more | {"subject_digest": other.plan.subject_digest}))
    if not specs:
        raise ConfigError(f"{run.url} has no dictionary: train one in it first")
    return specs


def source_plan(spec: SourceSpec, hookpoint: str, store: Store, budget: Budget) -> SourcePlan:
    """All that determines the records of a source; which other controls there are does not, so that one may be added later."""
    controls = budget.controls.model_copy(update={"kinds": [], "shuffled_run": None}) if spec.is_control else ControlsConfig()
    return SourcePlan(
        name=spec.name,
        kind=spec.kind,
        source_digest=spec.digest,
        hookpoint=hookpoint,
        subject_digest=spec.subject_digest or store.plan.subject_digest,
        corpus_digest=store.plan.corpus_digest,
        store_digest=store.manifest.digest,
        budget=budget.model_copy(update={"controls": controls}),
    )


def _dictionary_source(name: str, url: str, config: dict[str, object], d_in: int) -> SourceSpec:
    dictionary = load_dictionary(url)
    if dictionary.d_in != d_in:
        raise WidthError(f"dictionary {name!r} has d_in {dictionary.d_in}, its hookpoint in the store is {d_in} wide: give the store it comes from")
    return SourceSpec(name=name, kind="dictionary", url=url, digest=sha256_hex(to_json(config)), num_features=dictionary.d_sae)
