"""JSON from storage and from servers: parsed strictly, and sealed with a digest over all of its fields.

Whatever is read may be damaged or hostile. `parse_json` refuses what Python's parser lets through and later stages stumble over: NaN and
infinity, numbers that overflow to infinity, halves of surrogate pairs, keys that occur twice in an object, nesting without end, and encodings
other than UTF-8. A *sealed* object carries `digest`, the SHA-256 of all its other fields, so that no field can change unnoticed. The digest
protects against accidents and careless edits. Against someone who recomputes it only the checks of the reader help.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from sae.errors import CorruptObjectError, InputError

MAX_DEPTH = 64  # configurations nest 8 levels, token graphs some 12
DIGEST_FIELD = "digest"
_NEARLY_OVERFLOWS = re.compile(r"[eE]\+?[0-9]{3}|[0-9]{300}")
_COPY_AGAIN = "It was damaged, or not written by this tool. Copy it again, or write it again"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def to_json(value: Any) -> bytes:
    """`value` as JSON bytes with sorted keys, ending in a newline.

    Raises:
        ValueError: a NaN or infinity, or half of a surrogate pair (see `without_surrogates`).
    """
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_json(data: bytes | str, where: str, advice: str = _COPY_AGAIN) -> Any:
    """Parse one JSON value.

    Args:
        data: UTF-8 bytes or text.
        where: file, URL or line, for messages.
        advice: what to do about a value that is refused, for messages.

    Raises:
        InputError: it is not JSON, or holds a value that this module refuses.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        finite = _finite if _NEARLY_OVERFLOWS.search(text) else None
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=finite, object_pairs_hook=_object)
    except RecursionError:
        raise _refused(where, f"nested more than {MAX_DEPTH} levels deep", advice) from None
    except ValueError as error:
        raise _refused(where, str(error), advice) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _refused(where, f"nested more than {MAX_DEPTH} levels deep", advice)
    if _SURROGATE.search(text) and without_surrogates(whole := json.dumps(value, ensure_ascii=False)) != whole:
        raise _refused(where, "half of a surrogate pair", advice)
    return value


def parse_json_lines(data: bytes, where: str) -> Iterator[Any]:
    r"""Parse the values of JSON lines; blank lines are skipped.

    Lines end in `\n` alone: U+2028 and its like are text.

    Raises:
        InputError: a line is not JSON; the message names its number.
    """
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield parse_json(line, f"{where}, line {number}")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with its digest."""
    return {**content, DIGEST_FIELD: _digest(content)}


def unsealed(value: Any, where: str) -> dict[str, Any]:
    """The content of a sealed object, without its digest.

    Raises:
        CorruptObjectError: it is no object, has no digest, or its content is not what the digest says.
    """
    if not isinstance(value, dict) or DIGEST_FIELD not in value:
        raise CorruptObjectError(
            f"{where} has no digest of its content. It was written by another version of this tool, or by hand. "
            "Run the stage that writes it again, or load it with the version that wrote it"
        )
    content = {name: field for name, field in value.items() if name != DIGEST_FIELD}
    if (found := _digest(content)) != value[DIGEST_FIELD]:
        raise CorruptObjectError(
            f"{where} was changed after it was written: its content has the digest {found[:12]}…, and it says {str(value[DIGEST_FIELD])[:12]!r}. "
            "Copy it again, or run the stage that writes it again"
        )
    return content


def without_surrogates(text: str) -> str:
    """`text` with halves of surrogate pairs replaced by U+FFFD: text from outside that must be stored or shown."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(content)).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} occurs more than once in an object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return number


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [inner for each in level if isinstance(each, dict | list) for inner in (each.values() if isinstance(each, dict) else each)]
    return any(isinstance(each, dict | list) for each in level)


def _refused(where: str, reason: str, advice: str) -> InputError:
    return InputError(f"{where} is not valid JSON ({reason[:200]}). {advice}")
