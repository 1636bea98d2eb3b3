"""Examples of all features in one pass over the text, against harvesting the same model: what the browser, explainers and scorers are shown.

On the embedded one-layer model, whose MLP of 512 a TopK dictionary of 4,096 features (of random directions, 20 firing) reads, and in the middle
of a random model of six layers and width 256. The quickstart's texts of 2,048 and 512 sequences of 256 tokens; two processes of one torch
thread, as in the default pools. Timed: the model's pass with the code of every token, writing every firing, neighbours (co-firing, directions),
and for every feature top, interval, random, out-of-context and hard negative examples with their windows, in both texts. Not timed, as it is no
part of the examples: learning explanations and scoring them.

The code alone takes 4.2 MFLOP a token where the one-layer model takes 0.5: the ratio to it is told beside, from the same processes.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.interpretation.examples.choice import anchor_tokens, choose
from sae.interpretation.examples.firings import Firings, write_firings
from sae.interpretation.examples.neighbours import StrongestPlaces, find_neighbours, similar_directions
from sae.interpretation.examples.rows import ExampleRows, join_rows
from sae.interpretation.index import check_apart, read_texts
from sae.interpretation.records import Budget
from sae.interpretation.sources.directory import firings_key
from sae.interpretation.sources.scratch import get_table, put_table
from sae.interpretation.sources.sources import DictionarySource
from sae.interpretation.text.passages import load_passages, passage_ids
from sae.interpretation.text.reading import read_codes
from sae.storage import Place
from sae.store.harvest import HarvestConfig, SubjectProbe, make_plan
from sae.subject.model import EMBEDDED_DIRECTORY, Subject
from sae.subject.tokenization import SubjectTokenizer
from tests.benchmarks.evaluations import Setting, embedded_setting, six_layer_setting
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import InProcess, on_disk
from tests.benchmarks.workers import CORES, Workers

BUDGET = Budget()
RUN, RANGE, D_SAE, K = 128, 256, 4096, 20
LENGTH, HARVESTED = 256, 6 * 256  # tokens of a sequence, sequences harvested
SPLITS = {"explanation": ("train", BUDGET.explanation_sequences), "scoring": ("held_out", BUDGET.scoring_sequences)}
SIMILAR = "similar.arrow"


def measure() -> Measurement:
    with on_disk() as directory:
        corpus = real_corpus(directory)
        settings = {"one_layer": embedded_setting(), "six_layers": replace(six_layer_setting(directory), d_sae=D_SAE)}
        found = {name: measured(setting, corpus, directory / name) for name, setting in settings.items()}
    rates = {name: each["tokens_per_second"] for name, each in found.items()}
    harvests = {f"harvest, {name}": rates[name] / each["harvest_tokens_per_second"] for name, each in found.items()}
    codes = {f"code alone, {name}": rates[name] / each["code_alone_tokens_per_second"] for name, each in found.items()}
    return Measurement(rates["one_layer"], "tokens/s", harvests | codes, {name: Bar(">=", 0.5) for name in harvests}, found | {"features": D_SAE})


def measured(setting: Setting, corpus: TokenCorpus, directory: Path) -> dict[str, float]:
    save_random_dictionary(setting, directory)
    config = HarvestConfig(hookpoints=[setting.hookpoint], num_sequences=HARVESTED)
    plan = make_plan(config, corpus, setting.subject, SubjectProbe(setting.subject).run([setting.hookpoint]))
    shards = [list(range(number, plan.num_shards, CORES)) for number in range(CORES)]
    tokens, numbers = sum(wanted for _, wanted in SPLITS.values()) * LENGTH, range(CORES)
    with (
        Workers(InProcess, corpus, plan, directory / "store", setting.subject) as harvest,
        Workers(Share, setting, corpus.place.url, str(directory)) as examples,
    ):
        harvest.call(InProcess.run, shards)  # files that are overwritten cost no new pages: as in the benchmark of the harvest
        harvested = min(seconds(lambda: harvest.call(InProcess.run, shards)) for _ in range(2))
        code = seconds(lambda: examples.call(Share.code, numbers))
        read = seconds(lambda: examples.call(Share.read, numbers))
        chosen = seconds(lambda: examples.call(Share.choose, numbers))
        peaks = examples.call(peak_bytes, numbers)
    return {
        "tokens_per_second": tokens / (read + chosen),
        "harvest_tokens_per_second": HARVESTED * LENGTH / harvested,
        "code_alone_tokens_per_second": tokens / code,
        "read_seconds": read,
        "neighbours_and_choice_seconds": chosen,
        "peak_bytes_of_a_worker": max(peaks),
    }


def real_corpus(directory: Path) -> TokenCorpus:
    """Sources of PyTorch, held out by content."""
    config = CorpusConfig(
        text=[str(Path(torch.__file__).parent / name / "*.py") for name in ("_inductor", "nn/modules", "distributed", "_dynamo", "fx", "testing")],
        context_length=LENGTH,
        train_tokens=BUDGET.explanation_sequences * LENGTH,
        held_out_tokens=BUDGET.scoring_sequences * LENGTH,
        held_out_fraction=0.25,
    )
    return prepare_corpus(config, SubjectTokenizer(str(EMBEDDED_DIRECTORY)), Place(directory / "corpus"))


def save_random_dictionary(setting: Setting, directory: Path) -> None:
    subject = Subject.load(setting.subject)
    dictionary = build_dictionary(TopKConfig(d_sae=D_SAE, k=K), subject.width(setting.hookpoint))
    tokens = torch.arange(4 * LENGTH).view(4, LENGTH) % 4000
    mean = subject.activations(tokens, [setting.hookpoint])[setting.hookpoint].flatten(0, 1).mean(0)
    dictionary.initialize(mean, torch.Generator().manual_seed(0))
    save_dictionary(Place(directory / "dictionary"), dictionary, {"hookpoint": setting.hookpoint})


class Share:
    """What a process does; each method is one phase, of which it does the share of its number."""

    def __init__(self, setting: Setting, corpus_url: str, directory: str) -> None:
        self.corpus, self.place = TokenCorpus(Place(corpus_url)), Place(directory).child("scratch")
        self.subject, self.hookpoint = Subject.load(setting.subject), setting.hookpoint
        self.source = DictionarySource(f"{directory}/dictionary", "cpu")
        self.special = sorted(self.subject.tokenizer.special_token_ids)
        self.keys = {what: [firings_key(what, run) for run in range(wanted // RUN)] for what, (_, wanted) in SPLITS.items()}

    def passages(self, number: int) -> Iterator[tuple[str, int, object]]:
        runs = [(what, run) for what, keys in self.keys.items() for run in range(len(keys))]
        for what, run in runs[number::CORES]:
            split, wanted = SPLITS[what]
            ids = passage_ids(self.corpus.num_sequences(split), wanted)[run * RUN : (run + 1) * RUN]
            yield what, run, load_passages(self.corpus, split, ids, self.special)

    def code(self, number: int) -> None:
        """The model's pass and the code, and nothing of it kept."""
        for _, _, passages in self.passages(number):
            read_codes(self.subject, self.hookpoint, {"topk": self.source}, passages)

    def read(self, number: int) -> None:
        for what, run, passages in self.passages(number):
            codes, positions = read_codes(self.subject, self.hookpoint, {"topk": self.source}, passages)
            write_firings(self.place, self.keys[what][run], codes["topk"], positions + run * passages.num_tokens)
        if number == 0:
            put_table(self.place, SIMILAR, similar_directions(self.source, np.arange(D_SAE)))

    def choose(self, number: int) -> None:
        texts = read_texts(self.corpus, BUDGET, self.special)
        places = tuple(StrongestPlaces(self.place, keys) for keys in self.keys.values())
        similar, readable = get_table(self.place, SIMILAR), texts.explanation.passages.readable
        for low in range(number * RANGE, D_SAE, CORES * RANGE):
            explanation, scoring = (Firings(self.place, keys, low, low + RANGE) for keys in self.keys.values())
            neighbours = find_neighbours(places, (low, low + RANGE), similar, readable, RUN * LENGTH)
            shown = ExampleRows(texts.explanation.passages, "explanation", BUDGET.explanation_examples)
            scored = ExampleRows(texts.scoring.passages, "scoring", BUDGET.scoring_examples)
            for row in range(low, low + RANGE):
                firings, near = explanation.of(row), neighbours.candidates(row)
                if not len(firings[1]):
                    continue
                maximum = float(firings[1].max())
                chosen = choose(texts.explanation, firings, maximum, None, BUDGET.explanation_examples, row, near[0])
                shown.add(row, chosen, firings, None)
                anchors = anchor_tokens(texts.explanation, chosen.positions[chosen.kinds == 0])
                held_out = choose(texts.scoring, scoring.of(row), maximum, anchors, BUDGET.scoring_examples, row, near[1])
                scored.add(row, held_out, scoring.of(row), np.zeros((len(held_out.positions), BUDGET.scoring_examples.window), np.float32))
            examples = join_rows(shown, scored)
            check_apart(examples, texts.told, BUDGET)
            put_table(self.place, f"examples/{low}.arrow", examples)


def peak_bytes(share: Share, number: int) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds(call: object) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
