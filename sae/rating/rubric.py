"""Questions to a person about a feature: four grades, 14 points in all.

Source: Towards Monosemanticity, appendix "Feature Interpretability Rubric": confidence (3), consistency of the activations (5) and of the
logit effects (3) with the interpretation, specificity (3). The paper's raters saw one interval of a feature's activations at a time; ours
see examples of all intervals of one feature at once, since the automatic score they are compared with is of the whole feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One question of the rubric.

    Attributes:
        key: its name in a rating.
        title: what people read.
        asks: the question.
        grades: what each grade means, from 0 on; the last is the best.
    """

    key: str
    title: str
    asks: str
    grades: tuple[str, ...]

    @property
    def most(self) -> int:
        """The best grade."""
        return len(self.grades) - 1


PARTS = (
    Part(
        "confidence",
        "Confidence",
        "How sure are you of your interpretation?",
        ("I have none", "a guess", "likely, with doubts", "sure"),
    ),
    Part(
        "activations",
        "Examples",
        "How well do the activations in the examples fit it?",
        (
            "no pattern in them",
            "a few fit",
            "half of them fit",
            "most fit, with clear exceptions",
            "nearly all fit",
            "all fit, the stronger the better",
        ),
    ),
    Part(
        "logits",
        "Next tokens",
        "How well do the tokens it makes likelier fit it?",
        ("not at all, or nothing to be seen", "some do", "most do", "all do"),
    ),
    Part(
        "specificity",
        "Specificity",
        "How specific is your interpretation?",
        ("none, or it says nothing", "vague, such as “nouns”", "a clear class", "exactly these tokens or contexts"),
    ),
)
MOST = sum(part.most for part in PARTS)


def total(grades: Mapping[str, int | None]) -> float:
    """The points of a rating, 0 to 14: `14 · sum of grades / sum of the best grades`, over the parts that were asked.

    The effects on next tokens are not asked where the hookpoint has none (grade None); elsewhere this is the plain sum.
    """
    asked = [part for part in PARTS if grades[part.key] is not None]
    return MOST * sum(grades[part.key] or 0 for part in asked) / sum(part.most for part in asked)
