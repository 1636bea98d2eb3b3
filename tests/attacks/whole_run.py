"""A finished run with everything a command can read, made in seconds; and the run as each stage found it."""

import contextlib
import functools
import gzip
import json
import shutil
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from sae.corpus.sources import CorpusConfig
from sae.errors import StoppedError
from sae.execution import InProcess
from sae.pretraining import PretrainingConfig, TransformerConfig, build_model
from sae.rating.deck import read_deck
from sae.rating.records import Rating, Ratings
from sae.rating.rubric import PARTS
from sae.storage import Place
from sae.subject.tokenization import SubjectTokenizer, save_tokenizer, train_tokenizer
from sae.training.engine import train
from tests.attacks.commands_here import command
from tests.conftest import some_text
from tests.servers.language_server import scripted_endpoint

MLP, AFTER = "blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out"
CONFIG: dict[str, Any] = {
    "output": "run",
    "corpus": {"text": ["text"], "context_length": 32, "held_out_fraction": 0.35},
    "harvest": {"hookpoints": [MLP, AFTER], "sequences_per_shard": 160, "num_workers": 1},
    "training": {
        "batch_size": 128,
        "log_every": 5,
        "checkpoint_seconds": 0.05,
        "dead_window_vectors": 2000,
        "dictionaries": [
            {"name": "topk", "sae": {"architecture": "topk", "d_sae": 24, "k": 4}},
            {"name": "relu", "sae": {"architecture": "relu", "d_sae": 24, "l1_coefficient": 0.01}, "resampling": {}},
            {"name": "jump", "sae": {"architecture": "jumprelu", "d_sae": 24}},
        ],
    },
    "evaluation": {"num_workers": 1, "concepts": {"text": ["labelled.jsonl"], "sequences_per_label": 8, "probe_sizes": [2]}},
    "interpretation": {
        "num_workers": 1,
        "explanation_sequences": 60,
        "scoring_sequences": 40,
        "max_features": 6,
        "min_firing_examples": 5,
        "controls": {"kinds": ["random_directions", "pca"], "num_features": 4, "fit_vectors": 200},
        "language_model": {"model": "scripted", "max_features": 2, "scorers": ["detection", "fuzzing"]},
    },
    "trainer": {"num_cpus": 1},
    "cluster": {"executor": "local", "num_cpus": 1, "metrics_port": None},
}
TRANSCODER = {"name": "across", "sae": {"architecture": "topk", "d_sae": 24, "k": 4}, "target_hookpoint": AFTER}


def make_runs(root: Path) -> dict[str, Path]:
    """Make one run stage by stage, and keep a copy of the directory as each stage found it, by the name of the state."""
    here, states = root / "work", dict[str, Path]()
    write_texts(here)
    write_subject(root / "subject", here / "text")
    config = CONFIG | {"subject": {"model": str(root / "subject")}}
    config["training"]["dictionaries"] = [*CONFIG["training"]["dictionaries"][:3], TRANSCODER]
    (here / "run.yaml").write_text(yaml.safe_dump(config))

    def keep(name: str) -> None:
        states[name] = Path(shutil.copytree(here, root / name, symlinks=True))

    shutil.copytree(root / "subject", here / "subject")
    keep("text")
    shutil.rmtree(here / "subject")
    with in_directory(here), scripted_endpoint(answered) as endpoint:
        model = f"interpretation.language_model.base_url={endpoint.url}"
        done("harvest")
        keep("harvested")
        stop_training(here / "run")
        keep("stopped")
        done("train")
        keep("trained")
        done("evaluate")
        keep("evaluated")
        stop_interpretation(model)
        keep("half_interpreted")
        done("interpret", model)
        keep("interpreted")
        done("report")
        write_ratings(here / "run")
        for layout in ("saelens", "dictionary_learning"):
            done_with("export", "run/dictionaries/relu", f"foreign/{layout}", "--format", layout)
        done_with("export", "run/dictionaries/topk", "foreign/sparsify", "--format", "sparsify")
        keep("whole")
    return states


