"""Examples of a feature as each explainer is shown them.

`highlights`: firing examples, tokens of at least 0.3 times the example's strongest activation marked, as delphi does (Paulo et al. 2024, arXiv
2410.13928). `activations`: each token with `ceil(10 a / maximum)`, 0 to 10, and some silent examples beside the firing ones (Bills et al.
2023, *Language models can explain neurons in language models*).
"""

import numpy as np

from sae.interpretation.language_model.config import ExplainerName, LanguageModelConfig
from sae.interpretation.language_model.exchange import Request
from sae.interpretation.language_model.fencing import fenced, highlighted, token_literal
from sae.interpretation.language_model.material import Example, FeatureMaterial
from sae.interpretation.language_model.prompts import messages
from sae.visible_text import whole_characters

HIGHLIGHTED = 0.3  # of an example's strongest activation
STEPS = 10
SILENT_SHARE = 4  # one silent example is shown for this many firing ones
EXPLANATION_TOKENS = 60  # expected of a sentence


def explanation_request(name: ExplainerName, material: FeatureMaterial, config: LanguageModelConfig, num_examples: int) -> Request:
    """The question what a feature fires on, with up to `num_examples` of its explanation examples."""
    shown = firing_examples(material.shown, num_examples)
    if name == "highlights":
        lines = [f"{_step(example.strongest, material.maximum)}: {highlighted(example.tokens, marks_of(example))}" for example in shown]
    else:
        silent = silent_examples(material.shown, max(1, num_examples // SILENT_SHARE))
        lines = [_with_activations(example, material.maximum) for example in (*shown, *silent)]
    logits = ", ".join(map(token_literal, material.raised)) if config.logit_effects else ""
    filled = messages(f"explain_{name}", examples=fenced("pieces", lines), logits=fenced("tokens", [logits]) if logits else "")
    return Request("explain", filled, config.replies.spare_tokens, EXPLANATION_TOKENS, divisible=num_examples > 1)


def firing_examples(examples: list[Example], wanted: int) -> list[Example]:
    """Up to `wanted` examples that fire: half of them the strongest, half from the intervals, evenly spread over their strengths."""
    top = [example for example in examples if example.kind == "top"]
    others = sorted((example for example in examples if example.kind == "interval"), key=lambda example: -example.strongest)
    spread = [others[index] for index in np.unique(np.linspace(0, len(others) - 1, min(len(others), wanted // 2)).astype(int))] if others else []
    chosen = [*top[: wanted - len(spread)], *spread]
    return sorted((example for example in chosen if example.strongest > 0), key=lambda example: -example.strongest)


def silent_examples(examples: list[Example], wanted: int) -> list[Example]:
    """Up to `wanted` examples in which it does not fire: half of them, as far as there are, hard negatives."""
    silent = [example for example in examples if example.strongest == 0]
    hard = [example for example in silent if example.hard][: -(-wanted // 2)]
    return [*hard, *(example for example in silent if not example.hard)][:wanted]


def marks_of(example: Example) -> np.ndarray:
    """Find the tokens of a firing example that are marked."""
    return (example.activations > 0) & (example.activations >= HIGHLIGHTED * example.strongest)


def _with_activations(example: Example, maximum: float) -> str:
    texts, steps = example.tokens, [_step(value, maximum) for value in example.activations]
    groups = whole_characters(texts)  # tokens that make up one character are one pair, with the strongest of their activations
    pairs = [f"[{token_literal(''.join(texts[place] for place in group))}, {max(steps[place] for place in group)}]" for group in groups]
    return f"[{', '.join(pairs)}]"


def _step(activation: float, maximum: float) -> int:
    return int(np.clip(np.ceil(STEPS * activation / maximum), 0, STEPS))
