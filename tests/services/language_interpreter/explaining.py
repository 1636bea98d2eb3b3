"""What the tests of explanations in words share: one run of `explain_in_words` against a scripted endpoint, and what it left."""

import pyarrow as pa
import pyarrow.parquet as pq

from sae.interpretation.language_model.config import LanguageModelConfig, Prices
from services.language_interpreter import explain_in_words
from tests import planted_words as planted
from tests.servers.language_server import scripted_endpoint

PRICES = Prices(prompt=1.0, reply=4.0)
SECRET = "sk-test-0123456789abcdef"


def explain(output, rule, sources=("topk", "neurons"), monitor=None, **settings):
    """The endpoint and the summaries."""
    with scripted_endpoint(rule) as endpoint:
        config = LanguageModelConfig(**({"model": "m", "base_url": endpoint.url, "examples_per_request": 60} | settings))
        try:
            return endpoint, explain_in_words(config, 0, planted.VOCABULARY, output.url, list(sources), monitor)
        except Exception as error:
            error.endpoint = endpoint
            raise


def rows(output, source="topk", name="llm_explanations"):
    return pq.read_table(pa.BufferReader(output.child(source).get(f"{name}.parquet"))).to_pylist()


def scores(summary):
    found = summary["language_model"]["explainers"]["highlights"]["scores"]
    return {name: found[name] for name in ("simulation_spearman", "detection_accuracy", "fuzzing_accuracy", "logits_accuracy")}