def write_texts(here: Path) -> None:
    """Text in every format that is read, and labelled text."""
    text = here / "text"
    text.mkdir(parents=True)
    documents = [some_text(seed, 120) for seed in range(60)]
    for number, document in enumerate(documents[:15]):
        (text / f"{number:02d}.txt").write_text(document)
    (text / "lines.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in documents[15:30]))
    (text / "packed.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps({"text": each}) + "\n" for each in documents[30:45]).encode(), mtime=0))
    pq.write_table(pa.table({"text": documents[45:]}), text / "table.parquet")
    labelled = [{"text": some_text(100 + number, 60) + " value" * (number % 2) * 9, "label": ("plain", "valued")[number % 2]} for number in range(12)]
    rates = {"harvest": 80_000.0, "train_step_topk": 200.0}
    lines = [{"benchmark": name, "value": value, "machine": {"gpu": None}} for name, value in rates.items()]
    (here / "rates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (here / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))


def write_subject(directory: Path, text: Path) -> None:
    """An untrained one-layer transformer, 16 wide."""
    save_tokenizer(train_tokenizer((path.read_text() for path in sorted(text.glob("*.txt"))), 300), directory)
    tokenizer = SubjectTokenizer(str(directory))
    sizes = TransformerConfig(d_model=16, d_mlp=32, num_heads=2, vocab_size=len(tokenizer.token_texts))
    model = build_model(PretrainingConfig(corpus=CorpusConfig(context_length=32), transformer=sizes, seed=1), tokenizer.bos_token_id)
    with torch.no_grad():  # a model with opinions, as in tests/conftest.py
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.save_pretrained(directory)


def in_directory(path: Path) -> Any:
    return contextlib.chdir(path)


def done(verb: str, *overrides: str) -> None:
    done_with(verb, "-c", "run.yaml", *overrides)


def done_with(*arguments: str) -> None:
    ended = command(*arguments)
    assert ended.code == 0, f"{arguments} ended with {ended.code}: {ended.said}"


def stop_training(run: Path) -> None:
    """Train until states were saved, then stop in the middle."""
    asked = iter(range(10**6))
    stopped = functools.partial(train, should_stop=lambda: next(asked) > 12)

    def trained_in_part(store: Any, hookpoint: str, config: Any, output: Any, *others: Any) -> Any:
        return stopped(store, hookpoint, config, output, *others[:-1])

    with mock.patch("services.training.here.train", trained_in_part):
        command("train", "-c", "run.yaml")
    assert list((run / "dictionaries" / "state").rglob("*.safetensors")), "it was to be stopped"


def stop_interpretation(model: str) -> None:
    """Interpret until two sources are explained."""
    whole = InProcess.run

    def some(self: InProcess, worker: type, arguments: Any, tasks: Any, *others: Any) -> Any:
        explaining = worker.__name__ == "ExplainingWorker"
        yield from whole(self, worker, arguments, tasks[:2] if explaining else tasks, *others)
        if explaining:
            raise StoppedError("stopped in the middle")

    with mock.patch.object(InProcess, "run", some):
        ended = command("interpret", "-c", "run.yaml", model)
    assert ended.code != 0, "it was to be stopped"


def answered(question: Any) -> str:
    """A model that gives each question a well-formed answer, the same one every time."""
    if question.purpose == "explain":
        return "EXPLANATION: It fires on some of the words."
    if question.purpose == "probe":
        return "ready"
    return str([zlib.crc32(piece.encode()) % 2 for piece in question.pieces])


def write_ratings(run: Path) -> None:
    """A deck, and one rater's points for its first cards."""
    done_with("rate", "run", "--features", "2")
    place = Place(run)
    ratings = Ratings(place, read_deck(place))
    for card in range(4):
        ratings.add("anna", Rating(card=card, interpretation="words", **{part.key: min(1 + card, part.most) for part in PARTS}))
