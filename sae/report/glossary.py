"""Every number the report shows, in one line with its formula and source; the table of docs/metrics.md is made of the same."""

from dataclasses import dataclass

from sae.rating.rubric import MOST
from sae.report.figures import EXPLAINED, GROUPS, HELD_OUT, LOSSES, NEIGHBOURS, OF_CLUSTERS, SPARSITY, ULTRA_LOW, Figure

TM = "Bricken et al. 2023, Towards Monosemanticity"
DELPHI = "Paulo et al. 2024 (arXiv 2410.13928)"
BILLS = "Bills et al. 2023, Language models can explain neurons in language models"


def _figure(name: str, says: str, formula: str, source: str = "") -> Figure:
    return Figure(name, "", "", says, formula, source)


EXPLANATIONS = (
    EXPLAINED,
    *HELD_OUT,
    _figure(
        "Single-token feature",
        "Easy to explain, so scores are given with and without them; a dictionary of a shuffled model holds little else.",
        "in the 20 strongest examples the strongest token is the same",
        f"{TM}, automated interpretability",
    ),
    _figure(
        "Difference within noise",
        "Whether two sources might score alike with other features.",
        "95 % bootstrap interval of median(a) − median(b), features of each drawn anew, holds 0",
    ),
    _figure(
        "Controls",
        "What chance, or a cheaper method, scores with the same text, examples and explainer.",
        "neurons, or coordinates where there are none; random directions; principal and independent components; NMF; a dictionary with random "
        "weights; a dictionary of the model with the entries of each weight matrix shuffled",
        f"{TM}; Cunningham et al. 2023 (arXiv 2309.08600)",
    ),
)
WORDS = (
    _figure(
        "Simulation",
        "How well a language model that reads only the explanation predicts the activation of every token; chance 0.",
        "correlation of predicted and true digits 0 to 9 over all tokens of the scoring examples; 0 where either is constant",
        BILLS,
    ),
    _figure(
        "Detection",
        "Whether it tells texts on which the feature fires from others; chance 0.5.",
        "(TP / (TP + FN) + TN / (TN + FP)) / 2",
        DELPHI,
    ),
    _figure(
        "Fuzzing",
        "Whether it tells the tokens on which the feature fires from others marked at random; chance 0.5.",
        "(TP / (TP + FN) + TN / (TN + FP)) / 2",
        DELPHI,
    ),
    _figure(
        "Next tokens",
        "Whether it tells tokens that the feature makes likelier from random ones; chance 0.5.",
        "balanced accuracy over tokens of ranks 11 to 60 of the logit effects and as many random ones",
        f"{TM}, logit weights",
    ),
    _figure(
        "Weighted by importance",
        "Simulation with each token weighted by how often its like occurs; nearly all weight lies on zeros, so it tends to 0: do not rank by it.",
        "Spearman with weight 1 for tokens of random examples, density · P(interval) for those of an interval",
        f"{TM}, automated interpretability",
    ),
)
PEOPLE = (
    _figure(
        "Points",
        "How well a person who sees only examples and effects can say what a feature stands for.",
        f"confidence 0–3 + examples 0–5 + next tokens 0–3 + specificity 0–3 = 0 to {MOST}; without next tokens the rest is stretched to {MOST}",
        f"{TM}, feature interpretability rubric",
    ),
    _figure(
        "Agreement with people",
        "Whether an automatic score orders features as people do.",
        "Pearson and Spearman correlation of mean points and score over rated features; interval: bootstrap over features",
    ),
    _figure(
        "Agreement of two raters",
        "What no score need exceed.",
        "the same correlations over the features both rated; mean of |points − points|",
    ),
)
EFFECTS = (
    _figure(
        "Density",
        "How often a feature fires.",
        "tokens on which it is above 0 / tokens",
        f"{TM}, feature density",
    ),
    _figure(
        "Effect on the next token",
        "What a feature makes the model say, directly.",
        "d_i · W_out · W_U with the last layer norm made linear, less its median over the vocabulary; per unit of activation",
        f"{TM}, feature logit weights",
    ),
    *NEIGHBOURS,
)
CONCEPTS = (
    _figure(
        "Concept detection, F1",
        "How well one feature (or a few) tells text of a label from all other, beside the best neuron.",
        "2 TP / (2 TP + FP + FN) on the held-out half; unit, sign and threshold chosen on the other half",
        f"{TM}, Arabic, Hebrew, DNA and base64 studies; SAEBench sparse probing (arXiv 2503.09532)",
    ),
    _figure("Sensitivity, specificity", "Share of the label's tokens found, and of the others left alone.", "TP / (TP + FN); TN / (TN + FP)"),
    _figure(
        "Proxy",
        "A guess at the label from the text alone, to compare activations with.",
        "log P(token | label) − log P(token), floor 1e-10; Pearson with the activation",
        f"{TM}, feature proxies",
    ),
)
CLUSTERS = (ULTRA_LOW, *OF_CLUSTERS)
SECTIONS: tuple[tuple[str, tuple[Figure, ...]], ...] = (
    *((title, (*figures, *CLUSTERS) if title == SPARSITY else figures) for title, figures in GROUPS.items()),
    ("Cross-entropy and perplexity", LOSSES),
    ("Features", EFFECTS),
    ("Explanations by token patterns", EXPLANATIONS),
    ("Explanations in words", WORDS),
    ("People", PEOPLE),
    ("Concepts in labelled text", CONCEPTS),
)


@dataclass(frozen=True)
class Entry:
    """A number of the glossary."""

    name: str
    says: str
    formula: str
    source: str


def glossary() -> list[tuple[str, list[Entry]]]:
    """All numbers by section."""
    return [(title, [Entry(each.name, each.says, each.formula, each.source) for each in figures]) for title, figures in SECTIONS]


def glossary_markdown() -> str:
    """The same as a Markdown table, as docs/metrics.md has it."""
    lines = ["| number | what it says | formula | source |", "|---|---|---|---|"]
    for _, entries in glossary():
        cells = ([cell.replace("|", "\\|") for cell in (each.name, each.says, each.formula, each.source)] for each in entries)
        lines += [f"| {' | '.join(row)} |".replace("  ", " ") for row in cells]
    return "\n".join(lines) + "\n"
