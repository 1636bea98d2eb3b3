"""Origin of an imported dictionary: what the other library's files say about it, and what the user adds."""

from dataclasses import dataclass, field, replace
from typing import Any

from sae.interoperability.reading import printable, shown

MAX_TEXT = 200  # characters of a text in the metadata
MAX_NOTES = 32
LARGEST_NUMBER = 2**31  # no context is longer
LABELS = {"hookpoint": "hookpoint", "target_hookpoint": "target hookpoint", "subject": "model", "context_length": "context length"}
OPTIONS = {"hookpoint": "--hookpoint", "target_hookpoint": "--target-hookpoint", "subject": "--model"}


@dataclass(frozen=True)
class Taken:
    """A value and the field that it was taken from."""

    value: Any
    source: str


@dataclass(frozen=True)
class Provenance:
    """Facts about a dictionary by the names of our metadata (see `LABELS`).

    Attributes:
        version: of the library that wrote it, where it says so.
        taken: facts that are known.
        unclear: facts that the files do give, but in a form that could mean several things here; as phrases.
        notes: what else the files say of its training data, by their own keys.
    """

    version: str | None = None
    taken: dict[str, Taken] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def with_given(self, **given: str | None) -> "Provenance":
        """The same with facts that the user gives; they count more than the files."""
        found: dict[str, Taken] = {}
        for name, value in given.items():
            if value is not None:
                before = self.taken.get(name)
                differs = f", instead of {shown(before.value)} from {before.source}" if before and before.value != value else ""
                found[name] = Taken(value, f"given{differs}")
        return replace(self, taken=self.taken | found, unclear={name: said for name, said in self.unclear.items() if name not in found})

    def metadata(self, layout: str, source: str) -> dict[str, Any]:
        """Fields for the `metadata` of the imported dictionary."""
        imported: dict[str, Any] = {"layout": layout, "from": source}
        if self.version:
            imported["version"] = _short(self.version)
        if notes := dict(list(self.notes.items())[:MAX_NOTES]):
            imported["notes"] = {key[:MAX_TEXT]: _short(value) for key, value in notes.items()}
        return {name: _short(taken.value) for name, taken in self.taken.items()} | {"imported": imported}

    def lines(self, is_transcoder: bool) -> list[str]:
        """Describe the known origin and its source, what is not known and how to give it; one line each."""
        facts = ((LABELS[name], self.taken[name]) for name in LABELS if name in self.taken)
        known = [f"{label} {printable(str(taken.value), MAX_TEXT)} ({taken.source})" for label, taken in facts]
        needed = ["hookpoint", *(["target_hookpoint"] if is_transcoder else []), "subject"]
        missing = [f"{LABELS[name]} {self.unclear.get(name, 'is not given')}: add {OPTIONS[name]}" for name in needed if name not in self.taken]
        noted = [f"{printable(key)} {shown(value)}" for key, value in self.notes.items()]
        groups = (("from its files: ", known), ("unknown: ", missing), ("noted: ", noted))
        return [prefix + "; ".join(phrases) for prefix, phrases in groups if phrases]


def taken_if(kind: type, value: Any, source: str) -> Taken | None:
    """A fact, unless the value is missing, or no text or possible positive number."""
    usable = isinstance(value, kind) and not isinstance(value, bool)
    usable = usable and (0 < value < LARGEST_NUMBER if isinstance(value, int) else bool(str(value).strip()))
    return Taken(value, source) if usable else None


def known(**facts: Taken | None) -> dict[str, Taken]:
    """Those facts that are known."""
    return {name: taken for name, taken in facts.items() if taken is not None}


def _short(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    return (value if isinstance(value, str) else shown(value))[:MAX_TEXT]
