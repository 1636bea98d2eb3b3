"""Examples of all features in one pass over the text, against harvesting the same model: what the browser, explainers and scorers are shown.

One-layer model of width 128 with an MLP of 512 and a TopK dictionary of 4,096 features (of random directions, 20 firing), the quickstart's texts
of 2,048 and 512 sequences of 256 tokens; two processes of one torch thread, as in the default pools. Timed: the model's pass with the code of
every token, writing every firing, neighbours (co-firing, directions), and for every feature top, interval, random, out-of-context and hard
negative examples with their windows, in both texts. Not timed, as it is no part of the examples: learning explanations and scoring them.

The code alone takes 4.2 MFLOP a token where the model takes 0.5: its ratio is told beside, from the same processes.
"""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.interpretation.example_rows import ExampleRows, join_rows
from sae.interpretation.examples import anchor_tokens, choose
from sae.interpretation.firings import Firings, write_firings
from sae.interpretation.index import check_apart, read_texts
from sae.interpretation.neighbours import find_neighbours, similar_directions
from sae.interpretation.passages import load_passages, passage_ids
from sae.interpretation.reading import read_codes
from sae.interpretation.records import Budget
from sae.interpretation.source_directory import firings_key, get_table, put_table
from sae.interpretation.sources import DictionarySource
from sae.storage import Place
from sae.subject import EMBEDDED_DIRECTORY, Subject, SubjectConfig
from sae.tokenization import SubjectTokenizer
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import HOOKPOINT, InProcess, embedded_plan, on_disk
from tests.benchmarks.workers import CORES, Workers

BUDGET = Budget()
RUN, RANGE, D_SAE, K = 128, 256, 4096, 20
LENGTH, HARVESTED = 256, 6 * 256  # tokens of a sequence, sequences harvested
SPLITS = {"explanation": ("train", BUDGET.explanation_sequences), "scoring": ("held_out", BUDGET.scoring_sequences)}
SIMILAR = "similar.arrow"


def measure() -> Measurement:
    with on_disk() as directory:
        corpus = real_corpus(directory)
        save_random_dictionary(directory)
        subject = SubjectConfig()
        plan = embedded_plan(corpus, subject, num_sequences=HARVESTED)
        shards = [list(range(number, plan.num_shards, CORES)) for number in range(CORES)]
        tokens, numbers = sum(wanted for _, wanted in SPLITS.values()) * LENGTH, range(CORES)
        with (
            Workers(InProcess, corpus, plan, directory / "store", subject) as harvest,
            Workers(Share, corpus.place.url, str(directory)) as examples,
        ):
            harvest.call(InProcess.run, shards)  # files that are overwritten cost no new pages: as in the benchmark of the harvest
            harvest_rate = HARVESTED * LENGTH / min(seconds(lambda: harvest.call(InProcess.run, shards)) for _ in range(2))
            code_rate = tokens / min(seconds(lambda: examples.call(Share.code, numbers)) for _ in range(2))
            read = seconds(lambda: examples.call(Share.read, numbers))
            chosen = seconds(lambda: examples.call(Share.choose, numbers))
            peaks = examples.call(peak_bytes, numbers)
        rate = tokens / (read + chosen)
    return Measurement(
        rate,
        "tokens/s",
        {"harvest": rate / harvest_rate, "code_alone": rate / code_rate},
        {"harvest": Bar(">=", 0.5)},
        {
            "harvest_tokens_per_second": harvest_rate,
            "code_alone_tokens_per_second": code_rate,
            "read_seconds": read,
            "neighbours_and_choice_seconds": chosen,
            "peak_bytes_of_a_worker": max(peaks),
            "features": D_SAE,
        },
    )


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


def save_random_dictionary(directory: Path) -> None:
    dictionary = build_dictionary(TopKConfig(d_sae=D_SAE, k=K), 512)
    tokens = torch.arange(4 * LENGTH).view(4, LENGTH) % 4000
    mean = Subject.load(SubjectConfig()).activations(tokens, [HOOKPOINT])[HOOKPOINT].flatten(0, 1).mean(0)
    dictionary.initialize(mean, torch.Generator().manual_seed(0))
    save_dictionary(Place(directory / "dictionary"), dictionary, {"hookpoint": HOOKPOINT})


class Share:
    """What a process does; each method is one phase, of which it does the share of its number."""

    def __init__(self, corpus_url: str, directory: str) -> None:
        self.corpus, self.place = TokenCorpus(Place(corpus_url)), Place(directory).child("scratch")
        self.subject = Subject.load(SubjectConfig())
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
            read_codes(self.subject, HOOKPOINT, {"topk": self.source}, passages)

    def read(self, number: int) -> None:
        for what, run, passages in self.passages(number):
            codes, positions = read_codes(self.subject, HOOKPOINT, {"topk": self.source}, passages)
            write_firings(self.place, self.keys[what][run], codes["topk"], positions + run * passages.num_tokens)
        if number == 0:
            put_table(self.place, SIMILAR, similar_directions(self.source, np.arange(D_SAE)))

    def choose(self, number: int) -> None:
        texts = read_texts(self.corpus, BUDGET, self.special)
        similar, readable = get_table(self.place, SIMILAR), texts.explanation.passages.readable
        for low in range(number * RANGE, D_SAE, CORES * RANGE):
            explanation, scoring = (Firings(self.place, keys, low, low + RANGE) for keys in self.keys.values())
            neighbours = find_neighbours(self.place, tuple(self.keys.values()), (low, low + RANGE), similar, readable, RUN * LENGTH)
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
