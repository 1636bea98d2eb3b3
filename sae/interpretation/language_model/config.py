"""Configuration of explanations by a language model. The key is no setting: it comes from the environment alone."""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from sae.config import DAY, Config, Line, Real

ExplainerName = Literal["activations", "highlights"]
ScorerName = Literal["simulation", "detection", "fuzzing", "logits"]
PER_MILLION = 1e-6
KEY_VARIABLE = "OPENAI_API_KEY"
_NAMES_A_SECRET = re.compile(r"api[-_]?key|authoriz|bearer|password|secret|token$", re.IGNORECASE)
# Fields of a request that have a setting of their own, or change what a reply is and costs.
_TAKEN = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "stream", "n"}
HIDDEN = "…"  # an address that is refused, in the place of its value: pydantic repeats what it refuses


def url_problem(url: str) -> str | None:
    """Why an address of an endpoint cannot be used, without repeating it; None where it can."""
    if "@" in url or "%40" in url:
        return f"holds credentials. An address has none. Set {KEY_VARIABLE} instead"
    if "?" in url or "#" in url:
        return f"holds a query or fragment. An address ends with its path, such as https://host/v1. Set a key in {KEY_VARIABLE}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "is no address of an endpoint. It begins with http:// or https:// and a host, such as http://127.0.0.1:8000/v1"
    return None


def _secret_in(extra: Any) -> str | None:
    """The name of a field, at any depth, that seems to hold a secret."""
    if isinstance(extra, list):
        return next((found for each in extra if (found := _secret_in(each))), None)
    if not isinstance(extra, dict):
        return None
    return next((str(name) for name in extra if _NAMES_A_SECRET.search(str(name))), None) or _secret_in(list(extra.values()))


def _without_secret(value: Any) -> Any:
    return value if not isinstance(value, str) or url_problem(value) is None else f"{HIDDEN}{url_problem(value)}"


def _safe_url(url: str) -> str:
    if url.startswith(HIDDEN):
        raise ValueError(f"base_url {url.removeprefix(HIDDEN)}")
    return url


class Prices(Config):
    """Prices of the endpoint."""

    prompt: Real = Field(0.0, ge=0, le=10**7, description="US dollars per million tokens sent")
    reply: Real = Field(0.0, ge=0, le=10**7, description="US dollars per million tokens got")

    def cost(self, prompt_tokens: int, reply_tokens: int) -> float:
        """US dollars."""
        return (prompt_tokens * self.prompt + reply_tokens * self.reply) * PER_MILLION


class ReplyOptions(Config):
    """Settings of every request. A change makes other replies: it is part of the plan."""

    temperature: Real | None = Field(0.0, ge=0, le=2, description="0 is as repeatable as the endpoint can be; null leaves it out")
    spare_tokens: PositiveInt = Field(
        400, le=10**6, description="tokens a reply may have beyond the lists it must give: room for the explanation, or for a model that thinks first"
    )
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field("max_tokens", description="how the endpoint calls the limit of a reply")
    extra: dict[str, Any] = Field({}, max_length=64, description="further fields of the request, as the endpoint documents them")

    @field_validator("extra", mode="before")
    @classmethod
    def _no_key(cls, extra: Any) -> Any:
        # Settings are written beside the results. The value is taken out first: pydantic repeats what it refuses.
        named = _secret_in(extra)
        return extra if named is None else {HIDDEN: named}

    @field_validator("extra", mode="after")
    @classmethod
    def _free(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if HIDDEN in extra:
            raise ValueError(f"{extra[HIDDEN]!r} seems to hold a secret, and settings are kept with the results. Set the key in {KEY_VARIABLE}")
        if taken := sorted(_TAKEN & {name.lower() for name in extra}):
            raise ValueError(f"{', '.join(taken)} cannot be given here: this program sets it, and reads replies and counts money accordingly")
        return extra


class RequestLimits(Config):
    """Limits of the load on the endpoint."""

    concurrency: PositiveInt = Field(8, le=1000, description="requests under way at once")
    requests_per_minute: Real | None = Field(None, gt=0, le=10**7, description="requests begun per minute; null sets no limit")
    tokens_per_minute: Real | None = Field(None, gt=0, le=10**10, description="tokens sent and allowed in replies per minute; null sets no limit")
    timeout_seconds: Real = Field(120.0, gt=0, le=DAY, description="time for one reply")
    attempts: PositiveInt = Field(
        8, le=100, description="attempts at one request that meets 429, a server's error, a time-out or a broken connection"
    )
    longest_wait_seconds: Real = Field(
        300.0, gt=0, le=DAY, description="the longest wait before another attempt, Retry-After included; beyond it the run ends"
    )


class LanguageModelConfig(Config):
    """Explanations in words by a language model behind an OpenAI-compatible endpoint."""

    model: Line = Field(description="the model, as the endpoint names it")
    base_url: Annotated[Line, AfterValidator(_safe_url), BeforeValidator(_without_secret)] | None = Field(
        None, description="the endpoint, such as http://127.0.0.1:8000/v1; null takes OPENAI_BASE_URL, else OpenAI's own"
    )
    explainers: tuple[ExplainerName, ...] = Field(
        ("highlights",),
        min_length=1,
        description="how examples are shown: `activations` (0 to 10 beside each token) or `highlights` (<<marked>> tokens)",
    )
    scorers: tuple[ScorerName, ...] = Field(
        ("simulation", "detection", "fuzzing", "logits"), description="how explanations are scored on examples they never saw"
    )
    logit_effects: bool = Field(True, description="show explainers the tokens whose logits the feature raises most")
    shown_examples: PositiveInt = Field(
        20, le=1000, description="explanation examples shown, strongest and per interval; `activations` adds silent ones"
    )
    examples_per_request: PositiveInt = Field(5, le=1000, description="scoring examples in one request")
    max_features: NonNegativeInt = Field(50, le=10**6, description="features of each source to explain, a seeded sample of those that fire")
    max_cost: Real | None = Field(
        None, gt=0, le=10**7, description="US dollars this output may cost in all; the work ends when it is reached; raise it to continue"
    )
    prices: Prices = Field(Prices(), description="what the endpoint charges")
    replies: ReplyOptions = Field(ReplyOptions(), description="what every request asks for")
    limits: RequestLimits = Field(RequestLimits(), description="how hard the endpoint may be pressed")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_cost is not None and self.prices == Prices():
            raise ValueError("max_cost needs prices: give prices.prompt and prices.reply, in dollars per million tokens")
        if len(set(self.explainers)) < len(self.explainers) or len(set(self.scorers)) < len(self.scorers):
            raise ValueError("an explainer or scorer is named twice")
        return self

    def determining(self) -> dict[str, Any]:
        """The settings that determine a feature's explanation and scores: limits, budgets and the size of the sample do not."""
        return self.model_dump(mode="json", exclude={"base_url", "max_features", "max_cost", "prices", "limits"})
