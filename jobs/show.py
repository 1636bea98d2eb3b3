"""`monosem show`: what lies at a path or URL, at a glance."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from sae.corpus.packing import SPLITS, TokenCorpus
from sae.errors import CorruptObjectError, InputError
from sae.storage import Place
from sae.store.manifest import receipt_key
from sae.store.reader import Store


def show_verb(options: argparse.Namespace) -> None:
    """Print what is at `options.url`.

    Raises:
        InputError: nothing this tool wrote lies there.
        CorruptObjectError: `--verify` found damaged objects.
    """
    place = Place(options.url)
    for marker, show in _SHOWN:
        if place.exists(marker):
            print(f"{place.url}: {show(place)}")
            break
    else:
        raise InputError(
            f"{place.url} holds no run, corpus, store or dictionary: check the path (`plan.json`, `manifest.json` or `config.json` is missing)"
        )
    if options.verify:
        _verify(place)


def show_store(place: Place) -> str:
    """A store: its plan, rows, bytes and norms by hookpoint; or how far an unfinished one is."""
    if not place.exists("manifest.json"):
        plan = place.get_json("plan.json")
        shards = -(-plan["num_sequences"] // plan["sequences_per_shard"])
        there = set(place.list("receipts"))
        whole = sum(all(receipt_key(hookpoint, shard) in there for hookpoint in plan["hookpoints"]) for shard in range(shards))
        return f"an unfinished store, {whole} of {shards} shards; run its harvest again to continue"
    store = Store(place)
    plan = store.plan
    kept = "all tokens" if plan.tokens_per_sequence is None else f"{plan.tokens_per_sequence} tokens"
    lines = [
        f"a store of {len(plan.hookpoints)} hookpoint(s)",
        f"  subject   {plan.subject} (sha256 {plan.subject_digest[:12]})",
        f"  text      {plan.num_sequences:,} sequences of {plan.context_length} tokens, {kept} of each; corpus {plan.corpus_digest[:12]}",
        f"  digest    {store.manifest.digest}",
    ]
    for hookpoint, entries in store.manifest.shards.items():
        statistics = store.statistics(hookpoint)
        size = sum(entry.bytes for entry in entries)
        lines += [
            f"  {hookpoint}: {statistics.rows:,} activations of {store.width(hookpoint)} {plan.dtype}",
            f"    {size / 2**20:,.1f} MiB in {len(entries)} shards",
            f"    norm: mean {statistics.mean_norm:.4g}, quadratic mean {statistics.mean_squared_norm**0.5:.4g}; variance {statistics.variance:.4g}",
        ]
    return "\n".join(lines)


def show_corpus(place: Place) -> str:
    """A corpus: sequences and documents of its splits."""
    corpus = TokenCorpus(place)
    manifest = corpus.manifest
    counts = manifest.documents
    lines = [f"a corpus of {', '.join(manifest.config.text)}; {counts['read']:,} documents read, {counts['duplicates']:,} repetitions dropped"]
    for split in SPLITS:
        sequences = corpus.num_sequences(split)
        lines.append(f"  {split:9} {sequences:,} sequences, {sequences * manifest.config.context_length:,} tokens, {counts[split]:,} documents")
    return "\n".join([*lines, f"  digest    {manifest.digest}"])


def show_dictionary(place: Place) -> str:
    """A trained dictionary: the result of its training."""
    result: dict[str, Any] = place.get_json("result.json")
    final = result["final"]
    return "\n".join(
        [
            f"a {result['architecture']} dictionary {result['name']!r}, {result['d_in']} → {result['d_sae']}",
            f"  trained on {result['vectors']:,} vectors of {result['hookpoint']} in {result['steps']:,} steps, {result['wall_seconds']:.0f} s",
            f"  at the end: L0 {final['l0']:.2f}, FVU {final['fvu']:.4f}, dead {100 * result['dead_fraction']:.2f} %",
        ]
    )


def show_run(place: Place) -> str:
    """A run: which of its stages are finished, and its numbers."""
    stages = place.get_json("stages.json")["stages"]
    lines = ["a run"]
    for name, cost in stages.items():
        state = "finished" if cost["finished"] else "unfinished: run the same command again to continue"
        lines.append(f"  {name:10} {cost['seconds']:7.1f} s  {cost['peak_rss_bytes'] / 2**30:5.2f} GiB  {state}")
    if place.exists("summary.json"):
        for entry in place.get_json("summary.json")["dictionaries"]:
            lines.append(f"  {json.dumps(entry, ensure_ascii=False)}")
    return "\n".join(lines)


# Which object says what a directory is; the first that is there decides.
_SHOWN: tuple[tuple[str, Callable[[Place], str]], ...] = (
    ("stages.json", show_run),
    ("result.json", show_dictionary),
    ("tokens/000000.arrow", show_store),
    ("manifest.json", show_corpus),
    ("plan.json", show_store),
)


def _verify(place: Place) -> None:
    problems = Store(place).verify()
    if problems:
        raise CorruptObjectError(f"{len(problems)} damaged object(s): " + "; ".join(problems))
    print("verified: every object is what its receipt says")
