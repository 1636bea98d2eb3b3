"""The base of every configuration: frozen, strict about unknown keys, free of side effects."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sae.errors import ConfigError


class Config(BaseModel):
    """A frozen set of settings; an unknown key is an error.

    Example:
        >>> class Adam(Config):
        ...     learning_rate: float = 1e-3
        >>> Adam.parse({"learning_rate": "2e-3"}).learning_rate
        0.002
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Validate `values`, as read from YAML or JSON.

        Raises:
            ConfigError: in one line, each wrong key with what was found and what is possible.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: {'; '.join(map(describe_problem, error.errors()))}") from None


def describe_problem(problem: Any) -> str:
    """One pydantic problem as a phrase: where, what was wrong, what was found."""
    where = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r} (`--help` lists the known ones)"
    if problem["type"] == "missing":
        return f"missing key {where!r}"
    found = repr(problem["input"])
    return f"{where}: {problem['msg'].lower()}, found {found if len(found) <= 80 else found[:77] + '...'}"
