"""The records that explanations in words leave beside a source's other ones.

::

    <output>/<source>/llm_plan.json             first: what determines an explanation; another plan in the same place is an error
                                                (and in `tables` the SHA-256 of the tables below, so that no run takes up changed ones)
    <output>/<source>/llm/<feature>.json        every reply about a feature that is not finished, or has questions that the endpoint failed at
                                                and the next run asks again; removed when every question is answered
    <output>/<source>/llm_explanations.parquet  one row per explained feature and explainer, in the order of (`feature`, `explainer`)
    <output>/<source>/llm_replies.parquet       every reply those rows rest on: feature, request (SHA-256 of what was asked), purpose, outcome, text,
                                                prompt_tokens, reply_tokens, cost
    <output>/<source>/summary.json              `language_model` is added to it (`summary`)
    <output>/llm_spent.json                     what the output has cost so far: requests, prompt_tokens, reply_tokens, cost, and `reserved`, US
                                                dollars set aside for requests under way (0 at the end of a run; after a kill they count as spent)

llm_explanations.parquet (`SCHEMA`); whoever shows it needs no other file but `features.parquet`, which it joins by `feature`
    feature               uint32   index in the source
    explainer             string   "highlights" | "activations": how examples were shown
    explanation           string   the model's sentence, one line, from a model that read hostile text: show it as text; null where there is none
    explanation_outcome   string   "answered"; else why there is none: "unreadable" (no EXPLANATION: line), "refused", "truncated", "empty",
                                   "too_long" (even with one example), "cut" (the server read a part of the prompt), "rejected", "failed"
    examples_shown        int32    explanation examples in the question
    not_scored_reason     string   null where it was scored by every scorer asked for; else why not, the scorers that could not separated by "; "
    single_token          bool     as in features.parquet
    simulation_spearman   float64  -1 to 1, chance 0: digits 0 to 9 predicted by the model from its sentence, against the true ones, all tokens
    simulation_pearson    float64  the same, Pearson
    importance_spearman   float64  the same, tokens weighted as in Towards Monosemanticity; tends to 0, do not rank by it
    detection_accuracy    float64  0 to 1, chance 0.5 (balanced): does the feature fire in this text?
    detection_hard_accuracy  float64  the same firing examples against hard negatives, where features like this one fire; null if there are none
    detection_f1          float64
    fuzzing_accuracy      float64  0 to 1, chance 0.5 (balanced): are the marked tokens those on which it fires?
    fuzzing_hard_accuracy    float64
    fuzzing_f1            float64
    logits_accuracy       float64  0 to 1, chance 0.5 (balanced): which next tokens does it make likelier?
    logits_f1             float64
    num_items             int32    answers asked for: the explanation, and those of the scorers (an example of `simulation` is one)
    num_unread            int32    those of them that no reply gave; left out of the scores
    scorers               string   JSON by scorer: {"items", "unread"} and, where labels were asked, "true_positive", "false_positive",
                                   "true_negative", "false_negative" (no hard negatives), "right_by_kind" {interval of the activation,
                                   or kind of a silent example: share told right}
    outcomes              string   JSON: {"explain" or a scorer: {outcome of a request: number of requests}}; "partly_read" and "unreadable":
                                   a reply came but did not give all, or any, of the answers
    requests              int32    requests, those asked again in smaller pieces included
    prompt_tokens         int64    tokens sent
    reply_tokens          int64    tokens got
    cost                  float64  US dollars at the prices given; 0 where none were
    model                 string   as the endpoint was asked for it
    prompts               string   JSON: SHA-256 of every prompt file used, by name
"""

import pyarrow as pa

from sae.interpretation.language_model.scores import CHANCE
from sae.interpretation.records import EXPLANATIONS_KEY

__all__ = ["EXPLANATIONS_KEY", "JOURNALS", "PLAN_KEY", "REPLIES_KEY", "REPLIES_SCHEMA", "SCHEMA", "SCORES", "SPENT_KEY"]

PLAN_KEY, REPLIES_KEY = "llm_plan.json", "llm_replies.parquet"
JOURNALS = "llm"
SPENT_KEY = "llm_spent.json"

SCORES = (*CHANCE, "detection_f1", "fuzzing_f1", "logits_f1")
SCHEMA = pa.schema(
    [
        ("feature", pa.uint32()),
        ("explainer", pa.string()),
        ("explanation", pa.string()),
        ("explanation_outcome", pa.string()),
        ("examples_shown", pa.int32()),
        ("not_scored_reason", pa.string()),
        ("single_token", pa.bool_()),
        *((name, pa.float64()) for name in SCORES),
        ("num_items", pa.int32()),
        ("num_unread", pa.int32()),
        ("scorers", pa.string()),
        ("outcomes", pa.string()),
        ("requests", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("reply_tokens", pa.int64()),
        ("cost", pa.float64()),
        ("model", pa.string()),
        ("prompts", pa.string()),
    ]
)
REPLIES_SCHEMA = pa.schema(
    [
        ("feature", pa.uint32()),
        ("request", pa.string()),
        ("purpose", pa.string()),
        ("outcome", pa.string()),
        ("text", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("reply_tokens", pa.int64()),
        ("cost", pa.float64()),
    ]
)
