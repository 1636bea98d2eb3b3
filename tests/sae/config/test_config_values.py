"""Values mean what they say: strict, bounded, and never repeated in a message where they may be secret."""

import math

import pytest
from pydantic import BaseModel, Field, ValidationError

from sae.config import Config, Gpus, Labels, Line, Location, Real, Seed, WebAddress, as_list, describe_problem, refuse_repetition, shown
from sae.config import near_keys as near
from sae.errors import ConfigError
from sae.interpretation.language_model.config import LanguageModelConfig
from sae.training.config import TrainingConfig


class Inner(Config):
    rates: tuple[float, ...] = ()
    names: dict[str, str] = Field({})


class Outer(Config):
    count: int = 1
    rate: Real = Field(1.0, ge=0, le=10)
    on: bool = False
    text: str = ""
    inner: Inner = Inner()
    several: list[Inner] = Field([])
    maybe: int | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": True}, "count: expected a whole number, found true"),
        ({"count": "1"}, "count: expected a whole number, found '1'"),
        ({"count": 1.0}, "count: expected a whole number, found 1.0"),
        ({"count": 10**400}, "count: .* found a number of more than 400 digits"),
        ({"maybe": False}, "maybe: expected a whole number, found false"),
        ({"rate": True}, "rate: expected a finite number, found true"),
        ({"rate": "0x10"}, "rate: expected a finite number, found '0x10'"),
        ({"rate": "1_000"}, "rate"),
        ({"rate": " 1 "}, "rate"),
        ({"rate": "nan"}, "rate"),
        ({"rate": math.inf}, "rate"),
        ({"rate": 1e-300}, "rate: 1e-300 is too close to 0"),
        ({"rate": "1e300"}, "rate: input should be less than or equal to 10"),
        ({"on": 1}, "on: expected true or false, found 1"),
        ({"on": "yes"}, "on: expected true or false, found 'yes'"),
        ({"text": 12}, r"text: expected text \(quote a number that is meant as text\), found 12"),
        ({"text": b"12"}, "text: expected text"),
        ({"inner": {"rates": [1, True]}}, "inner.rates.1: expected a finite number, found true"),
        ({"inner": {"names": {"a": 1}}}, "inner.names.a: expected text"),
        ({"several": [{}, {"rates": 5}]}, "several.1.rates: expected a list, found 5"),
        ({"inner": []}, "inner: expected keys and values, found a list of 0"),
    ],
)
def test_a_value_of_another_kind_is_refused(values, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        Outer.parse(values)


def test_text_of_a_number_is_a_number_where_one_is_expected():
    """YAML 1.1 reads 2e-3 as text."""
    assert Outer.parse({"rate": "2e-3", "inner": {"rates": [1, "5E-1"]}}) == Outer(rate=0.002, inner=Inner(rates=(1.0, 0.5)))


def test_bounds_are_part_of_the_schema():
    schema = Outer.model_json_schema()["properties"]
    assert schema["rate"] == {"default": 1.0, "maximum": 10, "minimum": 0, "title": "Rate", "type": "number"}
    assert schema["count"]["exclusiveMaximum"] == 2**63


class Shared(Config):
    line: Line = "a"
    url: Location = "a"
    web: WebAddress = "http://a"
    seed: Seed = 0
    gpus: Gpus = 0.0
    labels: Labels = Field({})


@pytest.mark.parametrize(
    "text", ["a b", "données", "C:/x", "\U0001f600", "s3://bucket/a b", "hf:org/name", "a@b", "s3_/x", "run:1", "github://org:repo@main/x"]
)
def test_a_line_of_text_is_taken_as_it_is(text):
    assert Shared.parse({"line": text, "url": text.replace("org:repo@", "")}).line == text


@pytest.mark.parametrize("text", ["", " ", "\t", "a\nb", "a\x00", "\x1b[31m", "\ud800", "\u2028", "\x85", "x" * 5000])
def test_text_that_no_terminal_or_path_can_hold_is_refused(text):
    with pytest.raises(ConfigError, match="^line: ") as caught:
        Shared.parse({"line": text})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "s3:/bucket/x"}, "url: 's3:/bucket/x' is not the path or URL .* two slashes"),
        ({"url": "S3:bucket/x"}, "url: 'S3:bucket/x' is not the path or URL .* two slashes"),
        ({"url": "gs:/b"}, "two slashes"),
        ({"url": " runs/a"}, "blanks stand around it"),
        ({"url": "https://me:hunter2@host/x"}, "url: a URL of https:// holds credentials"),
        ({"url": "s3://KEY:SECRET@bucket/x?versionId=hunter2"}, "holds credentials"),
        ({"web": "abc"}, "is no web address"),
        ({"web": "ftp://host"}, "is no web address"),
        ({"web": "http:///v1"}, "is no web address"),
        ({"seed": 2**32}, "seed: input should be less than 4294967296"),
        ({"seed": -1}, "seed"),
        ({"gpus": 1.5}, "gpus: 1.5 GPUs"),
        ({"labels": {"a\n": "b"}}, "labels"),
        ({"labels": {str(number): "x" for number in range(40)}}, "labels: dictionary should have at most 32 items"),
    ],
)
def test_values_that_could_not_be_used_are_refused(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Shared.parse(values)
    assert "hunter2" not in str(caught.value)


def test_a_validator_that_guards_a_secret_does_not_print_what_it_guards():
    for settings in ({"base_url": "https://sk-hunter2@host/v1"}, {"base_url": "https://me:hunter2@host/v1"}, {"api_key": "hunter2"}):
        with pytest.raises(ConfigError) as caught:
            LanguageModelConfig.parse({"model": "some", **settings})
        assert "hunter2" not in str(caught.value)
        with pytest.raises(ValidationError) as raised:
            LanguageModelConfig(model="some", **settings)
        assert "hunter2" not in str(raised.value)


def test_shown_values_are_short_whatever_their_size():
    bomb = "lol"
    for _ in range(30):
        bomb = [bomb] * 10  # 10^30 elements, thirty lists
    for value in (bomb, {"a": bomb}, "x" * 10**6, 10**5000, -(10**5000), ("\x00" * 500), 1e308, None, True, b"x", object()):
        assert len(shown(value)) < 120
        assert shown(value).isprintable()
    assert shown("https://me:pw@host/a?token=t 5") == "'https://…@host/a?… 5'"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("batchsize", ["batch_size"]),
        ("dictionaries.one.sae.kk", ["dictionaries.one.sae.k"]),
        ("dictionaries.0.optimiser.beta1", ["dictionaries.0.optimizer.beta1"]),
        ("learning_rate", ["dictionaries.NAME.optimizer.learning_rate"]),
        ("xyzzy", []),
    ],
)
def test_near_keys_are_spelt_as_the_path_was_typed(typed, meant):
    values = {"dictionaries": [{"name": "one", "sae": {"architecture": "topk"}}]}
    assert near(TrainingConfig, typed.split("."), values)[: len(meant) or None] == meant


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        ({"architecture": "topk", "kk": 3}, r"^unknown key 'dictionaries\.one\.sae\.kk': did you mean dictionaries\.one\.sae\.k"),
        ({"architecture": "relu", "k": 3}, r"^unknown key 'dictionaries\.one\.sae\.k': it is a key of topk, batch_topk, matryoshka; relu has "),
        ({"architecture": "topkk"}, r"^dictionaries\.one\.sae\.architecture: expected one of relu, .*, found 'topkk': did you mean topk\?$"),
        ({"k": 3}, r"^missing key 'dictionaries\.one\.sae\.architecture' \(one of relu, "),
        ({"architecture": "relu", "start": "Kaiming"}, r"^dictionaries\.one\.sae\.start: .*found 'Kaiming': did you mean kaiming\?$"),
        (
            {"architecture": "matryoshka", "d_sae": 7, "k": 2},
            r"^dictionaries\.one\.sae: d_sae 7 is too small for the group_fractions: .*Raise d_sae to 32",
        ),
        ({"architecture": "matryoshka", "group_fractions": [0.5, 0.4]}, r"group_fractions sum to 0\.9\. They must sum to 1"),
    ],
)
def test_a_wrong_dictionary_is_named_as_the_user_names_it(sae, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.parse({"dictionaries": [{"name": "other", "sae": {"architecture": "relu"}}, {"name": "one", "sae": sae}]})


def test_what_a_message_quotes_keeps_its_case():
    with pytest.raises(ConfigError, match=r"\^\[A-Za-z0-9\]\[A-Za-z0-9\._-\]\*\$', found 'To pk'"):
        TrainingConfig.parse({"dictionaries": [{"name": "To pk", "sae": {"architecture": "relu"}}]})


def test_a_target_above_the_number_of_features_is_refused_before_any_pilot():
    entry = {"name": "one", "sae": {"architecture": "relu", "d_sae": 64}, "target_l0": {"l0": 1000}}
    with pytest.raises(ConfigError, match=r"^dictionaries\.one: target_l0\.l0 1000 is more than sae\.d_sae 64"):
        TrainingConfig.parse({"dictionaries": [entry]})


def test_no_dictionary_at_all_is_refused():
    with pytest.raises(ConfigError, match="^dictionaries: list should have at least 1 item"):
        TrainingConfig.parse({"dictionaries": []})


def test_many_mistakes_are_one_line_with_their_number():
    with pytest.raises(ConfigError, match="; and 20 more$"):
        Outer.parse({f"key{number}": 1 for number in range(25)})


def test_lists_of_names():
    assert as_list("a") == ["a"]
    assert as_list(["a"]) == ["a"]
    assert refuse_repetition(["a", "b"]) == ["a", "b"]
    with pytest.raises(ValueError, match="'b' is named twice"):
        refuse_repetition(["a", "b", "b"])


def test_a_problem_is_described_without_its_configuration_too():
    class Plain(BaseModel):
        count: int

    with pytest.raises(ValidationError) as caught:
        Plain(count="many", other=1)
    assert describe_problem(caught.value.errors()[0]) == "count: expected a whole number, found 'many'"
