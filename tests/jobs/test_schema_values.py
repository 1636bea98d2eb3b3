"""Values that mean nothing are refused in every key of the configuration, in one short line that names the key."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.config import RunConfig
from jobs.estimates import Machine, Widths, check_estimates
from jobs.stages import STAGES
from sae.config import walk_keys
from sae.errors import ConfigError

MACHINE = Machine(memory_bytes=16 * 2**30, cpus=4, gpus=0, is_local=True)
EVERY_STAGE = tuple(STAGES)
KEYS = list(walk_keys(RunConfig))
BAD = [
    *(True, False, -1, 10**9, 10**30, -(10**30), 10**400, 0.5, 1e308, -1e308, 1e-300, math.nan, math.inf),
    *("", "   ", "abc", "0x10", "1_000", "true", "a\x00b", "a\nb", "\ud800", "x" * 100_000),
    *([], {}, [[1]], {"a": 1}, [None], [{}] * 20_000),
]


def values_with(key, value):
    """A valid configuration but for one value."""
    entry = {"name": "one", "sae": {"architecture": key.owners[0] if key.owners else "relu"}}
    values = {"output": "runs/x", "training": {"dictionaries": [entry]}, "interpretation": {"language_model": {"model": "some"}}}
    *above, last = key.path.split(".")
    node = values
    for part in above:
        node = node[0] if part == "NAME" else node.setdefault(part, {})
    if above[-1:] == ["target_l0"]:
        node["l0"] = 5
    if above[-1:] == ["explanation_examples"] or above[-1:] == ["scoring_examples"]:
        node.update(top=1, random=1, out_of_context=1, tokens_before=1, tokens_after=1)
    node[last] = value
    return values


def outcome(key, value):
    try:
        RunConfig.parse(values_with(key, value))
    except ConfigError as error:
        return str(error)
    return None


def test_bad_values_are_refused_in_every_key():
    """The few that are accepted mean something there: text in a key of text, a large number of tokens, a seed."""
    accepted = {}
    for key in KEYS:
        for value in BAD:
            message = outcome(key, value)
            if message is None:
                accepted.setdefault(key.path, []).append(value)
                continue
            assert len(message) < 900, message
            assert message.isprintable(), message
            assert key.path.replace("NAME", "one").split(".")[0] in message or "too small" in message, (key.path, message)
    count = sum(map(len, accepted.values()))
    print(f"\n{count} of {len(KEYS) * len(BAD)} values accepted, {100 * count / len(KEYS) / len(BAD):.1f} %")
    for path, found in accepted.items():
        print(f"  {path}: {', '.join(repr(value)[:30] for value in found)}")
    assert count <= 0.05 * len(KEYS) * len(BAD)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.fuzz
@given(st.sampled_from(KEYS), JSON)
def test_any_value_is_taken_or_refused_in_one_line(key, value):
    message = outcome(key, value) or ""
    assert len(message) < 900
    assert message.isprintable()


def test_what_is_accepted_fits_a_machine_or_is_refused_by_an_estimate():
    """The largest value of every whole number at once is refused; none overflows or takes long to find out."""
    for key in KEYS:
        largest = next((mark.le for mark in key.field.metadata if getattr(mark, "le", None) is not None), None)
        if largest is None or outcome(key, largest) is not None:
            continue
        with contextlib.suppress(ConfigError):
            check_estimates(RunConfig.parse(values_with(key, largest)), EVERY_STAGE, MACHINE, Widths(512, 4096, 512))


def test_every_number_text_and_list_is_bounded():
    schema = RunConfig.model_json_schema()
    unbounded = [
        f"{owner}.{name}"
        for owner, section in {"RunConfig": schema, **schema["$defs"]}.items()
        for name, field in section["properties"].items()
        for part in (field, *field.get("anyOf", []), field.get("items", {}))
        if not is_bounded(part)
    ]
    assert unbounded == ["TrainingConfig.dictionaries"]  # bounded where its grids are expanded, with advice


def is_bounded(part):
    if part.get("type") in ("integer", "number"):
        return {"minimum", "exclusiveMinimum"} & set(part) and {"maximum", "exclusiveMaximum"} & set(part)
    if part.get("type") == "string":
        return {"enum", "const", "maxLength"} & set(part)
    return part.get("type") != "array" or "maxItems" in part or "enum" in part["items"]
