"""Judging responses: bodies as servers, routers, filters and proxies send them, and what each says."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sae.interpretation.language_model.judgement import SAID, Verdict, judge

USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def completion(content="[1]", finish_reason="stop", usage=USAGE, **message):
    message = {"role": "assistant", "content": content} | message
    return {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}], "usage": usage}


def choice(**fields):
    return {"choices": [fields], "usage": USAGE}


def error(message, **fields):
    return {"error": {"message": message} | fields}


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "[0]?"}]}
SUCCESSES = {
    "openai": (completion(), "answered"),
    "openai, error null": (completion() | {"error": None}, "answered"),
    "openai, error empty": (completion() | {"error": {}}, "answered"),
    "openai, cut": (completion("[1", "length"), "truncated"),
    "gemini, cut": (completion("[1", "MAX_TOKENS"), "truncated"),
    "mistral, cut": (completion("[1", "model_length"), "truncated"),
    "openai, filtered": (completion("", "content_filter"), "refused"),
    "gemini, filtered": (completion(None, "SAFETY"), "refused"),
    "openai, refusal": (completion(None, refusal="I cannot"), "refused"),
    "openai, refusal empty": (completion(refusal=""), "answered"),
    "null content": (completion(None), "empty"),
    "tool call": (completion(None, "tool_calls", tool_calls=[{"id": "1"}]), "empty"),
    "blank content": (completion(" \n"), "empty"),
    "no content": (choice(message={"role": "assistant"}, finish_reason="stop"), "empty"),
    "no finish reason": (choice(message={"content": "[1]"}), "answered"),
    "ollama, done": (completion(finish_reason=None), "answered"),
    "reasoning only, cut": (completion(None, "length", reasoning_content="Say [1]"), "truncated"),
    "reasoning only, vllm": (completion(None, "stop", reasoning_content="Say [1]"), "truncated"),
    "reasoning only, openrouter": (completion("", "stop", reasoning="Say [1]"), "truncated"),
    "reasoning and content": (completion(reasoning_content="Say [0]"), "answered"),
    "think, cut": (completion("<think>Say [1]", "length"), "truncated"),
    "think, not closed": (completion("<think>Say [1]", "stop"), "truncated"),
    "think, closed": (completion("<think>Say [0]</think>[1]"), "answered"),
    "gpt-oss, analysis": (completion("<|channel|>analysis<|message|>Say [1]", "stop"), "truncated"),
    "gpt-oss, final": (completion("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>[1]"), "answered"),
    "mistral, parts": (completion([THOUGHT, {"type": "text", "text": "[1]"}]), "answered"),
    "mistral, only thought": (completion([THOUGHT]), "truncated"),
    "parts of text": (completion([{"type": "text", "text": "["}, {"type": "output_text", "text": "1]"}]), "answered"),
    "parts, strings": (completion(["[1", "]"]), "answered"),
    "one part": (completion({"type": "text", "text": "[1]"}), "answered"),
    "no parts": (completion([]), "empty"),
    "number as content": (completion(7), "unreadable"),
    "half an emoji": (completion("\ud83d [1]"), "answered"),
    "no choices": ({"choices": []}, "empty"),
    "choices none": ({"choices": "none"}, "unreadable"),
    "choices null": ({"choices": None}, "unreadable"),
    "choices of strings": ({"choices": ["[1]"]}, "unreadable"),
    "choice without message": ({"choices": [{"finish_reason": "stop"}]}, "unreadable"),
    "message of a string": ({"choices": [{"message": "[1]"}]}, "unreadable"),
    "stream chunk": ({"choices": [{"delta": {"content": "[1]"}}]}, "unreadable"),
    "legacy completion": ({"choices": [{"text": "[1]"}]}, "unreadable"),
    "anthropic, native": ({"type": "message", "content": [{"type": "text", "text": "[1]"}], "stop_reason": "end_turn"}, "unreadable"),
    "empty object": ({}, "unreadable"),
    "list": ([1, 2], "unreadable"),
    "string": ("ok", "unreadable"),
    "openrouter, 429 inside": (error("slow down", code=429), "rate_limited"),
    "openrouter, 429 as text": (error("slow down", code="429"), "rate_limited"),
    "openrouter, 502 inside": (error("Provider returned error", code=502, metadata={"raw": "x"}), "failed"),
    "openrouter, 400 inside": (error("bad", code=400), "rejected"),
    "openrouter, 402 inside": (error("no credits", code=402), "no_money"),
    "openrouter, 403 inside": (error("flagged", code=403, metadata={"reasons": ["violence"], "flagged_input": "x"}), "refused"),
    "openrouter, in a choice": (choice(error={"code": 502, "message": "x"}, finish_reason="error", message={"content": "[1"}), "failed"),
    "openrouter, beside a text": (completion() | error("late", code=504), "failed"),
    "finish reason error": (completion("[1", "error"), "failed"),
    "finish reason abort": (completion("[1", "abort"), "failed"),
    "error of a string": ({"error": "model is loading"}, "failed"),
    "error true": ({"error": True, "message": "out of memory"}, "failed"),
    "error without code": (error("something"), "failed"),
    "vllm, old": ({"object": "error", "message": "This model's maximum context length is 8 tokens", "code": 400}, "too_long"),
    "azure, filtered inside": (error("…", code="content_filter"), "refused"),
    "detail only": ({"detail": "Internal Server Error"}, "failed"),
    "gemini, list": ([error("quota", code=429, status="RESOURCE_EXHAUSTED")], "rate_limited"),
    "invalid, no code": (error("no such field", type="invalid_request_error"), "rejected"),
    "overloaded, anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "failed"),
}


@pytest.mark.parametrize("shape", SUCCESSES)
def test_what_comes_with_status_200(shape):
    body, verdict = SUCCESSES[shape]
    found = judge(200, {}, json.dumps(body).encode())
    assert found.verdict == verdict
    assert "\ud83d" not in found.text
    if verdict == "answered":
        assert found.text.endswith("[1]")
        assert (found.prompt_tokens, found.reply_tokens) == (7, 3)


TGI = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1024. Given: 1240 `inputs` tokens and 256 `max_new_tokens`"
MODERATED = error("Your input was flagged", code=403, metadata={"reasons": ["hate"], "flagged_input": "x", "provider_name": "OpenAI"})
FAILURES = {
    "openai, key": (401, error("Incorrect API key provided: sk-ab***yz", code="invalid_api_key"), "key_refused"),
    "anthropic, key": (401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}, "key_refused"),
    "gemini, key": (400, [error("API key not valid", code=400, status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}])], "key_refused"),
    "anthropic, permission": (403, {"type": "error", "error": {"type": "permission_error", "message": "no"}}, "key_refused"),
    "openrouter, moderated": (403, MODERATED, "refused"),
    "moderated in words": (403, error("Input was flagged by moderation", metadata={"reasons": []}), "refused"),
    "azure, moderated": (400, error("…", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}), "refused"),
    "dashscope, moderated": (400, error("Input data may contain inappropriate content.", code="data_inspection_failed"), "refused"),
    "proxy, forbidden": (403, b"<html><head><title>403 Forbidden</title></head><body>cloudflare</body></html>", "forbidden"),
    "model forbidden": (403, error("no access to model", code="model_not_found"), "not_there"),
    "openai, model": (404, error("The model `m` does not exist", code="model_not_found"), "not_there"),
    "ollama, model": (404, error('model "m" not found, try pulling it first', type="api_error"), "not_there"),
    "fastapi, path": (404, {"detail": "Not Found"}, "not_there"),
    "method": (405, {"detail": "Method Not Allowed"}, "not_there"),
    "redirect": (301, b"", "not_there"),
    "money": (402, error("Insufficient credits"), "no_money"),
    "openai, quota": (429, error("You exceeded your current quota", code="insufficient_quota", type="insufficient_quota"), "no_money"),
    "anthropic, money": (400, error("Your credit balance is too low to access the API", type="invalid_request_error"), "no_money"),
    "openai, too long": (400, error("This model's maximum context length is 8192 tokens", code="context_length_exceeded"), "too_long"),
    "llama.cpp, too long": (400, error("the request exceeds the available context size", code=400, type="exceed_context_size_error"), "too_long"),
    "tgi, too long": (422, {"error": TGI, "error_type": "validation"}, "too_long"),
    "litellm, too long": (400, error("litellm.ContextWindowExceededError: prompt is too long", type="ContextWindowExceededError"), "too_long"),
    "proxy, too large": (413, b"<html>413 Request Entity Too Large</html>", "too_long"),
    "groq, too large": (413, error("Request too large for model", code="rate_limit_exceeded"), "too_long"),
    "openai, tokens a minute": (429, error("Request too large for gpt-4: Limit 10000, Requested 12000", code="rate_limit_exceeded"), "too_long"),
    "old llama.cpp": (500, error("context size exceeded", code=500), "too_long"),
    "bedrock, throttled": (429, error("Too many tokens, please wait before trying again."), "rate_limited"),
    "openai, rate": (429, error("Rate limit reached", code="rate_limit_exceeded"), "rate_limited"),
    "tgi, overloaded": (429, {"error": "Model is overloaded", "error_type": "overloaded"}, "rate_limited"),
    "llama.cpp, loading": (503, error("Loading model", code=503, type="unavailable_error"), "failed"),
    "anthropic, overloaded": (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "failed"),
    "nginx": (502, b"<html>\r\n<head><title>502 Bad Gateway</title></head></html>", "failed"),
    "cloudflare, time-out": (524, b"error code: 524", "failed"),
    "empty": (500, b"", "failed"),
    "vllm, invalid": (400, {"object": "error", "message": "temperature must be non-negative", "type": "BadRequestError", "code": 400}, "rejected"),
    "fastapi, invalid": (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required", "type": "value_error.missing"}]}, "rejected"),
    "openai, parameter": (400, error("Unsupported parameter: 'max_tokens'", param="max_tokens", code="unsupported_parameter"), "rejected"),
    "mistral, invalid": (422, {"object": "error", "message": {"detail": [{"msg": "Extra inputs"}]}, "type": "invalid_request_error"}, "rejected"),
    "teapot": (418, b"\xff\xfe\x00", "rejected"),
    "deep": (400, b"[" * 100_000, "rejected"),
    "error of numbers": (400, {"error": 7}, "rejected"),
}


@pytest.mark.parametrize("shape", FAILURES)
def test_what_comes_with_another_status(shape):
    status, body, verdict = FAILURES[shape]
    found = judge(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert found.verdict == verdict
    assert found.text.startswith(f"HTTP {status}")
    assert found.text.isprintable()
    assert len(found.text) <= SAID
    assert (found.prompt_tokens, found.reply_tokens) == ((None, None) if status in (408, 504, 524) else (0, 0))  # turned away, or unknown


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": "7", "completion_tokens": "3"}, (7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, (7, 3)),
        ({"prompt_tokens": 7.5, "completion_tokens": None}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": -3}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": 1e300}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": [3]}, (None, None)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (None, None)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (None, None)),
        ({"input_tokens": 2, "cache_read_input_tokens": 5, "output_tokens": 3}, (7, 3)),
        *((each, (None, None)) for each in ({}, None, [], "7", 7)),
    ],
)
def test_tokens_are_counted_only_where_the_count_can_be(usage, counts):
    found = judge(200, {}, json.dumps(completion(usage=usage)).encode())
    assert found.verdict == "answered"
    assert (found.prompt_tokens, found.reply_tokens) == counts


def test_an_error_with_status_200_costs_what_it_says_it_used():
    assert judge(200, {}, json.dumps(error("x", code=429)).encode()).prompt_tokens == 0
    assert judge(200, {}, json.dumps(error("x", code=429) | {"usage": USAGE}).encode()).prompt_tokens == 7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        *(({"retry-after": "3"}, 3), ({"retry-after-ms": "250"}, 0.25), ({"retry-after-ms": "x", "retry-after": "2"}, 2), ({"retry-after": "-3"}, 0)),
        *(({"retry-after": value}, 0) for value in ("nan", "inf", "1e999", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 5000 + "x")),
    ],
)
def test_a_wait_is_a_finite_number_of_seconds(headers, seconds):
    assert judge(429, headers, b"").wait_seconds == seconds


def test_bytes_that_were_cut_within_a_character_are_replaced():
    body = json.dumps(completion("caf\u00e9 [1]"), ensure_ascii=False).encode().replace("\u00e9".encode(), b"\xc3")
    assert judge(200, {}, body).text == "caf\ufffd [1]"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["error", "stop", "length", "<think>", "429"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "code",
                    "type",
                    "usage",
                    "prompt_tokens",
                    "finish_reason",
                    "detail",
                    "metadata",
                    "reasons",
                    "refusal",
                    "status",
                    "text",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@pytest.mark.fuzz
@given(st.integers(100, 599), JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
@example(200, b'{"choices": [{"message": {"content": "\\ud83d"}}]}')
def test_any_response_has_a_verdict(status, body):
    found = judge(status, {}, body)
    assert found.verdict in Verdict.__args__
    found.text.encode()
    assert found.prompt_tokens is None or found.prompt_tokens >= 0
