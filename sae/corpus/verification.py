"""Verification of a whole corpus: every object is read and compared with the manifest."""

from collections.abc import Sequence

from sae.corpus.packing import TokenCorpus
from sae.corpus.splitting import SPLITS
from sae.corpus.text_record import read_text_record
from sae.errors import FailureError, InputError
from sae.storage import Place


def verify_corpus(place: Place) -> Sequence[str]:
    """Read every object of a corpus; returns one line for each that is not what it should be.

    Raises:
        InputError: there is no corpus.
        CorruptObjectError: its manifest was changed: then nothing vouches for the rest.
    """
    corpus, problems = TokenCorpus(place), []
    for split in SPLITS:
        first = 0
        for shard in corpus.manifest.shards(split):
            try:
                corpus.sequences(split, first, first + shard.sequences)
            except (InputError, FailureError) as error:
                problems.append(str(error))
            first += shard.sequences
    try:
        read_text_record(place, corpus.manifest.text_digest)
    except (InputError, FailureError) as error:
        problems.append(str(error))
    return problems
