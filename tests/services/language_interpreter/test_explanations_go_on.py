"""Explanations in words that are interrupted, refused or limited: nothing is lost, nothing is paid for twice, nothing is asked in vain."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae.errors import CorruptObjectError, FailureError, InputError, LeaseError, PlanError
from sae.interpretation.language_model.config import LanguageModelConfig, RequestLimits
from sae.interpretation.summary_record import put_summary
from sae.records import digests_of
from sae.storage import Place
from sae.storage.lease import hold_lease
from services.language_interpreter import estimate
from tests import planted_words as planted
from tests.servers.language_server import Answer
from tests.services.language_interpreter.explaining import PRICES, SECRET, explain, rows


def test_a_budget_ends_the_work_and_a_larger_one_goes_on(output):
    alone = Place(f"{output.url}-alone")
    for name in ("topk", "neurons"):
        planted.write_source(alone.child(name), range(7, 13))
    undisturbed, whole = explain(alone, planted.honest, prices=PRICES)
    cost = alone.get_json("llm_spent.json")["cost"]

    first, summaries = explain(output, planted.honest, prices=PRICES, max_cost=cost * 0.6)
    assert output.get_json("llm_spent.json")["cost"] <= cost * 0.6
    done = [summary["language_model"]["num_done"] for summary in summaries.values()]
    assert 0 < sum(done) < 12
    assert abs(done[0] - done[1]) <= 2  # in turn
    assert not any(summary["language_model"]["complete"] for summary in summaries.values())

    second, summaries = explain(output, planted.honest, prices=PRICES, max_cost=cost * 2)
    assert all(summary["language_model"]["complete"] for summary in summaries.values())
    probes = len(first.asked("probe")) + len(second.asked("probe"))
    assert len(first.questions) + len(second.questions) - probes == len(undisturbed.questions) - 1
    assert rows(output) == rows(alone)
    assert summaries == whole

    third, again = explain(output, planted.honest, prices=PRICES, max_cost=cost * 2)
    assert third.questions == []
    assert again == summaries


def test_an_endpoint_that_dies_loses_no_answer(output):
    def rule(question):
        return Answer("gone", status=503) if question.number >= 20 else planted.honest(question)

    with pytest.raises(FailureError, match=r"failed 2 times \(HTTP 503: gone\): run the same command again") as died:
        explain(output, rule, limits=RequestLimits(attempts=2))
    assert all("language_model" in output.child(name).get_json("summary.json") for name in ("topk", "neurons"))
    endpoint, summaries = explain(output, planted.honest)
    asked = [question.last for question in died.value.endpoint.questions[1:20]]
    assert not set(asked) & {question.last for question in endpoint.questions[1:]}
    assert all(summary["language_model"]["complete"] for summary in summaries.values())


def test_only_one_run_at_a_time_asks(output):
    with hold_lease(output), pytest.raises(LeaseError, match="is being filled by another run"):
        explain(output, planted.honest)
    assert explain(output, planted.honest)[1]["topk"]["language_model"]["complete"]
    assert not output.list("lease")


def test_replies_are_kept_while_a_feature_is_under_way(output):
    seen = []

    def rule(question):
        if question.purpose == "logits":
            seen.extend(Place(output.url).child("topk").list("llm"))
        return planted.honest(question)

    explain(output, rule, sources=["topk"])
    assert seen


def test_more_features_only_add_work(output):
    first, _ = explain(output, planted.honest, sources=["topk"], max_features=2)
    before = rows(output)
    second, summaries = explain(output, planted.honest, sources=["topk"], max_features=4)
    assert len(second.asked("explain")) == len(first.asked("explain")) == 2
    assert [row for row in rows(output) if row["feature"] in {each["feature"] for each in before}] == before
    assert summaries["topk"]["language_model"]["num_done"] == 4


def test_another_plan_is_refused_before_anything_is_asked(output):
    explain(output, planted.honest, sources=["topk"], max_features=1)
    with pytest.raises(PlanError, match=r"with another plan: model \(there \"m\", now \"n\"\).*llm_explanations.parquet") as refused:
        explain(output, planted.honest, sources=["topk"], model="n")
    assert refused.value.endpoint.questions == []


def test_a_wrong_key_leaves_no_trace_of_it(output):
    rule = lambda question: Answer(f"Incorrect API key: {SECRET}", status=401)  # noqa: E731
    with pytest.raises(InputError, match="refused the key in OPENAI_API_KEY") as refused:
        explain(output, rule)
    assert SECRET not in str(refused.value)
    assert len(refused.value.endpoint.questions) == 1
    assert SECRET.encode() not in b"".join(output.get(key) for key in output.list())


def test_an_example_in_both_sets_ends_the_work(output):
    place = output.child("topk")
    table = pq.read_table(pa.BufferReader(place.get("examples.parquet")))
    leaked = pa.Table.from_pylist([row | {"split": "train"} for row in table.to_pylist()], table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(leaked, sink)
    place.put("examples.parquet", sink.getvalue())
    with pytest.raises(CorruptObjectError, match="examples.parquet has the digest"):
        explain(output, planted.honest, sources=["topk"])
    tables = digests_of(place, ("plan.json", "features.parquet", "examples.parquet"))
    put_summary(place, place.get_sealed("summary.json") | {"tables": tables})
    with pytest.raises(FailureError, match="serve explaining and scoring feature") as found:
        explain(output, planted.honest, sources=["topk"])
    assert not found.value.endpoint.asked("explain")


def test_a_source_that_is_not_finished_is_named(tmp_path):
    with pytest.raises(InputError, match=r"topk.*does not exist"):
        explain(Place(tmp_path), planted.honest, sources=["topk"])


def test_an_estimate_sends_nothing_writes_nothing_and_is_an_upper_bound(output):
    before = {key: output.get(key) for key in output.list()}
    config = LanguageModelConfig(model="m", base_url="http://127.0.0.1:9/v1", prices=PRICES, examples_per_request=60)
    found = estimate(config, 0, planted.VOCABULARY, output.url, ["topk", "neurons"])
    assert {key: output.get(key) for key in output.list()} == before
    endpoint, summaries = explain(output, planted.honest, prices=PRICES)
    assert sum(each.requests for each in found) == len(endpoint.questions) - 1
    for each in found:
        assert each.features == 6
        assert summaries[each.source]["language_model"]["cost"] <= each.most_cost
        assert each.cost <= each.most_cost
    assert estimate(config, 0, planted.VOCABULARY, output.url, ["topk"])[0].requests == 0
