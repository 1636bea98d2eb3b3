"""The stages of a run: each calls one service and leaves one immutable directory below the run's output."""

from collections.abc import Callable
from typing import Any

from jobs.config import RunConfig
from sae.concepts.detect import ConceptOptions, detect_concepts
from sae.corpus.packing import prepare_corpus
from sae.corpus.splitting import SPLITS
from sae.errors import InputError
from sae.evaluation.evaluate import evaluate
from sae.interpretation.interpret import interpret
from sae.interpretation.language_model.material import Vocabulary
from sae.log import log
from sae.report.summary import summarise
from sae.run.layout import SUMMARY_KEY
from sae.run.records import read_stages
from sae.storage import Place
from sae.store.harvest import harvest
from sae.subject.model import load_tokenizer
from services.pretrainer import pretrain_subject
from services.session import Session
from services.training.here import train_here

Stage = Callable[[RunConfig, Session], Any]


def pretrain_stage(config: RunConfig, session: Session) -> Any:
    """Train the one-layer subject model into OUTPUT/subject, an ordinary Hugging Face directory."""
    return pretrain_subject(config.pretraining, f"{config.output}/subject", session.machine, session.executor)


def corpus_stage(config: RunConfig, session: Session) -> Any:
    """Tokenise and pack the text into OUTPUT/corpus: sequences for training and held-out ones."""
    done, total = 0, config.corpus.train_tokens or 0

    def report(tokens: int) -> None:
        nonlocal done
        done += tokens
        session.monitor.progress("tokenise/tokens", done, total)

    corpus = prepare_corpus(config.corpus, load_tokenizer(config.subject), Place(config.corpus_url), report)
    if done:
        session.monitor.progress("tokenise/tokens", done, done)  # documents are whole, so what was read is never quite what was asked for
    wanted = {"train": config.corpus.train_tokens, "held_out": config.corpus.held_out_tokens}
    for split in SPLITS:
        found = corpus.num_sequences(split) * config.corpus.context_length
        if (asked := wanted[split]) is not None and found + config.corpus.context_length <= asked:
            log("text_ran_out", split=split, tokens=found, asked_for=asked)
    return corpus.manifest


def harvest_stage(config: RunConfig, session: Session) -> Any:
    """Run the subject model over the text and keep its activations in the store."""
    corpus_stage(config, session)
    return harvest(config.harvest, config.corpus_url, config.store_url, config.subject, session.executor)


def train_stage(config: RunConfig, session: Session) -> Any:
    """Train every dictionary in one pass over the store, into OUTPUT/dictionaries."""
    given = config.training, config.store_url, config.hookpoint, f"{config.output}/dictionaries", config.trainer, session.monitor
    if session.name == "local":
        return train_here(*given)
    from services.training.trainer import train_dictionaries  # Ray Train takes a second to import

    return train_dictionaries(*given)


def evaluate_stage(config: RunConfig, session: Session) -> Any:
    """Measure every dictionary on held-out text, into OUTPUT/evaluation; on further text and labelled text where they are named."""
    measured, output = config.evaluation.model_copy(update={"text": None}), f"{config.output}/evaluation"
    reports = evaluate(measured, config.subject, config.corpus_url, config.store_url, config.dictionary_urls, output, session.executor)
    if config.evaluation.text is not None:
        _evaluate_on_other_text(config, config.evaluation.text, session)
    if config.evaluation.concepts.text is not None:
        concepts_stage(config, session)
    return reports


def _evaluate_on_other_text(config: RunConfig, text: list[str], session: Session) -> None:
    """Prepare a corpus of further text, without a harvest, and measure every dictionary on its held-out sequences.

    The held-out share is chosen as for the run's own corpus, by content alone: a document that both hold was not trained on.
    """
    place = config.other_text
    # The other split is not read; one sequence is the least that a corpus has.
    wanted = config.corpus.model_copy(update={"text": text, "train_tokens": config.corpus.context_length, "held_out_tokens": None})
    corpus = prepare_corpus(wanted, load_tokenizer(config.subject), place.child("corpus")).place.url
    output = place.child("evaluation").url
    evaluate(config.evaluation, config.subject, corpus, config.store_url, config.dictionary_urls, output, session.executor)


def concepts_stage(config: RunConfig, session: Session) -> Any:
    """Detect the labels of labelled text by single features, neurons and sparse probes, into OUTPUT/concepts."""
    measured = config.evaluation
    options = ConceptOptions(
        config.corpus.context_length, measured.sequences_per_forward, measured.sequences_per_task, measured.num_workers, measured.pool
    )
    return detect_concepts(measured.concepts, options, config.subject, config.dictionary_urls, f"{config.output}/concepts", session.executor)


def interpret_stage(config: RunConfig, session: Session) -> Any:
    """Explain the features, score the explanations on held-out text beside neurons and controls, into OUTPUT/interpretation."""
    summaries = interpret(
        config.interpretation,
        config.subject,
        config.corpus_url,
        config.store_url,
        config.dictionary_urls,
        f"{config.output}/interpretation",
        session.executor,
    )
    asked = config.interpretation.language_model
    if asked is None:
        return summaries
    from services.language_interpreter import explain_in_words  # the client takes a second to import

    return explain_in_words(
        asked, config.interpretation.seed, subject_vocabulary(config), f"{config.output}/interpretation", list(summaries), session.monitor
    )


def subject_vocabulary(config: RunConfig) -> Vocabulary:
    """The subject's tokens, as explanations in words show them."""
    tokenizer = load_tokenizer(config.subject)
    return Vocabulary(tokenizer.token_texts, tokenizer.special_token_ids)


def report_stage(config: RunConfig, session: Session) -> Any:
    """Gather what the other stages left into OUTPUT/report.html and OUTPUT/summary.json."""
    from sae.report.page import write_report  # matplotlib takes a second to import

    place = config.place
    record = read_stages(place)
    costs = list(record.stages.values()) if record else []
    if not record or not any(cost.finished for cost in costs):
        raise InputError(f"{config.output} holds no finished stage to report on: run `monosem run` or its stages first")
    summary = summarise(place)
    place.put_sealed(SUMMARY_KEY, summary)
    write_report(place)
    return summary


STAGES: dict[str, Stage] = {
    "pretrain": pretrain_stage,
    "harvest": harvest_stage,
    "train": train_stage,
    "evaluate": evaluate_stage,
    "concepts": concepts_stage,
    "interpret": interpret_stage,
    "report": report_stage,
}
WHOLE_WAY = ("harvest", "train", "evaluate", "interpret", "report")


def idle_gpus(config: RunConfig, gpus: float) -> str | None:
    """Advise what to set where a cluster has GPUs and no stage asks for one: they would compute on CPUs next to them."""
    asked = {
        "harvest.pool.num_gpus": config.harvest.pool.num_gpus,
        "trainer.num_gpus": config.trainer.num_gpus,
        "evaluation.pool.num_gpus": config.evaluation.pool.num_gpus,
        "interpretation.pool.num_gpus": config.interpretation.pool.num_gpus,
    }
    return None if not gpus or any(asked.values()) else " ".join(f"{key}=1" for key in asked)
