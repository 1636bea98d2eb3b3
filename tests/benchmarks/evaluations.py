"""What the benchmarks of the evaluation share: subjects, held-out text, a store with a mean activation, and dictionaries at one hookpoint."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.evaluation.evaluate import EvaluationJob
from sae.storage import Place
from sae.store.harvest import HarvestConfig, SubjectProbe, make_plan
from sae.subject.model import EMBEDDED_DIRECTORY, Subject, SubjectConfig
from sae.subject.tokenization import SubjectTokenizer
from tests.benchmarks.harvests import InProcess

SEQUENCES_PER_FORWARD = 8


@dataclass(frozen=True)
class Setting:
    """A subject and where dictionaries are measured in it.

    Attributes:
        subject: the subject model.
        hookpoint: of the dictionaries.
        d_sae: their features; k is 20.
    """

    subject: SubjectConfig
    hookpoint: str
    d_sae: int


def embedded_setting() -> Setting:
    """The quickstart's: the embedded one-layer model and its 512 neurons."""
    return Setting(SubjectConfig(), "blocks.0.mlp.hook_post", 4096)


def six_layer_setting(directory: Path) -> Setting:
    """A random six-layer model of width 256 with the same vocabulary, measured in the middle of its residual stream."""
    torch.manual_seed(0)
    sizes = GPT2Config(vocab_size=4096, n_positions=256, n_embd=256, n_layer=6, n_head=4, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(sizes).save_pretrained(directory / "six-layers")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED_DIRECTORY / name, directory / "six-layers" / name)
    return Setting(SubjectConfig(model=str(directory / "six-layers")), "blocks.3.hook_resid_post", 2048)


def evaluation_job(setting: Setting, directory: Path, num_dictionaries: int, num_sequences: int) -> EvaluationJob:
    """Text, store and dictionaries of random directions below a directory, and the job that measures them."""
    corpus = prepare_corpus(
        CorpusConfig(
            text=[str(Path(torch.__file__).parent / "_inductor" / "*.py")], context_length=256, train_tokens=8 * 256,
            held_out_tokens=num_sequences * 256, held_out_fraction=0.4,
        ),
        SubjectTokenizer(setting.subject.model if setting.subject.model != "embedded" else str(EMBEDDED_DIRECTORY)),
        Place(directory / "corpus"),
    )  # fmt: skip
    harvest(setting, corpus, directory / "store")
    width = Subject.load(setting.subject).width(setting.hookpoint)
    urls = {f"topk{number}": dictionary_url(setting, width, directory / f"topk{number}", number) for number in range(num_dictionaries)}
    return EvaluationJob(setting.subject, corpus.place.url, str(directory / "store"), setting.hookpoint, urls, SEQUENCES_PER_FORWARD)


def harvest(setting: Setting, corpus: TokenCorpus, store: Path) -> None:
    plan = make_plan(
        HarvestConfig(hookpoints=[setting.hookpoint], sequences_per_shard=8),
        corpus,
        setting.subject,
        SubjectProbe(setting.subject).run([setting.hookpoint]),
    )
    worker = InProcess(corpus, plan, store, setting.subject)
    worker.run(list(range(plan.num_shards)))
    worker.finish()


def dictionary_url(setting: Setting, width: int, directory: Path, seed: int) -> str:
    dictionary = build_dictionary(TopKConfig(d_sae=setting.d_sae, k=20), width)
    dictionary.initialize(torch.zeros(width), torch.Generator().manual_seed(seed))
    save_dictionary(Place(directory), dictionary, {"hookpoint": setting.hookpoint, "subject": setting.subject.model})
    return str(directory)
