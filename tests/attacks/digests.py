"""Digests made to agree with a changed file, up to the last record that names one: what somebody who may write everything could do."""

import hashlib
from pathlib import Path
from typing import Any

import xxhash

from sae.corpus.manifest import TokenShard, _seal, sequences_digest
from sae.corpus.splitting import SPLITS
from sae.errors import InputError
from sae.storage import parse_json, sealed, to_json


class Chain:
    """The records of a directory, and what they say of its files, before anything is changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.before = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def reseal(self, changed: Path) -> None:
        """Have every record say of the changed file what it is now, and of those records, until nothing differs."""
        known = self.before.pop(changed)
        try:
            now = self._own_digest(changed, known)
        except (OSError, InputError, UnicodeDecodeError):
            return  # there is nothing left that a record could describe
        waiting = _facts(known, now)
        for _ in range(8):
            fresh: dict[str, str] = {}
            for path, data in self.before.items():
                if path.suffix == ".json" and any(old.encode() in data for old in waiting):
                    after = self._replaced(path, data, waiting, (len(known), len(now)))
                    fresh |= _facts(data, after)
                    self.before[path] = after
            waiting = fresh
            if not waiting:
                return

    def _own_digest(self, path: Path, known: bytes) -> bytes:
        """The content of the changed file, sealed again where it was sealed."""
        if path.suffix == ".json" and b'"digest"' in known and isinstance(value := parse_json(path.read_bytes(), path.name), dict):
            path.write_bytes(_sealed_as(path, value))
            self._share_plan(path, value)
        return path.read_bytes()

    def _share_plan(self, path: Path, value: dict[str, Any]) -> None:
        """The plan of a store stands in its manifest, too."""
        manifest = path.with_name("manifest.json")
        if path.name == "plan.json" and manifest in self.before and b'"plan"' in self.before[manifest]:
            whole = parse_json(self.before[manifest], manifest.name)
            whole["plan"] = {name: field for name, field in value.items() if name != "digest"}
            self.before[manifest] = _sealed_as(manifest, whole)
            manifest.write_bytes(self.before[manifest])

    def _replaced(self, path: Path, data: bytes, facts: dict[str, str], sizes: tuple[int, int]) -> bytes:
        value = _with(parse_json(data, path.name), facts, sizes)
        after = _sealed_as(path, value) if isinstance(value, dict) and "digest" in value else to_json(value)
        path.write_bytes(after)
        return after


def _sealed_as(path: Path, value: dict[str, Any]) -> bytes:
    if "seal" in value:  # a corpus: its digest is that of its sequences
        shards = [TokenShard.model_construct(**each) for split in SPLITS for each in value.get(split, []) if isinstance(each, dict)]
        value = {name: field for name, field in value.items() if name != "seal"} | {"digest": sequences_digest(shards)}
        return to_json({**value, "seal": _seal(value)})
    content = {name: field for name, field in value.items() if name != "digest"}
    if path.name == "manifest.json" and isinstance(value.get("plan"), dict):  # a store's covers all but the subject's name
        covered = content | {"plan": {name: field for name, field in value["plan"].items() if name != "subject"}}
        return to_json({**content, "digest": hashlib.sha256(to_json(covered)).hexdigest()})
    return to_json(sealed(content))


def _facts(before: bytes, after: bytes) -> dict[str, str]:
    """What was said of a file's content and has changed: its digests, and the digest that it holds of itself."""
    facts = {hashlib.sha256(before).hexdigest(): hashlib.sha256(after).hexdigest()}
    facts[xxhash.xxh3_128_hexdigest(before)] = xxhash.xxh3_128_hexdigest(after)
    for one, other in zip(_own(before), _own(after), strict=False):
        facts[one] = other
    return {old: new for old, new in facts.items() if old != new}


def _own(data: bytes) -> list[str]:
    try:
        value = parse_json(data, "")
    except InputError:
        return []
    return [value["digest"]] if isinstance(value, dict) and isinstance(value.get("digest"), str) else []


def _with(value: Any, facts: dict[str, str], sizes: tuple[int, int]) -> Any:
    if isinstance(value, dict):
        described = any(isinstance(each, str) and each in facts for each in value.values())
        found = {name: _with(field, facts, sizes) for name, field in value.items()}
        if described and found.get("bytes") == sizes[0]:
            found["bytes"] = sizes[1]
        return found
    if isinstance(value, list):
        return [_with(each, facts, sizes) for each in value]
    return facts.get(value, value) if isinstance(value, str) else value
