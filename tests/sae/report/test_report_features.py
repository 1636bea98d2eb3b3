"""Which features travel in the report, and how they are packed."""

import base64
import gzip
import json
import math
import re

import pytest
from planted_run import HOSTILE, VOCABULARY, WORDS

from sae.rating.packing import pairs
from sae.report.features import BrowserConfig, choose_features, compact_json, compressed, feature_data
from sae.report.gather import gather


@pytest.fixture(scope="module")
def sources(run):
    return gather(run).sources


def pack(run, sources, **settings):
    return json.loads(feature_data(run, sources, VOCABULARY, BrowserConfig(**settings)))


def features_of(packed, name):
    return {feature["i"]: feature for source in packed["sources"] if source["name"] == name for feature in source["features"]}


class TestCompressed:
    def test_leaves_nothing_that_html_reads_as_markup_and_keeps_the_text(self):
        packed = compressed(f"{HOSTILE}<!-- naïve \u2028" * 100)
        assert re.fullmatch("[A-Za-z0-9+/=]+", packed)
        assert gzip.decompress(base64.b64decode(packed)).decode() == f"{HOSTILE}<!-- naïve \u2028" * 100
        assert len(packed) < 1000


class TestChooseFeatures:
    def test_takes_the_best_explained_and_a_sample_in_turn(self, sources):
        topk = next(source for source in sources if source.name == "topk")
        chosen = choose_features(topk, BrowserConfig(features_per_source=10))
        scores = dict(zip(topk.feature.tolist(), topk.score.tolist(), strict=True))
        best = sorted(topk.feature[topk.live()].tolist(), key=lambda feature: -scores[feature])
        assert len(chosen) == 10
        assert set(best[:5]) <= set(chosen)
        assert not set(chosen) <= set(best[:10])

    def test_is_the_same_each_time_and_another_for_another_seed(self, sources):
        first, again, other = (choose_features(sources[0], BrowserConfig(features_per_source=20, seed=seed)) for seed in (1, 1, 2))
        assert first == again != other

    def test_leaves_out_what_never_fires(self, sources):
        silent = int(sources[0].feature[sources[0].density == 0][0])
        assert silent not in choose_features(sources[0], BrowserConfig())


class TestFeatureData:
    def test_a_feature_is_what_its_tables_say(self, run, sources):
        packed = pack(run, sources)
        feature = features_of(packed, "topk")[3]
        top = [example for example in feature["x"] if example["k"] == 0]
        peak = top[0]
        shares = dict(zip(peak["a"][::2], peak["a"][1::2], strict=True))
        assert packed["tokens"][peak["t"][peak["c"]]] == WORDS[1]
        assert shares == {12: 999, 14: 333}
        assert feature["p"][1][0] == f"{VOCABULARY[9]}{WORDS[1]}"
        assert feature["p"][1][1] == pytest.approx(0.9 * feature["m"], rel=1e-3)
        assert feature["z"] == 0
        assert len(feature["h"]) == 12

    def test_neighbours_lead_only_to_features_of_the_file(self, run, sources):
        features = features_of(pack(run, sources), "topk")
        assert features[6]["f"] == [[9, 0.9], [12, 0.45]]
        assert features[6]["y"] == [[3, 0.5]]  # feature 100,000 is not there
        assert features[171]["f"] == [[174, 0.9]]  # 177 never fires
        few = features_of(pack(run, sources, features_per_source=10), "topk")
        near = {other for feature in few.values() for other, _ in feature["f"] + feature["y"]}
        assert near
        assert near <= set(few)

    def test_examples_are_trimmed_to_the_kinds_and_numbers_asked_for(self, run, sources):
        packed = pack(run, sources, top_examples=5, examples_per_interval=1, scoring_examples=4)
        kinds = [example["k"] for example in features_of(packed, "relu")[0]["x"]]
        assert kinds == [0] * 5 + [1] * 3 + [2] * 4

    def test_scoring_examples_hold_predictions_and_come_from_held_out_text(self, run, sources):
        examples = features_of(pack(run, sources), "neurons")[3]["x"]
        assert all(("q" in example) == (example["k"] == 2) == (example["w"][0] == "held_out") for example in examples)
        predicted = next(example for example in examples if example["k"] == 2)["q"]
        assert dict(zip(predicted[::2], predicted[1::2], strict=True)) == {2: 300, 12: 799, 14: 266}

    def test_a_source_shows_fewer_features_when_the_bytes_run_out_and_says_so(self, run, sources):
        packed = pack(run, sources, max_data_bytes=200_000)
        size = len(compact_json(packed["sources"]).encode())
        assert size < 200_000
        for source in packed["sources"]:
            assert 5 < len(source["features"]) < 59
            assert f"{len(source['features'])} are in this file" in source["note"]
            assert source["note"].startswith(f"{source['label']}: 59 of 60 examined")

    def test_all_features_are_in_the_file_where_there_is_room(self, run, sources):
        assert all("all of them are in this file" in source["note"] for source in pack(run, sources)["sources"])

    def test_without_a_tokenizer_tokens_show_as_numbers(self, run, sources):
        packed = json.loads(feature_data(run, sources[:1], None, BrowserConfig()))
        assert set(packed["tokens"]) <= {f"⟦{token}⟧" for token in range(len(VOCABULARY))}

    def test_what_fires_faintly_is_still_marked(self):
        assert pairs([0.0, 1e-4, 5.0], 5.0, math.ceil) == [1, 1, 2, 999]
        assert pairs([0.0, 1e-4, 5.0], 5.0, round) == [2, 999]
