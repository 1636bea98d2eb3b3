"""Neuron to Graph: the token graph of a feature from a few of its strongest examples, by deleting and replacing tokens in the subject model.

1. Prune: of each example the shortest context, ending where the feature peaks, that keeps `KEPT` of its activation.
2. Importance of a context token: `1 - activation without it / activation`; BOS is put in its place, since the subject has no mask. Tokens
   less important than `IMPORTANT` are ignored, whatever stands there.
3. Augment: every token that counts, the firing one included, is replaced by each of the `SUBSTITUTES` tokens that the subject itself finds
   most likely there; what keeps `KEPT` of the activation joins the graph.
4. The contexts become a graph whose nodes may ignore tokens; a leaf predicts the activation that was measured there, everything else 0.

Reference: Foote et al. 2023 (arXiv 2305.19911), with its thresholds; substitutes come from the subject rather than from DistilBERT.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae.interpretation.examples.choice import ExamplePool, strongest
from sae.interpretation.examples.firings import FeatureFirings
from sae.interpretation.patterns.token_graph import IGNORED, Pattern, TokenGraph, WildcardGraph
from sae.interpretation.sources.sources import FeatureSource
from sae.interpretation.text.reading import BATCH_TOKENS
from sae.subject.model import Subject

EXAMPLES = 10  # of each feature, half of the paper's twenty: the others were its test
LONGEST = 8  # tokens of the longest context that is tried
KEPT, IMPORTANT = 0.5, 0.75
SUBSTITUTES = 5


@dataclass(frozen=True)
class Peak:
    """A strong firing: a feature, the tokens that end where it peaks (at most `LONGEST`), and its activation there."""

    feature: int
    tokens: tuple[int, ...]
    activation: float


class ModelReader:
    """Activations of the subject and of a source on short runs of tokens, each after a BOS.

    Args:
        subject: the model.
        hookpoint: where the source reads.
        source: the features.
        bos: the token that every sequence begins with.
    """

    def __init__(self, subject: Subject, hookpoint: str, source: FeatureSource, bos: int) -> None:
        self.subject, self.hookpoint, self.source, self.bos = subject, hookpoint, source, bos

    def activations(self, runs: Sequence[tuple[int, ...]], features: Sequence[int]) -> np.ndarray:
        """The activation of each feature at the end of its run."""
        found = np.zeros(len(runs), np.float32)
        for batch, tokens, ends in self._batches(runs):
            x = self.subject.activations(tokens, [self.hookpoint])[self.hookpoint][torch.arange(len(ends)), ends].float()
            code = self.source.firings(x).tocsr()
            found[batch] = np.asarray(code[np.arange(len(ends)), np.array([features[each] for each in batch])]).reshape(-1)
        return found

    def predictions(self, runs: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """The `SUBSTITUTES` tokens most likely after each run."""
        found: list[list[int]] = [[]] * len(runs)
        for batch, tokens, ends in self._batches(runs):
            likely = self.subject.logits(tokens)[torch.arange(len(ends)), ends].topk(SUBSTITUTES).indices.tolist()
            for each, best in zip(batch.tolist(), likely, strict=True):
                found[each] = best
        return found

    def _batches(self, runs: Sequence[tuple[int, ...]]) -> Iterator[tuple[np.ndarray, Int[Tensor, "batch sequence"], Int[Tensor, " batch"]]]:
        """The runs in batches of about one length: their numbers, tokens after BOS, padded at the end, and where each ends."""
        order = np.argsort([len(run) for run in runs], kind="stable")
        step = BATCH_TOKENS // (LONGEST + 1)
        for batch in np.split(order, range(step, len(order), step)) if len(order) else []:
            width = 1 + max(len(runs[each]) for each in batch)
            # A causal model does not see what stands behind the end.
            rows = [(self.bos, *runs[each], *[self.bos] * (width - 1 - len(runs[each]))) for each in batch]
            ends = torch.tensor([len(runs[each]) for each in batch])
            yield batch, torch.tensor(rows, device=self.subject.device), ends


def peaks_of(pool: ExamplePool, feature: int, firings: FeatureFirings) -> list[Peak]:
    """The strongest firings of a feature in a text."""
    positions, values = firings
    tokens, length, peaks = pool.passages.tokens.reshape(-1), pool.passages.length, list[Peak]()
    for number in strongest(pool, positions, values, EXAMPLES).tolist() if len(positions) else ():
        place = int(positions[number])
        context = tokens[place + 1 - min(LONGEST, place % length) : place + 1]
        peaks.append(Peak(feature, tuple(context.tolist()), float(values[number])))
    return peaks


def learn_by_ablation(reader: ModelReader, peaks: Sequence[Peak], max_patterns: int) -> dict[int, TokenGraph]:
    """The graph of every feature that has a peak; without patterns where no peak fires in its context alone."""
    # A peak that needs a longer context than `LONGEST` does not fire in the longest: it would give a pattern that predicts 0 and hides shorter ones.
    pruned = [peak for peak in _prune(reader, peaks) if peak.activation > 0]
    important = _important(reader, pruned)
    measured: dict[int, dict[tuple[int, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for peak, kept in zip(pruned, important, strict=True):
        measured[peak.feature][_masked(peak.tokens, kept)].append(peak.activation)
    for peak, kept, varied, activation in _augment(reader, pruned, important):
        if activation >= KEPT * peak.activation:
            measured[peak.feature][_masked(varied, kept)].append(activation)
    return {feature: _graph(measured[feature], max_patterns) for feature in {peak.feature for peak in peaks}}


def _prune(reader: ModelReader, peaks: Sequence[Peak]) -> list[Peak]:
    """Each peak with its shortest context that keeps enough, and the activation there; the longest where none does."""
    runs = [(number, peak.tokens[-length:]) for number, peak in enumerate(peaks) for length in range(1, len(peak.tokens) + 1)]
    found = reader.activations([run for _, run in runs], [peaks[number].feature for number, _ in runs])
    best: dict[int, Peak] = {}
    enough: set[int] = set()
    for (number, run), activation in zip(runs, found.tolist(), strict=True):
        if number not in enough:
            best[number] = Peak(peaks[number].feature, run, activation)
            if activation >= KEPT * peaks[number].activation:
                enough.add(number)
    return [best[number] for number in range(len(peaks))]


def _important(reader: ModelReader, peaks: Sequence[Peak]) -> list[tuple[bool, ...]]:
    """Find the tokens of each context that count; the firing one always does."""
    runs = [(number, place) for number, peak in enumerate(peaks) for place in range(len(peak.tokens) - 1)]
    without = [_replaced(peaks[number].tokens, place, reader.bos) for number, place in runs]
    found = reader.activations(without, [peaks[number].feature for number, _ in runs])
    kept = [[False] * (len(peak.tokens) - 1) + [True] for peak in peaks]
    for (number, place), activation in zip(runs, found.tolist(), strict=True):
        kept[number][place] = 1 - activation / max(peaks[number].activation, 1e-12) >= IMPORTANT
    return [tuple(each) for each in kept]


def _augment(
    reader: ModelReader, peaks: Sequence[Peak], important: Sequence[tuple[bool, ...]]
) -> list[tuple[Peak, tuple[bool, ...], tuple[int, ...], float]]:
    """Every context with one of its tokens replaced by a likely one, and the activation there."""
    places = [(number, place) for number, kept in enumerate(important) for place, counts in enumerate(kept) if counts]
    likely = reader.predictions([peaks[number].tokens[:place] for number, place in places])
    varied = [
        (number, _replaced(peaks[number].tokens, place, token))
        for (number, place), tokens in zip(places, likely, strict=True)
        for token in tokens
        if token != peaks[number].tokens[place]
    ]
    found = reader.activations([run for _, run in varied], [peaks[number].feature for number, _ in varied])
    return [(peaks[number], important[number], run, activation) for (number, run), activation in zip(varied, found.tolist(), strict=True)]


def _graph(measured: dict[tuple[int, ...], list[float]], max_patterns: int) -> TokenGraph:
    patterns = [Pattern(tokens, float(np.mean(values)), len(values), float(np.sum(values))) for tokens, values in measured.items()]
    patterns.sort(key=lambda pattern: -pattern.gain)
    return WildcardGraph(0.0, patterns[:max_patterns])


def _masked(tokens: tuple[int, ...], kept: tuple[bool, ...]) -> tuple[int, ...]:
    """The context with its ignored tokens marked, those before the first that counts left out."""
    first = kept.index(True)
    return tuple(token if counts else IGNORED for token, counts in zip(tokens[first:], kept[first:], strict=True))


def _replaced(tokens: tuple[int, ...], place: int, token: int) -> tuple[int, ...]:
    return (*tokens[:place], token, *tokens[place + 1 :])
