"""`monosem show`: what lies at a path or URL, at a glance."""

import argparse
from collections.abc import Callable, Sequence
from typing import get_args

from jobs.results import latest_lines
from jobs.show_store import show_store
from sae.corpus.packing import TokenCorpus
from sae.corpus.splitting import SPLITS
from sae.corpus.verification import verify_corpus
from sae.dictionary_record import describe_dictionary
from sae.errors import CorruptObjectError, InputError
from sae.rating.agreement import ALL, EXPLANATION_SCORE, agreement_of
from sae.rating.deck import DECK_KEY, read_deck
from sae.rating.rubric import MOST
from sae.run.layout import STAGES_KEY
from sae.run.records import StageName, read_stages
from sae.storage import Place
from sae.store import verify_store
from sae.training.records import read_result

STAGES = get_args(StageName)  # in the order of a run


def show_verb(options: argparse.Namespace) -> None:
    """Print what is at `options.url`.

    Raises:
        InputError: nothing this tool wrote lies there.
        CorruptObjectError: `--verify` found damaged objects.
    """
    place = Place(options.url)
    show = next((show for marker, show in _SHOWN if place.exists(marker)), None)
    if show is None:
        raise InputError(
            f"{place.url} holds no run, corpus, store or dictionary: check the path (`plan.json`, `manifest.json` or `config.json` is missing)"
        )
    verify = _VERIFIED.get(show)
    if options.verify and verify is None:
        raise InputError(f"{place.url} is no store and no corpus, and these alone can be verified: give the path of one (a run holds both)")
    try:
        print(f"{place.url}: {show(place)}")
    except CorruptObjectError:
        if not options.verify:  # which names every damaged object
            raise
    if options.verify and verify is not None:
        _report(verify(place))


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
    result = read_result(place)
    fvu = "not defined" if result.final.fvu is None else f"{result.final.fvu:.4f}"
    return "\n".join(
        [
            f"a {result.architecture} dictionary {result.name!r}, {result.d_in} → {result.d_sae}",
            f"  trained on {result.vectors:,} vectors of {result.hookpoint} in {result.steps:,} steps, {result.wall_seconds:.0f} s",
            f"  at the end: L0 {result.final.l0:.2f}, FVU {fvu}, dead {100 * result.dead_fraction:.2f} %",
        ]
    )


def show_imported(place: Place) -> str:
    """A dictionary without a training of ours: one that was imported, or whose records were left behind."""
    record = describe_dictionary(place)
    imported = record.metadata.imported
    origin = f"imported from the layout of {str(imported.get('layout'))[:80]}" if imported else "without the result of its training"
    return f"a {record.architecture} dictionary {record.metadata.name!r}, {record.d_in} → {record.config.d_sae}, {origin}"


def show_run(place: Place) -> str:
    """A run: which of its stages are finished, and its numbers."""
    found = read_stages(place)
    stages = found.stages if found else {}
    lines = ["a run"]
    for name, cost in sorted(stages.items(), key=lambda stage: STAGES.index(stage[0])):
        state = "finished" if cost.finished else "unfinished: run the same command again to continue"
        lines.append(f"  {name:10} {cost.seconds:7.1f} s  {cost.peak_rss_bytes / 2**30:5.2f} GiB  {state}")
    if results := latest_lines(place):
        lines += ["", *results]
    if place.exists(DECK_KEY):
        lines += show_ratings(place)
    return "\n".join(lines)


def show_ratings(place: Place) -> list[str]:
    """Show the ratings of the features of each source, and the agreement of the automatic scores with people, and of people with each other."""
    from sae.report.gather import gather
    from sae.report.people import automatic_scores  # plots come with it, which nothing else here needs

    agreement = agreement_of(place, automatic_scores(place, gather(place)))
    if agreement is None:
        return [f"  ratings: nobody has rated the {len(read_deck(place).cards)} cards yet"]
    lines = ["  ratings: " + ", ".join(f"{rater} {number} of {agreement.num_cards}" for rater, number in agreement.raters.items())]
    lines += [
        f"    {each.source:20} {each.mean:5.2f} of {MOST} points{_interval(each.interval)}, n = {each.num_features}" for each in agreement.means
    ]
    for each in agreement.correlations:
        if each.pearson is not None and each.spearman is not None and (each.scope == ALL or each.measure == EXPLANATION_SCORE):
            found = f"Pearson {each.pearson:.3f}{_interval(each.pearson_interval)}, Spearman {each.spearman:.3f}{_interval(each.spearman_interval)}"
            lines.append(f"    people and {each.measure}, {each.scope}: {found}, n = {each.num_pairs}")
    for pair in agreement.pairs:
        if pair.correlation.pearson is not None and pair.mean_difference is not None:
            found = f"Pearson {pair.correlation.pearson:.3f}{_interval(pair.correlation.pearson_interval)}, {pair.mean_difference:.2f} points apart"
            lines.append(f"    {' and '.join(pair.raters)}: {found}, n = {pair.correlation.num_pairs}")
    return lines


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


# Which object says what a directory is; the first that is there decides.
_SHOWN: tuple[tuple[str, Callable[[Place], str]], ...] = (
    (STAGES_KEY, show_run),
    ("result.json", show_dictionary),
    ("weights.safetensors", show_imported),
    ("tokens/000000.arrow", show_store),
    ("plan.json", show_store),
    ("manifest.json", show_corpus),
)
_VERIFIED: dict[Callable[[Place], str], Callable[[Place], Sequence[str]]] = {show_store: verify_store, show_corpus: verify_corpus}


def _report(problems: Sequence[str]) -> None:
    if problems:
        raise CorruptObjectError(f"{len(problems)} damaged object(s): " + "; ".join(problems))
    print("verified: every object is what its receipt or manifest says")
