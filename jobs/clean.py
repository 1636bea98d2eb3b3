"""`monosem clean`: what lies in a store and belongs to nothing, and how to be rid of it."""

import argparse
from collections import Counter

from sae.storage import Place
from sae.store.garbage import delete_garbage, find_garbage
from sae.store.manifest import PLAN_KEY

SHOWN = 20


def clean_verb(options: argparse.Namespace) -> None:
    """Print what may go, and delete it where `--delete` says so.

    Raises:
        InputError: there is no store; or `--delete` where an object is explained by neither plan nor manifest.
        LeaseError: `--delete` while a harvest fills the store.
    """
    place = Place(options.url)
    if not place.exists(PLAN_KEY) and place.exists("stages.json"):
        place = place.child("store")
    found = delete_garbage(place) if options.delete else find_garbage(place)
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
    elif options.delete:
        print(f"{place.url}: deleted {kinds}; {found.bytes:,} bytes are free again")
    else:
        again = "--delete does it" if not found.unexplained else "--delete refuses while objects are unexplained"
        print(f"{place.url}: {kinds or 'nothing to delete'}; {found.bytes:,} bytes. Nothing was deleted: {again}")
