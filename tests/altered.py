"""JSON objects with one value altered: what damage, a careless edit or another version would leave."""

from copy import deepcopy

from sae.storage import Place, parse_json, sealed

GONE = object()
OTHERS = (None, "x", {}, [], True, -5, 10**30, 0.5)  # instead of a value; those that are the same as it are left out


def alterations(value, others=(GONE, *OTHERS), most=3):
    """Pairs of a path and a copy of `value` that differs there alone; of long lists the first `most` items are altered."""
    for path in _paths(value, most):
        for other in others:
            if other is GONE or not _same(_at(value, path), other):
                yield "/".join(map(str, path)), _altered(value, path, other)


def some_alterations(draw, count, value, others=(GONE, *OTHERS), most=3):
    """At most `count` of these copies, drawn by a `random.Random`; only they are made."""
    found = [(path, other) for path in _paths(value, most) for other in others if other is GONE or not _same(_at(value, path), other)]
    for path, other in draw.sample(found, min(count, len(found))):
        yield _altered(value, path, other)


def raw_alterations(data):
    """Bytes of JSON with one value that no parser should take."""
    text = data.decode()
    for bad in ("NaN", "-Infinity", "1e999", "[" * 500, '"\\ud83d"'):
        place = text.index(":") + 1
        end = min(found for found in (text.find(",", place), text.find("\n", place)) if found > 0)
        yield text[:place] + bad + text[end:]


def sealed_again(place: Place, key: str, value: dict) -> None:
    """Write an altered object with a digest that fits."""
    place.put_json(key, sealed({name: field for name, field in value.items() if name != "digest"}))


def read(place: Place, key: str) -> dict:
    """An object as it lies there, with its digest."""
    return parse_json(place.get(key), key)


def _paths(value, most, prefix=()):
    if prefix:
        yield prefix
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, most, (*prefix, key))
    if isinstance(value, list):
        for number, inner in enumerate(value[:most]):
            yield from _paths(inner, most, (*prefix, number))


def _at(value, path):
    for part in path:
        value = value[part]
    return value


def _altered(value, path, other):
    copy = deepcopy(value)
    holder = _at(copy, path[:-1])
    if other is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = other
    return copy


def _same(one, other):
    return type(one) is type(other) and one == other
