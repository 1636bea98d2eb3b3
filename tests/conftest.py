"""What the tests share: a tiny subject model with its tokenizer and corpus, and one Ray for the whole session."""

import atexit
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

# Before anything imports ray, transformers or torch: quiet, offline, quick to notice a dead worker.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="30",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
    RAY_health_check_period_ms="1000",
    RAY_health_check_failure_threshold="3",
    RAY_health_check_initial_delay_ms="1000",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)
if "RAY_TMPDIR" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:  # each process its own; short: sockets lie below it
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ms", dir="/tmp")
    atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)

import hypothesis
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.pretraining import PretrainingConfig, TransformerConfig, build_model
from sae.storage import Place
from sae.subject.tokenization import SubjectTokenizer, save_tokenizer, train_tokenizer

pytest_plugins = ["tests.servers.fixtures"]

# A shell starts what it puts into the background with SIGINT ignored, and its children inherit that: a user's terminal does not.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Below `nohup` SIGHUP is ignored, in children as well. A handler is not inherited: commands get what they would from a terminal.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

# Two threads that wait for each other on a busy machine take many times as long as one, and the tensors of tests are small.
torch.set_num_threads(1)

# The same examples in every run of `make test`; `make fuzz` draws new ones, and many more.
hypothesis.settings.register_profile("test", max_examples=60, derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("fuzz", max_examples=5000, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.load_profile("test")

WORDS = [
    *("the", "a", "of", "import", "return", "def", "class", "self", "value", "result", "for", "in", "while", "print"),
    *("array", "tensor", "model", "layer", "neuron", "feature", "loss", "0", "1", "2"),
]


def some_text(seed: int, num_words: int = 400) -> str:
    """Text with structure: after `import` comes a noun, after `return` a number, so that a model has something to learn."""
    draw = random.Random(seed)
    words = []
    while len(words) < num_words:
        word = draw.choice(WORDS)
        words.append(word)
        if word == "import":
            words.append(draw.choice(["array", "tensor", "model"]))
        if word == "return":
            words.append(draw.choice(["0", "1", "2"]))
    return " ".join(words)


TESTS = Path(__file__).parent
LONG_ONES = ("chaos", "journeys", "services")


def pytest_collection_modifyitems(items):
    """What waits longest goes first."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONG_ONES)


class OneFileOneProcess(LoadScopeScheduling):
    """A file's tests share their fixtures, so they stay in one process; and so does all chaos, whose faults are counted."""

    def _split_scope(self, nodeid):
        return "chaos" if nodeid.startswith("tests/chaos/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config, log):
    """Who runs what, where tests are spread over processes (`-n 2`)."""
    return OneFileOneProcess(config, log)


@pytest.fixture(scope="session")
def text_directory(tmp_path_factory):
    """60 documents as text files."""
    directory = tmp_path_factory.mktemp("text")
    for seed in range(60):
        (directory / f"{seed:03d}.txt").write_text(some_text(seed))
    return directory


@pytest.fixture(scope="session")
def tiny_subject_directory(tmp_path_factory, text_directory):
    """An untrained one-layer ReLU transformer (width 16, MLP 32, context 32, 300 tokens) as a Hugging Face directory."""
    directory = tmp_path_factory.mktemp("subject")
    save_tokenizer(train_tokenizer((path.read_text() for path in sorted(text_directory.iterdir())), 300), directory)
    tokenizer = SubjectTokenizer(str(directory))
    config = PretrainingConfig(
        corpus=CorpusConfig(context_length=32),
        transformer=TransformerConfig(d_model=16, d_mlp=32, num_heads=2, vocab_size=len(tokenizer.token_texts)),
        seed=1,
    )
    model = build_model(config, tokenizer.bos_token_id)
    with torch.no_grad():  # GPT-2's initial weights are so small that every output is alike; larger ones make a model with opinions
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory, text_directory, tiny_subject_directory) -> TokenCorpus:
    """The text directory packed into sequences of 32 tokens, a fifth of the documents held out."""
    config = CorpusConfig(text=[str(text_directory)], context_length=32, held_out_fraction=0.2)
    return prepare_corpus(config, SubjectTokenizer(str(tiny_subject_directory)), Place(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray for all tests that need one."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False, object_store_memory=256 * 2**20)
    yield
    ray.shutdown()
