"""`monosem interpret --dry-run` and `--max-cost`: what a language model would be asked, and what it may cost."""

from jobs.config import RunConfig
from jobs.stages import subject_vocabulary
from sae.errors import ConfigError, InputError
from sae.interpretation.language_model.config import LanguageModelConfig
from sae.report.numbers import dollars
from sae.run.layout import SUMMARY_KEY


def with_max_cost(config: RunConfig, max_cost: float | None) -> RunConfig:
    """The configuration with another `interpretation.language_model.max_cost`, if one is given.

    Raises:
        ConfigError: no language model is configured, or its prices are not.
    """
    if max_cost is None:
        return config
    changed = LanguageModelConfig.parse(_language_model(config).model_dump() | {"max_cost": max_cost})
    return config.model_copy(update={"interpretation": config.interpretation.model_copy(update={"language_model": changed})})


def print_estimate(config: RunConfig) -> None:
    """Print requests, tokens and money of what is left, by source; nothing is sent and nothing is written.

    Raises:
        ConfigError: no language model is configured.
        InputError: nothing is interpreted yet.
    """
    from services.language_interpreter import estimate

    asked, url = _language_model(config), f"{config.output}/interpretation"
    place = config.place.child("interpretation")
    sources = sorted(key.removesuffix(f"/{SUMMARY_KEY}") for key in place.list() if key.count("/") == 1 and key.endswith(f"/{SUMMARY_KEY}"))
    if not sources:
        raise InputError(f"{url} holds no finished source to estimate from: run `monosem interpret interpretation.language_model=null` first")
    found = estimate(asked, config.interpretation.seed, subject_vocabulary(config), url, sources)
    columns = ("source", "features", "requests", "tokens sent", "tokens got", "dollars", "at most")
    rows: list[tuple[str, ...]] = [
        (each.source, f"{each.features:,}", f"{each.requests:,}", f"{each.prompt_tokens:,}", f"{each.reply_tokens:,}", dollars(each.cost),
         dollars(each.most_cost))
        for each in found
    ]  # fmt: skip
    sums = [sum(getattr(each, name) for each in found) for name in ("features", "requests", "prompt_tokens", "reply_tokens", "cost", "most_cost")]
    rows.append(("all", *(f"{total:,}" for total in sums[:4]), *(dollars(total) for total in sums[4:])))
    widths = [max(len(row[column]) for row in (columns, *rows)) for column in range(len(columns))]
    for name, *figures in (columns, *rows):
        print(name.ljust(widths[0]), *(figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)), sep="  ")
    print("nothing was sent. Tokens are estimates of 3 bytes each; `at most` takes every byte for a token and every reply as long as it may be")
    if asked.max_cost is not None:
        print(f"the work ends before it costs more than {asked.max_cost:g} dollars, earlier runs included")


def _language_model(config: RunConfig) -> LanguageModelConfig:
    if config.interpretation.language_model is None:
        raise ConfigError("interpretation.language_model is null: name a model, such as interpretation.language_model.model=NAME")
    return config.interpretation.language_model
