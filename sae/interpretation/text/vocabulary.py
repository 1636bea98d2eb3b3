"""The vocabulary of an interpretation, `interpretation/vocabulary.json`: a run without its store and its model still shows its text.

{tokenizer_digest, pieces, hexadecimal, special, bytes_alone}: `pieces` holds the text of each token by id, in hexadecimal digits for
the tokens in `hexadecimal`, whose bytes are no whole characters; `special` and `bytes_alone` list tokens as `sae.subject.tokens_shown` has them.
"""

from typing import TYPE_CHECKING

from pydantic import NonNegativeInt

from sae.errors import CorruptObjectError
from sae.records import Record, get_record, put_record
from sae.storage import Place
from sae.subject.tokens_shown import TokenTexts

if TYPE_CHECKING:
    from sae.subject.tokenization import SubjectTokenizer

VOCABULARY_KEY = "vocabulary.json"


class VocabularyRecord(Record):
    """`vocabulary.json`."""

    tokenizer_digest: str
    pieces: list[str]
    hexadecimal: list[NonNegativeInt]
    special: list[NonNegativeInt]
    bytes_alone: list[NonNegativeInt]


def put_vocabulary(place: Place, tokenizer: "SubjectTokenizer") -> None:
    """Write the vocabulary of the subject beside the interpreted sources."""
    texts = tokenizer.token_texts
    hexadecimal = [token for token, piece in enumerate(texts.pieces) if not _is_text(piece)]
    written_so = set(hexadecimal)
    record = VocabularyRecord(
        tokenizer_digest=tokenizer.digest,
        pieces=[piece.hex() if token in written_so else piece.decode() for token, piece in enumerate(texts.pieces)],
        hexadecimal=hexadecimal,
        special=sorted(texts.special),
        bytes_alone=sorted(texts.bytes_alone),
    )
    put_record(place, VOCABULARY_KEY, record)


def read_vocabulary(place: Place, tokenizer_digest: str | None = None) -> TokenTexts:
    """Read the vocabulary of an interpretation, proved.

    Args:
        place: directory of the interpretation.
        tokenizer_digest: of the corpus that was interpreted, where it is known.

    Raises:
        InputError: there is none, or it is not what `put_vocabulary` writes.
        CorruptObjectError: it was changed, or is of another tokenizer.
    """
    record, where = get_record(place, VOCABULARY_KEY, VocabularyRecord), place.path(VOCABULARY_KEY)
    if tokenizer_digest not in (None, record.tokenizer_digest):
        raise CorruptObjectError(
            f"{where} is of a tokenizer with the digest {record.tokenizer_digest[:12]!r}, and the corpus was made with {tokenizer_digest[:12]!r}. "
            "Copy the right one there, or delete it and interpret again"
        )
    written_so = set(record.hexadecimal)
    try:
        pieces = [bytes.fromhex(piece) if token in written_so else piece.encode() for token, piece in enumerate(record.pieces)]
    except ValueError:
        raise CorruptObjectError(f"{where} holds a token that is not hexadecimal. Delete it and interpret again") from None
    return TokenTexts(pieces, record.special, record.bytes_alone)


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
