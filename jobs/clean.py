"""`monosem clean`: unused files of a store or a run, listed or deleted."""

import argparse
import time
from collections import Counter

from sae.errors import InputError
from sae.run.layout import CONFIG_KEY, STAGES_KEY
from sae.storage import Entry, Place
from sae.storage.local import TEMPORARY_NAME
from sae.store import PLAN_KEY, Inspection, delete_garbage, find_garbage

SHOWN = 20
KILLED_SECONDS = 3600.0  # a write takes seconds: what is older was left by one that was killed


def clean_verb(options: argparse.Namespace) -> None:
    """Print what may go, and delete it where `--delete` says so.

    Raises:
        InputError: there is no store and no run; or `--delete` where an object is explained by neither plan nor manifest.
        LeaseError: `--delete` while a harvest fills the store.
    """
    place = Place(options.url)
    is_store, is_run = place.exists(PLAN_KEY), place.exists(STAGES_KEY) or place.exists(CONFIG_KEY)
    if not is_store and not is_run:
        raise InputError(f"{place.url} holds neither a store (plan.json) nor a run (config.json): check the path")
    if is_run and not is_store:
        _clean_run(place, options.delete)
        place = place.child("store")
        if not place.exists(PLAN_KEY):
            return
    _print(place, delete_garbage(place) if options.delete else find_garbage(place), options.delete)


def leftovers(run: Place) -> list[Entry]:
    """Files of writes that were killed, outside the run's store: those of this tool's naming that have not changed for an hour."""
    youngest = time.time() - KILLED_SECONDS
    entries = (entry for entry in run.entries(partial=True) if not entry.key.startswith("store/"))
    return [entry for entry in entries if TEMPORARY_NAME.fullmatch(entry.key) and entry.modified < youngest]


def _clean_run(run: Place, delete: bool) -> None:
    found = leftovers(run)
    for entry in found[:SHOWN]:
        print(f"  left-over {entry.bytes:>15,} bytes  {entry.key}")
    if len(found) > SHOWN:
        print(f"  … and {len(found) - SHOWN:,} more")
    for entry in found if delete else ():
        run.delete(entry.key)
    done = "deleted" if delete else "not deleted: --delete does it"
    print(f"{run.url}: {len(found):,} left-over of killed writes, {sum(entry.bytes for entry in found):,} bytes{f', {done}' if found else ''}")


def _print(place: Place, found: Inspection, deleted: bool) -> None:
    for litter in found.litter[:SHOWN]:
        print(f"  {litter.kind:9} {litter.bytes:>15,} bytes  {litter.key}")
    if len(found.litter) > SHOWN:
        print(f"  … and {len(found.litter) - SHOWN:,} more")
    for each in found.unexplained[:SHOWN]:
        print(f"  unexplained {each.bytes:>13,} bytes  {each.key} (left alone: {each.reason})")
    for entry in found.foreign[:SHOWN]:
        print(f"  foreign   {entry.bytes:>15,} bytes  {entry.key} (left alone: this tool did not write it)")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(Counter(litter.kind for litter in found.litter).items()))
    if not found.litter and not found.unexplained:
        print(f"{place.url}: nothing to clean")
    elif deleted:
        print(f"{place.url}: deleted {kinds}; {found.bytes:,} bytes are free again")
    else:
        again = "--delete does it" if not found.unexplained else "--delete refuses while objects are unexplained"
        print(f"{place.url}: {kinds or 'nothing to delete'}; {found.bytes:,} bytes. Nothing was deleted: {again}")
