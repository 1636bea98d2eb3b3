"""Settings of an interpretation, and the records it leaves.

One directory per *source* (a dictionary by its name; `neurons`; the controls `random_directions`, `pca`, `ica`, `nmf`, `random_dictionary`, and
`shuffled_<name>`: a dictionary of the run on the weight-shuffled model), `vocabulary.json` (`sae.interpretation.text.vocabulary`) and
`comparison.json` (`sae.interpretation.comparison`)::

    <output>/<source>/plan.json          first: the inputs; another plan in the same place is an error
    <output>/<source>/scratch/...        every firing of every feature, logit effects, finished ranges of features; removed at the end
    <output>/<source>/features.parquet   one row per examined feature, in the order of `feature`
    <output>/<source>/examples.parquet   one row per example, in the order of (`feature`, `used_for`, `kind` as below, rank)
    <output>/<source>/summary.json       last: the source is finished

features.parquet (`FEATURES_SCHEMA`)
    feature               uint32   index in the source
    density               float64  share of the explanation tokens (special tokens left out) on which it fires
    num_firing            int64    those tokens
    max_activation        float32  its largest activation on them, raw units of the source
    activation_histogram  struct<edges list<float32>[13], counts list<int64>[12]>: firings in 12 even intervals of (0, max]; null if silent
    explanation           string   a sentence for people; empty if silent
    patterns              string   JSON: {"default": mean elsewhere, "patterns": [{"tokens": [ids, the firing token last], "texts": [...],
                                   "mean": predicted activation, "count": occurrences in the explanation text}, ...]}, strongest first
    score_spearman        float64  rank correlation of predicted and true activation, both as digits 0 to 9, on the tokens of the scoring
                                   examples; 0 where either is constant; null if not scored
    score_draws           list<float64>[3]  the same on three draws of scoring examples, the first of which is that of `score_spearman`; null if not
                                   scored
    score_pearson         float64  the same, Pearson; null if not scored
    score_hard            float64  as `score_spearman`, on the examples that fire ("top", "interval") and the hard negatives alone; null if there are
                                   none of these, or not scored
    score_all_tokens      float64  Pearson of predicted and true raw activations over every token of the scoring text (nearly all are 0)
    spearman_all_tokens   float64  the same, Spearman
    variance_explained    float64  1 - sum (a - predicted)^2 / sum (a - mean)^2 over the same tokens; below 0 where the mean predicts better
    firing_precision      float64  of the tokens that the explanation says fire, the share that does; it says so where it expects at least half of the
                                   feature's mean activation when it fires on the explanation text
    firing_recall         float64  of the tokens that fire, the share it says so of
    firing_f1             float64  their harmonic mean. These six are null where the feature is silent on either text
    not_scored_reason     string   null if scored
    single_token          bool     the 20 strongest examples all peak on one token; null if silent
    top_logits            list<struct<token_id uint32, text string, effect float32>>, largest effect first; empty where the hookpoint has none
    bottom_logits         the same, most negative first
    co_firing             list<struct<feature uint32, phi float32>>, largest first: the examined features of the source that fire with it most; phi is
                          the correlation of the two firing or not, on the explanation text
    similar               list<struct<feature uint32, cosine float32>>, largest first: those whose directions are most like its own
    further_logits        list<uint32>: the tokens at ranks 11 to 60 of the effects, largest first; those of the logit test, which no explainer sees

examples.parquet (`EXAMPLES_SCHEMA`)
    feature      uint32
    kind         string   "top" | "interval" | "random" | "out_of_context" (a token of the top examples, wherever else it stands)
                          | "hard_negative" (`peak` is where a feature of `co_firing` or `similar` fires strongly; this one is silent in all
                          that is shown). `score_spearman` is computed on all kinds but the last
    interval     int8     0 (weakest) .. 11, of the activation at `peak`; -1 where the feature does not fire there
    used_for     string   "explanation" (what people and explainers see) | "scoring" (what the score was computed on)
    split        string   "train" for explanation, "held_out" for scoring
    sequence_id  uint32   in the corpus' split
    position     uint32   in the sequence, of the first token shown
    peak         uint16   index into `tokens` of the token the example was chosen for
    tokens       list<uint32>
    activations  list<float32>   same length; 0 at special tokens, where features are not read
    predicted    list<float32>   same length, for scoring examples; null for explanation examples
summary.json (`sae.interpretation.summary`)
    source, kind, control (bool: anything but a dictionary), hookpoint, num_features, num_examined, num_live, num_scored,
    not_scored {reason: features}, explanation_score_median, explanation_score_interval [low, high] (95 % bootstrap over features),
    draw_medians (on each of the `score_draws`), pearson_median, all_tokens_median, held_out_medians (of the columns that all
    held-out tokens are measured by, over scored features), score_quantiles {"0.05" .. "0.95"},
    score_histogram {edges, counts}, single_token and multiple_tokens {num_features, num_scored, explanation_score_median,
    explanation_score_interval}, explanation_tokens, scoring_tokens, repeated_fraction, config, seed. Medians and intervals are null
    where nothing was scored.
"""

from typing import Literal, Self

import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from sae.config import Config, Seed
from sae.interpretation.sources.controls import ControlsConfig

EXPLANATIONS_KEY = "llm_explanations.parquet"  # of a source, where a language model was asked (`language_model.records`)
NUM_INTERVALS = 12
SCORING_DRAWS = 3  # times that the examples of a score are drawn, to see how much it hangs on the draw
KINDS = ("top", "interval", "random", "out_of_context", "hard_negative")
HARD = KINDS.index("hard_negative")

