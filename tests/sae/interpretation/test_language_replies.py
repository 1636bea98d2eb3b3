"""Reading replies: every form that models give is read, drafts and thoughts are not, and whatever comes has a typed result."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sae.interpretation.language_model.replies import LONGEST_EXPLANATION, digits_in, explanation_in, labels_in
from sae.interpretation.language_model.thought import after_thought

ANSWER = "closing brackets"


@pytest.mark.parametrize(
    "text",
    [
        f"EXPLANATION: {ANSWER}",
        f"1. EXPLANATION: {ANSWER}",
        f"2) **EXPLANATION:** {ANSWER}",
        f"> EXPLANATION: {ANSWER}",
        f"`EXPLANATION: {ANSWER}`",
        f"## Explanation\n{ANSWER}",
        f"### **Explanation:**\n\n{ANSWER}\n\nThank you.",
        f"EXPLANATION:\n{ANSWER}",
        f"FINAL EXPLANATION: {ANSWER}",
        f"**Final explanation**: {ANSWER}",
        f"My one-sentence explanation: {ANSWER}",
        f"- Explanation - {ANSWER}",
        f"EXPLANATION：{ANSWER}",
        f'"EXPLANATION: {ANSWER}"'.removesuffix('"'),
        f'EXPLANATION: "{ANSWER}"',
        f'{{"EXPLANATION": "{ANSWER}"}}',
        f'```json\n{{\n  "thoughts": "x",\n  "explanation": "{ANSWER}"\n}}\n```',
        f"{{'explanation': '{ANSWER}'}}",
        f"<explanation>{ANSWER}</explanation>",
        f"EXPLANATION: <the sentence>\nEXPLANATION: {ANSWER}",
        f"EXPLANATION: {ANSWER}\nEXPLANATION: <the sentence>",
        f"EXPLANATION: a draft\nNo, better:\nEXPLANATION: {ANSWER}",
        f"\r\nEXPLANATION: {ANSWER}\r\n",
    ],
)
def test_an_explanation_is_read_in_every_form_models_give(text):
    assert explanation_in(text) == ANSWER


def test_escapes_of_a_json_explanation_are_undone():
    assert explanation_in('{"EXPLANATION": "the \\"quoted\\" \\u00e9 \\ud83d"}') == 'the "quoted" é \ufffd'


@pytest.mark.parametrize(
    "text",
    [
        *("EXPLANATION: <the sentence>", "EXPLANATION: the sentence", "EXPLANATION: [your explanation here]", "EXPLANATION: <sentence>."),
        *(
            "EXPLANATION: ...",
            "EXPLANATION: <…>",
            "EXPLANATION: **<the sentence>**",
            '{"EXPLANATION": "<the sentence>"}',
            "EXPLANATION: {the_sentence}",
        ),
        *("## Explanation\n", "I have no EXPLANATION: sorry", "an explanation of brackets", "<think>EXPLANATION: brackets"),
    ],
)
def test_a_form_that_was_not_filled_in_is_no_explanation(text):
    assert explanation_in(text) is None


@pytest.mark.parametrize(
    "text", ["EXPLANATION: the", "EXPLANATION: the sentence after a colon", "EXPLANATION: <br> tags", "EXPLANATION: a text in braces"]
)
def test_a_short_explanation_is_one(text):
    assert explanation_in(text) == text.removeprefix("EXPLANATION: ")


@pytest.mark.parametrize(
    "text",
    [
        *("[1, 0, 1]", "[1.0, 0.0, 1.0]", "[1, 0, 1,]", "['1', '0', '1']", "[true, false, TRUE]", "[ 1 ,\n 0 ,\n 1 ]"),
        *('{"1": 1, "2": 0, "3": 1}', '{"3": 1, "1": 1, "2": 0}', "{1: 1, 2: 0.0, 3: true,}", '{"piece 1": 1, "piece 2": 0, "piece 3": 1}'),
        *(
            '{"labels": [1, 0, 1]}',
            "Draft: [0, 0, 0]. Final: [1, 0, 1]",
            '[0, 0, 0]\n{"1": 1, "2": 0, "3": 1}',
            '{"1": 0, "2": 0, "3": 0}\n[1, 0, 1]',
        ),
    ],
)
def test_labels_are_read_in_every_form_models_give(text):
    assert labels_in(text, 3) == [1, 0, 1]


@pytest.mark.parametrize(
    "text",
    [
        *("[1, 0, 0.5]", "[1, 0, 10]", '{"1": 1, "2": 0}', '{"1": 1, "2": 0, "2": 1, "3": 1}', '{"1": 1, "2": 0, "4": 1}', "[1, 0, null]"),
        *("[1,, 0]", "[,]", "{}", "[one, zero, one]", "<think>[1, 0, 1]", "[1, 0, 1,,]"),
    ],
)
def test_other_lists_are_not_labels(text):
    assert labels_in(text, 3) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *(("[0]", 0), ("Answer: [1]", 1), ("```json\n[0]\n```", 0), ("**[1]**", 1), ('{"1": 0}', 0), ("[0]\nIt does not.", 0)),
        *(("[0]\nFor the reason see piece [1].", 0), ("They agree.\n[1]\n[1]", 1)),
        *(("see piece [1]", None), ("[1]: 0", None), ("[0] as in piece [1]", None), ("[1]\n[0]", None), ("Piece [1] is silent.", None)),
    ],
)
def test_the_label_of_one_item_is_not_a_reference_to_it(text, label):
    assert labels_in(text, 1) == (None if label is None else [label])


@pytest.mark.parametrize(
    ("text", "lists"),
    [
        ('{"1": [0, 9], "2": [3]}', [[0, 9], [3]]),
        ('{"1": [0.0, 9.0,], "2": [3.0],}', [[0, 9], [3]]),
        ('Draft: {"1": [1, 1], "2": [1]}\nFinal: {"1": [0, 9], "2": [3]}', [[0, 9], [3]]),
        ('{"1": [1, 1], "2": [1]}\nBetter: {"1": [0, 9], "2": [', [[0, 9], None]),
        ('{"1": [0, 9]}\n{"2": [3]}', [[0, 9], [3]]),
        ("1: [0, 9]\n2: [3]", [[0, 9], [3]]),
        ("- 1: [0, 9]\n- 2: [3]", [[0, 9], [3]]),
        ('{"1": [0, 9], "1": [0, 8], "2": [3]}', [None, [3]]),
        ('{"1": [0, 9.5], "2": [-3]}', [None, None]),
        ('<think>{"1": [0, 9], "2": [3]}', [None, None]),
    ],
)
def test_digits_are_those_of_the_last_object(text, lists):
    assert digits_in(text, [2, 1]) == lists


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        *(("<think>", "</think>"), ("<THINK>", "</THINK>"), ('<thinking effort="high">', "</thinking>"), ("< thought >", "</ thought >")),
        *(("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|START_THINKING|>", "<|END_THINKING|>")),
        *(("<|begin_of_thought|>", "<|end_of_thought|>"), ("<seed:think>", "</seed:think>"), ("<scratchpad>", "</scratchpad>")),
        *(("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"), ("<|channel>thought\n", "<channel|>")),
        *(
            ("analysisWe", "assistantfinal"),
            ("<think>\n<think>a</think>", "</think>"),
            ("Sure.<think>", "</think>"),
            ("<antThinking>", "</antThinking>"),
        ),
    ],
)
def test_only_what_follows_a_finished_thought_is_an_answer(begin, end):
    thought = " Say [1, 1] or [0, 1]; EXPLANATION: a draft"
    assert after_thought(f"{begin}{thought}") is None
    assert labels_in(f"[1, 1] {begin}{thought}" if begin[0] != "a" else begin + thought, 2) is None
    assert after_thought(f"{begin}{thought}{end}[1, 0]") == "[1, 0]"
    if begin[0] == "<":
        assert after_thought(f"{begin}{thought}{end}[1, 0]{begin}{thought}") is None


def test_a_thought_whose_beginning_the_server_kept_ends_as_well():
    assert after_thought("Let me see: [1, 1].\n</think>\n[0, 1]") == "\n[0, 1]"


@pytest.mark.parametrize(
    "text", ["the tag `<think>` in chat logs", 'the "<thinking>" tag', "<think/> and [analysis]", "thinking [1]", "<b>reasoning</b>", "<channel>"]
)
def test_a_word_about_thinking_is_no_thought(text):
    assert after_thought(text) == text


def test_a_thought_longer_than_what_is_looked_at_is_not_an_answer():
    assert labels_in("<think>" + "so [1, 0]. " * 30_000, 2) is None
    assert labels_in("<think>" + "so [1, 0]. " * 30_000 + "</think>[0, 0]", 2) == [0, 0]


PIECES = st.sampled_from(
    [
        "EXPLANATION:",
        "<think>",
        "</think>",
        "[THINK]",
        "[",
        "]",
        "{",
        "}",
        '"1": [',
        "1",
        "0",
        ", ",
        "\n",
        '"',
        "'",
        "\\",
        "explanation",
        "<the sentence>",
    ]
)
REPLIES = st.one_of(st.text(), st.lists(PIECES | st.text(max_size=3), max_size=60).map("".join))


@pytest.mark.fuzz
@given(REPLIES, st.lists(st.integers(1, 5), min_size=1, max_size=5))
@example('{"explanation": "\\ud83d"}', [1])
def test_any_reply_has_a_typed_result(text, sizes):
    sentence, labels, digits = explanation_in(text), labels_in(text, len(sizes)), digits_in(text, sizes)
    assert sentence is None or (0 < len(sentence) <= LONGEST_EXPLANATION and "\n" not in sentence)
    assert labels is None or (len(labels) == len(sizes) and set(labels) <= {0, 1})
    assert [each if each is None else len(each) for each in digits] == [
        None if each is None else size for each, size in zip(digits, sizes, strict=True)
    ]
    assert all(0 <= digit <= 9 for each in digits if each for digit in each)


@pytest.mark.parametrize(
    "text",
    [
        "1: [1], " * 100_000,
        "explanation\n" * 50_000,
        "\n" * 500_000,
        "((((((((((((((((\n" * 20_000,
        '{"explanation":"' * 30_000,
        "<think " * 60_000,
        "{1:1," * 90_000,
    ],
)
def test_no_reply_takes_long_to_read(text):
    began = time.process_time()
    explanation_in(text), labels_in(text, 3), digits_in(text, [3])
    assert time.process_time() - began < 2
