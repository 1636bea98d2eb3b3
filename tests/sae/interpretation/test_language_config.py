"""Settings of a language model: no secret is taken, none is repeated, and nothing changes what a reply is and costs."""

import json

import pytest

from sae.interpretation.language_model.config import LanguageModelConfig, ReplyOptions


@pytest.mark.parametrize("url", ["http://user:hunter2@127.0.0.1/v1", "http://127.0.0.1/v1?key=hunter2", "http://u:hunter2%40x@h/v1"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="base_url") as refused:
        LanguageModelConfig(model="m", base_url=url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("extra", [{"api_key": "hunter2"}, {"headers": {"Authorization": "hunter2"}}, {"a": [{"x-api-key": "hunter2"}]}])
def test_a_secret_in_the_further_fields_of_a_request_is_refused_and_not_repeated(extra):
    before = json.dumps(extra)
    with pytest.raises(ValueError, match="seems to hold a secret") as refused:
        ReplyOptions(extra=extra)
    assert "hunter2" not in str(refused.value)
    assert json.dumps(extra) == before


@pytest.mark.parametrize("extra", [{"stream": True}, {"n": 3}, {"max_tokens": 10}, {"model": "x"}, {"Messages": []}])
def test_further_fields_cannot_change_what_a_reply_is_and_costs(extra):
    with pytest.raises(ValueError, match="cannot be given here"):
        ReplyOptions(extra=extra)