_LOGITS = pa.list_(pa.struct([("token_id", pa.uint32()), ("text", pa.string()), ("effect", pa.float32())]))
FEATURES_SCHEMA = pa.schema(
    [
        ("feature", pa.uint32()),
        ("density", pa.float64()),
        ("num_firing", pa.int64()),
        ("max_activation", pa.float32()),
        ("activation_histogram", pa.struct([("edges", pa.list_(pa.float32())), ("counts", pa.list_(pa.int64()))])),
        ("explanation", pa.string()),
        ("patterns", pa.string()),
        ("score_spearman", pa.float64()),
        ("score_draws", pa.list_(pa.float64())),
        ("score_pearson", pa.float64()),
        ("score_all_tokens", pa.float64()),
        ("score_hard", pa.float64()),
        ("firing_precision", pa.float64()),
        ("firing_recall", pa.float64()),
        ("firing_f1", pa.float64()),
        ("variance_explained", pa.float64()),
        ("spearman_all_tokens", pa.float64()),
        ("not_scored_reason", pa.string()),
        ("single_token", pa.bool_()),
        ("top_logits", _LOGITS),
        ("bottom_logits", _LOGITS),
        ("co_firing", pa.list_(pa.struct([("feature", pa.uint32()), ("phi", pa.float32())]))),
        ("similar", pa.list_(pa.struct([("feature", pa.uint32()), ("cosine", pa.float32())]))),
        ("further_logits", pa.list_(pa.uint32())),
    ]
)
EXAMPLES_SCHEMA = pa.schema(
    [
        ("feature", pa.uint32()),
        ("kind", pa.string()),
        ("interval", pa.int8()),
        ("used_for", pa.string()),
        ("split", pa.string()),
        ("sequence_id", pa.uint32()),
        ("position", pa.uint32()),
        ("peak", pa.uint16()),
        ("tokens", pa.list_(pa.uint32())),
        ("activations", pa.list_(pa.float32())),
        ("predicted", pa.list_(pa.float32())),
    ]
)


MOST_EXAMPLE_TOKENS = 50_000  # of a feature; the defaults are a thousand


class ExampleMix(Config):
    """Number of examples of each kind, and the amount of text around each.

    Reference: Towards Monosemanticity, appendix on automated interpretability with activations.
    """

    top: PositiveInt = Field(le=1000, description="strongest examples")
    per_interval: NonNegativeInt = Field(2, le=1000, description=f"examples of each of the {NUM_INTERVALS} even activation intervals")
    random: NonNegativeInt = Field(le=1000, description="random positions")
    hard_negatives: NonNegativeInt = Field(10, le=1000, description="places where co-firing or similar features fire strongly and this one does not")
    out_of_context: NonNegativeInt = Field(le=1000, description="the tokens of the top examples, wherever else they stand")
    tokens_before: NonNegativeInt = Field(le=1000, description="tokens shown before the one an example was chosen for")
    tokens_after: NonNegativeInt = Field(le=1000, description="tokens shown after it")

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        examples = self.top + self.random + self.hard_negatives + self.out_of_context + NUM_INTERVALS * self.per_interval
        if examples * self.window > MOST_EXAMPLE_TOKENS:
            raise ValueError(
                f"{examples:,} examples of {self.window:,} tokens are {examples * self.window:,} tokens for every feature. "
                f"At most {MOST_EXAMPLE_TOKENS:,} are kept: ask for fewer examples, or shorter ones"
            )
        return self

    @property
    def window(self) -> int:
        """Tokens of one example."""
        return self.tokens_before + 1 + self.tokens_after


class GraphConfig(Config):
    """Configuration of the token graph of a feature: how it is learned, and its size limits."""

    learner: Literal["counted", "ablation"] = Field(
        "counted",
        description="counted: from all firings in the explanation text; ablation: Neuron to Graph, from the strongest, by changing the tokens",
    )
    max_patterns: PositiveInt = Field(64, le=10_000, description="token patterns an explanation may hold")
    max_context: PositiveInt = Field(3, le=64, description="tokens in the longest pattern, the firing token included")


class Budget(Config):
    """Method of explanation and scoring: the same for every source."""

    explanation_sequences: PositiveInt = Field(
        2048, le=10**7, description="sequences of the training split to learn explanations from, evenly spread over it"
    )
    scoring_sequences: PositiveInt = Field(
        512, le=10**7, description="sequences of the held-out split to score explanations on, evenly spread over it"
    )
    explanation_examples: ExampleMix = Field(
        ExampleMix(top=20, random=5, out_of_context=10, tokens_before=12, tokens_after=8), description="examples kept for people and explainers"
    )
    scoring_examples: ExampleMix = Field(
        ExampleMix(top=6, random=10, out_of_context=20, tokens_before=4, tokens_after=4),
        description="examples of a score: 60 of 9 tokens",
    )
    max_features: PositiveInt | None = Field(None, le=2**24, description="features examined per source, a seeded sample; null examines all")
    controls: ControlsConfig = Field(ControlsConfig(), description="what stands beside dictionaries and neurons")
    graph: GraphConfig = Field(GraphConfig(), description="how explanations are learned, and how large they may be")
    min_firing_examples: PositiveInt = Field(
        20, le=10**6, description="distinct firing examples in the scoring text below which a feature is not scored"
    )
    seed: Seed = Field(0, description="of the samples of examples, features and random directions, and of the bootstrap")
