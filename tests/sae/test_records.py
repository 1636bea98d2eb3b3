"""A record holds what its object holds, or the first field that differs is named."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, NonNegativeInt

from sae.errors import CorruptObjectError, InputError
from sae.records import Record, as_record, check_name, check_objects, digests_of, get_record, put_record
from sae.storage import Place


class Part(Record):
    share: float | None = None


class Whole(Record):
    name: str
    kind: Literal["a", "b"]
    count: NonNegativeInt
    parts: list[Part] = Field([])
    by_name: dict[str, Part] = Field({})
    pair: tuple[float, float] | None = None
    free: dict[str, Any] = Field({})


WHOLE = {
    **{"name": "x", "kind": "a", "count": 3, "parts": [{"share": 0.5}], "by_name": {"one": {"share": None}}},
    **{"pair": [1.0, 2.0], "free": {"any": [1, "x"]}},
}


def test_a_record_comes_back_as_it_was_written(tmp_path):
    place, record = Place(tmp_path), Whole.parse(WHOLE)
    put_record(place, "whole.json", record)
    assert get_record(place, "whole.json", Whole) == record == as_record(Whole, WHOLE, "here")
    place.put_json("whole.json", place.get_json("whole.json") | {"count": 4})
    with pytest.raises(CorruptObjectError, match="was changed after it was written"):
        get_record(place, "whole.json", Whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": "3"}, "count: .*found '3'"),
        ({"count": True}, "count"),
        ({"count": 3.5}, "count"),
        ({"count": -1}, "count"),
        ({"count": None}, "count"),
        ({"name": 5}, "name"),
        ({"kind": "c"}, "kind"),
        ({"more": 1}, "field more is unknown"),
        ({"a\nb" * 99: 1}, r"field 'a\\nba\\nb.* is unknown"),
        ({"by_name": {"a\nb": {}}}, r"field 'by_name\.a\\nb\.share' is missing"),
        ({"parts": [{}]}, r"field parts\.0\.share is missing"),
        ({"parts": [{"share": "0.5"}]}, r"parts\.0\.share"),
        ({"by_name": {"one": {"share": True}}}, r"by_name\.one\.share"),
        ({"pair": [1.0]}, "pair"),
        ({"parts": {}}, "parts"),
    ],
)
def test_the_first_field_that_cannot_be_is_named(changes, said):
    with pytest.raises(InputError, match=rf"^run/x\.json is not what this version writes: .*{said}.* Run the stage that writes it again$"):
        as_record(Whole, WHOLE | changes, "run/x.json")


@pytest.mark.parametrize("name", WHOLE)
def test_no_default_takes_the_place_of_a_field(name):
    rest = {key: value for key, value in WHOLE.items() if key != name}
    with pytest.raises(InputError, match=f"field {name} is missing"):
        as_record(Whole, rest, "here")
    if name not in ("name", "kind", "count"):
        assert as_record(Whole, rest, "here", may_lack=True).name == "x"


def test_objects_are_those_that_a_record_names(tmp_path):
    place = Place(tmp_path)
    place.put("a", b"one")
    place.put("b", b"")
    digests = digests_of(place, ("a",))
    check_objects(place, digests, "record")
    place.put("a", b"two")
    with pytest.raises(CorruptObjectError, match=r"a has the digest .*, and record names"):
        check_objects(place, digests, "record")
    place.delete("a")
    with pytest.raises(CorruptObjectError, match="a is missing, and record names it"):
        check_objects(place, digests, "record")
    with pytest.raises(CorruptObjectError, match="here is of 'one', and its place is that of 'two'"):
        check_name("one", "two", "here")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "kind", "count", "parts", "share", "x\ny"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.mark.fuzz
@given(JSON, st.dictionaries(st.sampled_from([*WHOLE, "m\nore"]), JSON, max_size=3))
def test_any_json_is_the_record_or_one_line(value, changes):
    for content in (value, WHOLE | changes):
        said = ""
        try:
            assert as_record(Whole, content, "here").model_dump(mode="json") == content
        except InputError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 400
