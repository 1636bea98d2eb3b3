"""Concept detection by a pool of workers: each runs the subject over labelled sequences, the driver selects and measures detectors."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array, vstack

from sae.checkpoint import load_dictionaries
from sae.concepts.detectors import Units, feature_units, neuron_units
from sae.concepts.labelled import ConceptsConfig, LabelledTokens, label_tokens, read_labelled
from sae.concepts.report import ConceptInputs, ConceptReport, detect, finished_concepts, write_concepts
from sae.devices import device
from sae.errors import ConfigError, InputError
from sae.execution import Executor, InProcess, PoolOptions, Range, in_order, ranges, with_progress
from sae.provenance import DescribedDictionaries, check_subject, described_dictionaries
from sae.storage import Place
from sae.subject.model import Subject, SubjectConfig, load_tokenizer
from sae.units import NEURONS

CodedTokens = tuple[np.ndarray, dict[str, csr_array]]
"""Of the drawn tokens of some sequences: activations `[tokens, d_in]`, and features by dictionary `[tokens, d_sae]`."""


@dataclass(frozen=True)
class ConceptOptions:
    """Settings for running the subject over the labelled sequences."""

    context_length: int
    sequences_per_forward: int
    sequences_per_task: int
    num_workers: int
    pool: PoolOptions


@dataclass(frozen=True)
class ConceptJob:
    """Everything a worker needs to know."""

    subject: SubjectConfig
    described: DescribedDictionaries
    tokens: LabelledTokens
    sequences_per_forward: int


class ConceptWorker:
    """Gives activations and features at the drawn tokens of ranges of sequences.

    Raises:
        HookpointError: the subject does not have the dictionaries' hookpoint.
        InputError: sequences longer than the subject takes.
        PlanError: a dictionary of another subject.
        WidthError: a dictionary does not fit it.
    """

    def __init__(self, job: ConceptJob) -> None:
        self.job = job
        self.subject = Subject.load(job.subject, device())
        if job.tokens.sequences.shape[1] > self.subject.context_length:
            raise InputError(
                f"sequences of {job.tokens.sequences.shape[1]} tokens are longer than {job.subject.model!r} takes ({self.subject.context_length}): "
                "set corpus.context_length"
            )
        described = job.described
        for name, record in described.records.items():
            if record.metadata.subject_digest is not None:
                check_subject(self.subject, record.metadata.subject_digest, f"dictionary {name!r} was trained", "detect concepts")
        self.dictionaries = load_dictionaries(
            described.urls, described.hookpoint, described.target_hookpoints, self.subject.width, self.subject.device
        )

    @torch.no_grad()
    def run(self, task: Range) -> CodedTokens:
        """Read the drawn tokens of sequences `[start, stop)`."""
        start, stop = task
        tokens, hookpoint = self.job.tokens, self.job.described.hookpoint
        neurons: list[np.ndarray] = []
        features: dict[str, list[csr_array]] = {name: [] for name in self.dictionaries}
        for first in range(start, stop, self.job.sequences_per_forward):
            last = min(first + self.job.sequences_per_forward, stop)
            low, high = np.searchsorted(tokens.rows, [first, last])
            sequences = torch.from_numpy(tokens.sequences[first:last].astype(np.int64)).to(self.subject.device)
            found = self.subject.activations(sequences, [hookpoint])[hookpoint]
            drawn = found[tokens.rows[low:high] - first, tokens.positions[low:high]].float()
            neurons.append(drawn.cpu().numpy())
            for name, dictionary in self.dictionaries.items():
                code = dictionary.encode_sparse(drawn)
                parts = [part.cpu().numpy() for part in (code.values, code.feature_ids, code.row_pointers)]
                features[name].append(csr_array(tuple(parts), shape=(code.batch, code.num_features)))
        return np.concatenate(neurons), {name: vstack(parts, format="csr") for name, parts in features.items()}


def detect_concepts(
    config: ConceptsConfig,
    options: ConceptOptions,
    subject: SubjectConfig,
    dictionary_urls: dict[str, str],
    output_url: str,
    executor: Executor | None = None,
) -> ConceptReport:
    """Select and measure detectors of every label. What is finished is not measured again.

    Writes the files that `sae.concepts.report` names.

    Args:
        config: the labelled text, and how much of it.
        options: who runs the subject, on sequences of which length.
        subject: the subject model.
        dictionary_urls: dictionaries of one hookpoint, by name.
        output_url: where the files go.
        executor: runs the subject (None: this process); its monitor is told of progress (stage `concepts/sequences`).

    Raises:
        ConfigError: no labelled text is named, no dictionary, or dictionaries of several hookpoints.
        HookpointError: the subject does not have the hookpoint.
        InputError: the text cannot be read, or has fewer than two labels.
        PlanError: a report is there that was measured with other inputs; or a dictionary was trained on another subject.
        WidthError: a dictionary of another width than the hookpoint.
        WorkerError: a worker failed more often than it may.
    """
    if config.text is None:
        raise ConfigError("no labelled text is named: set evaluation.concepts.text to a JSONL file with a text and a label on each line")
    if NEURONS in dictionary_urls:
        raise ConfigError(f"a dictionary is called {NEURONS!r}, as is what it is compared with: give it another name")
    described = described_dictionaries(dictionary_urls, "detect concepts with")
    hookpoint = described.hookpoint
    tokenizer = load_tokenizer(subject)
    tokens = label_tokens(read_labelled(config), tokenizer, options.context_length, config)
    inputs = ConceptInputs(
        subject=f"{subject.model} in {subject.dtype}", tokenizer_digest=tokenizer.digest, text_digest=tokens.digest,
        dictionary_digests=described.digests, hookpoint=hookpoint, context_length=options.context_length, config=config,
    )  # fmt: skip
    output = Place(output_url)
    report = finished_concepts(output, inputs)
    if report is None:
        job = ConceptJob(subject, described, tokens, options.sequences_per_forward)
        report = write_concepts(output, detect(_units(executor or InProcess(), job, options), tokens, inputs))
    return report


def _units(executor: Executor, job: ConceptJob, options: ConceptOptions) -> dict[str, Units]:
    count, step = len(job.tokens.sequences), options.sequences_per_task
    tasks = ranges(count, step)
    results = executor.run(ConceptWorker, (job,), tasks, options.num_workers, options.pool)
    ordered = in_order(with_progress(results, executor.monitor, "concepts/sequences", count, lambda task: task[1] - task[0]), tasks)
    sources = {NEURONS: neuron_units(np.concatenate([neurons for neurons, _ in ordered]))}
    for name in job.described.urls:
        code = csc_array(vstack([features[name] for _, features in ordered], format="csc"))
        code.eliminate_zeros()
        sources[name] = feature_units(code)
    return sources
