"""The base of every configuration: frozen, strict about keys and values, free of side effects."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from sae.config.problems import describe_problem
from sae.config.strict import with_strict_scalars
from sae.errors import ConfigError

MAX_PROBLEMS = 5


class Config(BaseModel):
    """A frozen set of settings; an unknown key is an error.

    Values are strict, in every field and at any depth: a Boolean is no number, a number is neither Boolean nor text, and text is no number.
    One exception: where a float is expected, text such as `2e-3` is read as one, because YAML 1.1 writers leave it as text. Whole numbers that
    a field does not bound itself fit into 64 bits.

    Example:
        >>> class Adam(Config):
        ...     learning_rate: float = 1e-3
        >>> Adam.parse({"learning_rate": "2e-3"}).learning_rate
        0.002
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, hide_input_in_errors=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate `values`, as read from YAML or JSON.

        Raises:
            ConfigError: in one line, each wrong key with what was found and what is possible.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [describe_problem(problem, cls, values) for problem in error.errors(include_url=False)[:MAX_PROBLEMS]]
            more = error.error_count() - len(problems)
            raise ConfigError("; ".join(problems) + (f"; and {more} more" if more else "")) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of the fields, with strict numbers, Booleans and text throughout."""
        schema: CoreSchema = with_strict_scalars(handler(source))
        return schema
