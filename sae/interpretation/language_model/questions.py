"""Questions to a scorer: items whose answers are known, some of them in each request.

`simulation` asks for a digit at every token of every scoring example but the hard negatives: the examples of `score_spearman`. `detection` asks
of whole examples whether the feature fires in them, `fuzzing` whether the marked tokens are those on which it fires; both of as many firing as
silent examples, so that guessing is right half of the time, and of the hard negatives, which have a score of their own. `logits` asks of 50
tokens that the feature makes likelier and 50 random ones. References: as in `scores`.
"""

from dataclasses import dataclass

import numpy as np

from sae.interpretation.language_model.config import LanguageModelConfig, ScorerName
from sae.interpretation.language_model.exchange import Request
from sae.interpretation.language_model.explainers import marks_of
from sae.interpretation.language_model.fencing import fenced, highlighted, one_line, token_list, token_literal
from sae.interpretation.language_model.material import Example, FeatureMaterial, Vocabulary
from sae.interpretation.language_model.prompts import messages
from sae.interpretation.language_model.replies import digits_in, labels_in
from sae.interpretation.sampling import draw_seed
from sae.interpretation.scoring import quantised

MIN_OF_EACH = 5  # firing, and silent, examples below which nothing is asked
TOKENS_PER_EXAMPLE = 5  # single tokens are asked this many times as many at once as examples
TOKENS_A_DIGIT, TOKENS_A_LIST = 3, 12  # of a reply, generously
NO_PATH = "the hookpoint has no path to the logits, or the index was made without `further_logits`"
TOO_FEW = f"fewer than {MIN_OF_EACH} firing or {MIN_OF_EACH} silent scoring examples"


@dataclass(frozen=True)
class Item:
    """One thing that is asked about.

    Attributes:
        line: how it is shown, without its number.
        truth: the right answer: a label, or the digit of each token.
        example: where it comes from; None for a single token.
    """

    line: str
    truth: list[int]
    example: Example | None = None

    @property
    def hard(self) -> bool:
        """Say whether it is a hard negative."""
        return self.example is not None and self.example.hard


def items_of(scorer: ScorerName, material: FeatureMaterial, vocabulary: Vocabulary, seed: int) -> list[Item] | str:
    """All that a scorer asks about a feature, in a seeded order; or, as a string, why it can ask nothing."""
    draw = np.random.default_rng(draw_seed(seed, scorer, material.source, material.feature))
    if scorer == "logits":
        items = _logit_items(material, vocabulary, draw)
    elif scorer == "simulation":
        examples = [example for example in material.scored if not example.hard]
        digits = [quantised(example.activations, material.maximum).astype(int).tolist() for example in examples]
        items = [Item(token_list(example.tokens), truth, example) for example, truth in zip(examples, digits, strict=True)]
    else:
        items = _labelled_items(scorer, material, draw)
    if not items:
        return NO_PATH if scorer == "logits" else TOO_FEW
    return [items[index] for index in draw.permutation(len(items))]


def batches_of(scorer: ScorerName, items: list[Item], config: LanguageModelConfig) -> list[list[Item]]:
    """The items of each request."""
    size = config.examples_per_request * (TOKENS_PER_EXAMPLE if scorer == "logits" else 1)
    return [items[first : first + size] for first in range(0, len(items), size)]


def scoring_request(scorer: ScorerName, items: list[Item], explanation: str, config: LanguageModelConfig) -> Request:
    """The question about some items, given an explanation."""
    lines = [f"{number}: {item.line}" for number, item in enumerate(items, 1)]
    data = fenced("tokens" if scorer == "logits" else "pieces", lines)
    filled = messages(scorer, explanation=fenced("sentence", [one_line(explanation)]), examples=data)
    answers = sum(len(item.truth) for item in items)
    expected = answers * TOKENS_A_DIGIT + (len(items) if scorer == "simulation" else 1) * TOKENS_A_LIST
    return Request(scorer, filled, expected + config.replies.spare_tokens, expected, divisible=len(items) > 1)


def answers_in(scorer: ScorerName, text: str, items: list[Item]) -> list[list[int] | None]:
    """The answer to each item, None where the reply does not give one that can be read."""
    if scorer == "simulation":
        return digits_in(text, [len(item.truth) for item in items])
    labels = labels_in(text, len(items))
    return [None] * len(items) if labels is None else [[label] for label in labels]


def _labelled_items(scorer: ScorerName, material: FeatureMaterial, draw: np.random.Generator) -> list[Item]:
    firing = [example for example in material.scored if example.kind in ("top", "interval") and example.strongest > 0]
    silent = [example for example in material.scored if example.strongest == 0 and not example.hard]
    hard = [example for example in material.scored if example.strongest == 0 and example.hard]
    size = min(len(firing), len(silent))
    if size < MIN_OF_EACH:
        return []
    firing = [firing[index] for index in np.sort(draw.choice(len(firing), size, replace=False))]
    silent = [*(silent[index] for index in np.sort(draw.choice(len(silent), size, replace=False))), *hard]
    if scorer == "detection":
        return [Item(highlighted(each.tokens, [False] * len(each.tokens)), [int(each.strongest > 0)], each) for each in (*firing, *silent)]
    marks = [marks_of(example) for example in firing]
    mean = int(np.ceil(np.mean([mark.sum() for mark in marks])))
    marks += [_random_marks(example, mean, draw) for example in silent]
    examples = (*firing, *silent)
    return [Item(highlighted(each.tokens, mark), [int(each.strongest > 0)], each) for each, mark in zip(examples, marks, strict=True)]


def _random_marks(example: Example, count: int, draw: np.random.Generator) -> np.ndarray:
    """As many random tokens of a silent example as firing ones have marked on average."""
    marks = np.zeros(len(example.tokens), bool)
    readable = np.flatnonzero(example.readable)
    marks[draw.choice(readable, min(count, len(readable)), replace=False)] = True
    return marks


def _logit_items(material: FeatureMaterial, vocabulary: Vocabulary, draw: np.random.Generator) -> list[Item]:
    raised = [vocabulary.text(token) for token in material.further or []]
    if not raised:
        return []
    known, special = set(material.further or []), set(vocabulary.special)
    top = set(material.raised)
    others = np.array([token for token, text in enumerate(vocabulary.texts) if token not in known and token not in special and text not in top])
    random = [vocabulary.text(token) for token in draw.choice(others, min(len(raised), len(others)), replace=False).tolist()]
    return [Item(token_literal(token), [int(rank < len(raised))]) for rank, token in enumerate((*raised, *random))]
